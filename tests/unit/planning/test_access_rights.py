"""Which rights a fleet needs, and which of them somebody lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import ClusterName
from provisioner.planning.access import Permissions, Right, Verb, is_held, missing_rights, needed_rights, rights_by_path
from tests.fleets import FLEET, NATIVE, fleet_from

HOME = ClusterName("homelab")


def rights(fleet: FleetSpec, major: int = 9) -> tuple[Right, ...]:
    return needed_rights(fleet, fleet.clusters[HOME], major)


def work(fleet: FleetSpec, major: int = 9) -> dict[str, str]:
    """What nodes need to come and go."""
    needed = [right for right in rights(fleet, major) if not right.optional and not right.is_for_doctor_only]
    return {path: " ".join(privileges) for path, privileges in rights_by_path(needed).items()}


LEAST = {
    "/nodes/pve1": "Sys.AccessNetwork",
    "/vms": "VM.Allocate VM.Audit VM.Config.CPU VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network"
    " VM.Config.Options VM.PowerMgmt",
    "/storage/local-lvm": "Datastore.AllocateSpace Datastore.Audit",
    "/storage/local": "Datastore.AllocateTemplate Datastore.Audit",
    "/sdn/zones/localnetwork/vmbr0": "SDN.Use",
    "/mapping/pci/rtx3090": "Mapping.Use",
}


@pytest.mark.parametrize("major", [8, 9])
def test_what_nodes_need_is_the_same_in_both_versions(tmp_path: Path, major: int) -> None:
    assert work(fleet_from(tmp_path), major) == LEAST


def test_one_storage_for_everything_gets_everything(tmp_path: Path) -> None:
    one = FLEET.replace("{disks: local-lvm, images: local, iso: local}", "{disks: data, images: data, iso: data}")
    assert work(fleet_from(tmp_path, one))["/storage/data"] == (
        "Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit"
    )


def test_images_and_seeds_on_storages_of_their_own(tmp_path: Path) -> None:
    apart = FLEET.replace("images: local, iso: local", "images: fast, iso: shared")
    needed = {(right.path, right.privilege): right for right in rights(fleet_from(tmp_path, apart))}
    assert needed["/storage/fast", "Datastore.AllocateTemplate"].requests == (
        "POST /nodes/{node}/storage/{storage}/download-url",
    )
    assert needed["/storage/shared", "Datastore.AllocateTemplate"].requests == (
        "POST /nodes/{node}/storage/{storage}/upload",
    )
    assert [path for path, privilege in needed if privilege == "Datastore.Allocate"] == ["/storage/shared"]


@pytest.mark.parametrize(("major", "privilege"), [(8, "VM.Monitor"), (9, "VM.GuestAgent.Unrestricted")])
def test_only_simulated_guests_are_reached_by_their_agent(tmp_path: Path, major: int, privilege: str) -> None:
    simulated = FLEET.replace("    bridge: vmbr0", "    bridge: vmbr0\n    guests: simulated")
    assert privilege in work(fleet_from(tmp_path, simulated), major)["/vms"]
    assert privilege not in work(fleet_from(tmp_path), major)["/vms"]


def test_rights_name_who_needs_them(tmp_path: Path) -> None:
    needed = {str(right): right for right in rights(fleet_from(tmp_path))}
    assert needed["VM.PowerMgmt on /vms"].verbs == (
        Verb.UP,
        Verb.WAKE,
        Verb.SLEEP,
        Verb.IDLE,
        Verb.DESTROY,
        Verb.MODE,
    )
    assert needed["VM.Audit on /vms"].verbs == tuple(Verb)
    for mine in ("Sys.Audit on /", "Sys.Audit on /nodes/pve1"):
        assert needed[mine].is_for_doctor_only
    assert not needed["Sys.Audit on /"].propagate
    assert [str(right) for right in needed.values() if right.optional] == [
        "Sys.Syslog on /nodes/pve1",
        "VM.Clone on /vms",
        "VM.Config.CDROM on /vms",
        "Datastore.Allocate on /storage/local",
    ]
    assert [str(right) for right in needed.values() if right.optional and right.granted] == [
        "VM.Clone on /vms",
        "VM.Config.CDROM on /vms",
    ]


def test_another_clusters_servers_and_gpus_are_not_asked_for(tmp_path: Path) -> None:
    two = FLEET.replace(
        "hypervisors:\n",
        "  office:\n    api: https://10.20.0.2:8006\n    token: {id: provisioner@pve!fleet, secret: env:X}\n"
        "    storage: {disks: zfs, images: nas, iso: nas}\n    bridge: vmbr7\n"
        "hypervisors:\n  far: {cluster: office, gpus: {a100: {mapping: a100}}}\n",
    )
    fleet = fleet_from(tmp_path, two)
    assert work(fleet) == LEAST
    office = needed_rights(fleet, fleet.clusters[ClusterName("office")], 9)
    assert set(rights_by_path(office)) == {
        "/",
        "/nodes/far",
        "/vms",
        "/storage/zfs",
        "/storage/nas",
        "/sdn/zones/localnetwork/vmbr7",
        "/mapping/pci/a100",
    }


def granted(needed: tuple[Right, ...]) -> dict[str, dict[str, int]]:
    """The answer of Proxmox to somebody with exactly these rights."""
    held: dict[str, dict[str, int]] = {}
    for right in needed:
        held.setdefault(right.path, {})[right.privilege] = int(right.propagate)
    return held


def test_somebody_with_every_right_lacks_none(tmp_path: Path) -> None:
    needed = rights(fleet_from(tmp_path))
    assert missing_rights(granted(needed), needed) == ()
    assert missing_rights({}, needed) == needed


def test_each_right_that_is_not_there_is_missed(tmp_path: Path) -> None:
    needed = rights(fleet_from(tmp_path))
    for right in needed:
        permissions = granted(needed)
        del permissions[right.path][right.privilege]
        assert missing_rights(permissions, needed) == (right,)


def test_a_right_on_vms_that_reaches_no_vm_is_missing(tmp_path: Path) -> None:
    needed = rights(fleet_from(tmp_path))
    permissions = granted(needed)
    permissions["/vms"]["VM.Audit"] = 0
    assert [str(right) for right in missing_rights(permissions, needed)] == ["VM.Audit on /vms"]


def test_a_right_on_the_vms_of_the_fleet_is_enough(tmp_path: Path) -> None:
    needed = rights(fleet_from(tmp_path))
    permissions = granted(needed)
    everything = permissions.pop("/vms")
    permissions |= {"/vms/5001": everything, "/vms/5002": everything}
    assert missing_rights(permissions, needed) == ()


@pytest.mark.parametrize(
    ("permissions", "held"),
    [
        ({"/vms/1": {"P": 0}}, True),
        ({"/vms/1": {"P": 1}}, True),
        ({"/vms": {"P": 1}}, True),
        ({"/vms": {"P": 0}}, False),
        ({"/": {"P": 1}}, True),
        ({"/": {"P": 0}}, False),
        # A rule that is passed on replaces what came from above; one that is not leaves it alone.
        ({"/": {"P": 1}, "/vms": {"Other": 1}}, False),
        ({"/": {"P": 1}, "/vms": {"Other": 0}}, True),
        ({"/": {"P": 1}, "/vms": {"P": 0, "Other": 1}}, False),
        ({"/": {"P": 1}, "/vms/1": {"Other": 1}}, False),
        ({"/": {"P": 1}, "/vms/1": {}}, False),
        ({"/vms/12": {"P": 1}}, False),
        ({}, False),
    ],
)
def test_what_is_listed_above_a_path_reaches_it_as_in_proxmox(permissions: Permissions, held: bool) -> None:
    assert is_held(permissions, "/vms/1", "P") is held


@pytest.mark.parametrize(("major", "reads"), [(8, "VM.Monitor"), (9, "VM.GuestAgent.FileRead")])
def test_drives_that_proxmox_makes_take_three_more(tmp_path: Path, major: int, reads: str) -> None:
    fleet = fleet_from(tmp_path, NATIVE)
    more = set(work(fleet, major)["/vms"].split()) - set(LEAST["/vms"].split())
    assert more == {"VM.Config.CDROM", "VM.Config.Cloudinit", reads}
    assert work(fleet, major) | {"/vms": ""} == LEAST | {"/vms": ""}
    needed = {right.privilege: right for right in rights(fleet, major)}
    assert {needed[each].verbs for each in more} == {(Verb.UP,)}


def test_adopted_vms_and_other_clusters_drives_take_nothing_more(tmp_path: Path) -> None:
    one = "modes: [small], cloud_init: proxmox, nameservers: [10.10.0.1]}"
    two = FLEET.replace(
        "hypervisors:\n",
        "  office:\n    api: https://10.20.0.2:8006\n    token: {id: provisioner@pve!fleet, secret: env:X}\n"
        "    storage: {disks: a0, images: a1, iso: a2}\nhypervisors:\n  pve7: {cluster: office}\n",
    ).replace("gpus: [rtx3090], modes: [small]}", one, 1)
    text = two.replace("llm-gpu-02: {hypervisor: pve1", "llm-gpu-02: {hypervisor: pve7")
    assert "cloud_init" in text
    assert work(fleet_from(tmp_path, text)) == LEAST
    assert "VM.Config.Cloudinit" in str(
        needed_rights(fleet_from(tmp_path, text), fleet_from(tmp_path, text).clusters[ClusterName("office")], 9)
    )
