"""Rights: inheritance, separation of tokens, pools, and who is never root."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.lab.access import Access
from provisioner.lab.cluster import Cluster
from provisioner.lab.harness import RunningLab
from provisioner.lab.model import AclEntry, Group, Pool, Role, Token, User
from provisioner.lab.refusals import Refusal
from provisioner.lab.store import Store


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    cluster = Cluster(Store(tmp_path / "db"))
    cluster.users.save("ann@pve", User("ann@pve", groups=["ops"]))
    cluster.groups.save("ops", Group("ops"))
    cluster.tokens.save("ann@pve!sep", Token("ann@pve!sep", "x"))
    cluster.tokens.save("ann@pve!same", Token("ann@pve!same", "x", privsep=False))
    cluster.tokens.save("root@pam!tok", Token("root@pam!tok", "x", privsep=False))
    cluster.roles.save("Power", Role("Power", ["VM.PowerMgmt", "VM.Audit"]))
    cluster.roles.save("Look", Role("Look", ["VM.Audit"]))
    return cluster


def grant(cluster: Cluster, path: str, who: str, role: str, *, kind: str = "user", propagate: bool = True) -> None:
    entry = AclEntry(path, kind, who, role, propagate)
    cluster.acl.save(entry.key, entry)


def held(cluster: Cluster, who: str, path: str) -> set[str]:
    return set(Access(cluster, 9).privileges(who, path))


def test_a_rule_holds_below_its_path(cluster: Cluster) -> None:
    grant(cluster, "/vms", "ann@pve", "Power")
    assert held(cluster, "ann@pve", "/vms/5001") == {"VM.PowerMgmt", "VM.Audit"}
    assert held(cluster, "ann@pve", "/nodes") == set()


def test_a_rule_without_propagation_holds_on_its_path_only(cluster: Cluster) -> None:
    grant(cluster, "/vms", "ann@pve", "Power", propagate=False)
    assert held(cluster, "ann@pve", "/vms") == {"VM.PowerMgmt", "VM.Audit"}
    assert held(cluster, "ann@pve", "/vms/5001") == set()


def test_a_deeper_rule_replaces_an_inherited_one(cluster: Cluster) -> None:
    grant(cluster, "/vms", "ann@pve", "Power")
    grant(cluster, "/vms/5001", "ann@pve", "Look")
    assert held(cluster, "ann@pve", "/vms/5001") == {"VM.Audit"}


def test_no_access_outranks_everything(cluster: Cluster) -> None:
    grant(cluster, "/vms", "ann@pve", "Power")
    grant(cluster, "/vms/5001", "ann@pve", "NoAccess")
    assert held(cluster, "ann@pve", "/vms/5001") == set()


def test_a_users_own_rule_outranks_that_of_a_group(cluster: Cluster) -> None:
    grant(cluster, "/vms", "ops", "Power", kind="group")
    assert held(cluster, "ann@pve", "/vms/1") == {"VM.PowerMgmt", "VM.Audit"}
    grant(cluster, "/vms", "ann@pve", "Look")
    assert held(cluster, "ann@pve", "/vms/1") == {"VM.Audit"}


def test_a_separated_token_has_what_both_have(cluster: Cluster) -> None:
    grant(cluster, "/vms", "ann@pve", "Look")
    assert held(cluster, "ann@pve!sep", "/vms/1") == set()
    grant(cluster, "/vms", "ann@pve!sep", "Power", kind="token")
    assert held(cluster, "ann@pve!sep", "/vms/1") == {"VM.Audit"}


def test_an_unseparated_token_has_what_its_user_has(cluster: Cluster) -> None:
    grant(cluster, "/vms", "ann@pve", "Power")
    assert held(cluster, "ann@pve!same", "/vms/1") == {"VM.PowerMgmt", "VM.Audit"}


def test_a_pool_brings_rights_to_its_members(cluster: Cluster) -> None:
    cluster.pools.save("gpu", Pool("gpu", vms=[5001]))
    grant(cluster, "/pool/gpu", "ann@pve", "Power")
    assert held(cluster, "ann@pve", "/vms/5001") == {"VM.PowerMgmt", "VM.Audit"}
    assert held(cluster, "ann@pve", "/vms/5002") == set()


def test_the_agent_privileges_differ_by_version(cluster: Cluster) -> None:
    assert "VM.Monitor" in Access(cluster, 8).privileges("root@pam", "/")
    assert "VM.Monitor" not in Access(cluster, 9).privileges("root@pam", "/")
    assert "VM.GuestAgent.Audit" in Access(cluster, 9).privileges("root@pam", "/")


def test_roots_token_may_not_set_what_only_root_may(lab: RunningLab) -> None:
    lab.call("POST", "/access/users/root@pam/token/tok", privsep="0")
    with pytest.raises(Refusal) as refusal:
        lab.call("POST", "/nodes/pve1/qemu", who="root@pam!tok", vmid="900", hostpci0="0000:01:00,pcie=1")
    assert refusal.value.message == "only root can set 'hostpci0' config for non-mapped devices"
    lab.call("POST", "/nodes/pve1/qemu", vmid="900", hostpci0="0000:01:00,pcie=1")


def test_nobody_passes_on_more_than_they_have(lab: RunningLab) -> None:
    rule = {"path": "/vms/5001", "roles": "Administrator", "users": "provisioner@pve"}
    with pytest.raises(Refusal) as refusal:
        lab.call("PUT", "/access/acl", who="provisioner@pve!fleet", **rule)
    assert refusal.value.message.startswith("ACL update failed")


def test_the_default_token_has_the_least_it_needs_and_no_more(lab: RunningLab) -> None:
    rights = lab.call("GET", "/access/permissions", who="provisioner@pve!fleet")
    assert rights["/"] == {"Sys.Audit": 0}
    assert rights["/mapping/pci/rtx3090"] == {"Mapping.Use": 1}
    assert "Datastore.Allocate" not in rights["/storage/local-lvm"]
    assert "Sys.Modify" not in rights["/nodes/pve1"]
    assert "VM.Snapshot" not in rights["/vms"]


def test_the_list_of_rights_has_the_fixed_paths_and_every_step_to_a_rule(cluster: Cluster) -> None:
    grant(cluster, "/", "ann@pve", "Power")
    grant(cluster, "/mapping/pci/card", "ann@pve", "NoAccess")
    listed = Access(cluster, 9).everything("ann@pve")
    assert {"/", "/nodes", "/vms", "/mapping", "/mapping/pci"} <= set(listed)
    # Where somebody has nothing there is no line, and a path without a rule of its own has none either.
    assert "/mapping/pci/card" not in listed
    assert "/mapping/usb" not in listed
