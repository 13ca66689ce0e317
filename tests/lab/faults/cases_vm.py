"""The VM: locks, VMIDs that others take, VMs that change hands."""

from __future__ import annotations

from provisioner.errors import HypervisorError, RefusedError, VmidTakenError, VmLockedError, VmMissingError
from tests.lab.faults.bench import SEED, Case, Yard
from tests.lab.faults.cases_api import CREATE, HASTY, START, made_once


def lock(name: str) -> object:
    return lambda yard: yard.lab.befall("vm_changed", vmid=5001, key="lock", value=name)


def unlock(yard: Yard) -> None:
    yard.lab.befall("vm_option_removed", vmid=5001, key="lock")


def locked_by(name: str) -> dict[str, object]:
    return {"vm_changed": {"vmid": 5001, "key": "lock", "value": name}}


UNLOCKED = {"vm_option_removed": {"vmid": 5001, "key": "lock"}}


def somebody_deletes(yard: Yard) -> None:
    yard.lab.befall("vm_deleted", vmid=5001)


def theirs_is_untouched(yard: Yard) -> None:
    guest = yard.ours()
    assert guest is not None
    assert guest.config.get("name", guest.config.get("hostname")) == "nextcloud2"


def retagged(yard: Yard) -> None:
    yard.lab.befall("vm_changed", vmid=5001, key="tags", value="provisioner")


def stolen(kind: str) -> dict[str, object]:
    return {"vmid_taken": {"vmid": 5001, "name": "nextcloud2", "kind": kind}}


def second_server(yard: Yard) -> None:
    from provisioner.lab.model import Node

    yard.lab.lab.cluster.nodes.save("pve2", Node("pve2"))
    yard.lab.befall("vm_moved", vmid=5001, node="pve2")


def moved_back(yard: Yard) -> None:
    yard.lab.befall("vm_moved", vmid=5001, node="pve1")
    yard.lab.lab.cluster.nodes.remove("pve2")


CASES = (
    *(
        Case(
            f"the VM is locked ({name})",
            verb,
            given,
            before=lock(name),
            error=RefusedError,
            says=[f"its VM is locked ({name})"],
            then=["wait for the backup, snapshot, migration", "qm unlock 5001"],
            left=left,
            mend=unlock,
        )
        for name, verb, given, left in (
            ("backup", "wake", "asleep", "stopped"),
            ("snapshot", "sleep", "awake", "running"),
            ("migrate", "destroy", "asleep", "stopped"),
            ("rollback", "up", "asleep", "stopped"),
        )
    ),
    *(
        Case(
            f"a {name} begins between look and {what}",
            verb,
            given,
            rules=[{"method": "POST", "path": path, "happens": locked_by(name), "times": 1}],
            error=VmLockedError,
            says=[f"VM is locked ({name})"],
            then=[f"wait for the {name} to end"],
            left=left,
            mend=unlock,
        )
        for name, verb, given, what, path, left in (
            ("backup", "wake", "asleep", "start", START, "stopped"),
            ("backup", "sleep", "awake", "shutdown", "/status/shutdown$", "running"),
            ("snapshot", "up", "asleep", "start", START, "stopped"),
        )
    ),
    Case(
        "the VM is being cloned for a moment",
        "wake",
        "asleep",
        before=lock("clone"),
        rules=[{"method": "GET", "path": "/qemu/5001/status/current$", "skip": 2, "happens": UNLOCKED, "times": 1}],
        left="running",
    ),
    Case(
        "the VM stays in creation",
        "wake",
        "asleep",
        before=lock("create"),
        times=HASTY,
        error=RefusedError,
        says=["its VM is locked (create)"],
        then=["creation that holds it"],
        left="stopped",
        mend=unlock,
    ),
    Case(
        "another task holds the VM's configuration for a moment",
        "up",
        "asleep",
        rules=[{"task": "qmstart", "says": "lock_timeout", "times": 2}],
        left="running",
    ),
    Case(
        "another task holds the VM's configuration",
        "wake",
        "asleep",
        rules=[{"task": "qmstart", "says": "lock_timeout"}],
        times=HASTY,
        error=VmLockedError,
        says=["can't lock file '/var/lock/qemu-server/lock-5001.conf' - got timeout"],
        then=["another task works on VM 5001"],
        left="stopped",
    ),
    Case(
        "the cluster's lock on a storage is taken for a moment",
        "up",
        rules=[{"task": "qmcreate", "says": "storage_locked", "times": 1}],
        left="running",
        ends=lambda yard: None,
    ),
    Case(
        "the VM's notes cannot be locked for a moment",
        "up",
        rules=[{"method": "PUT", "path": "/qemu/5001/config$", "says": "lock_timeout", "times": 2}],
        left="running",
    ),
    Case(
        "the VM becomes protected before it is deleted",
        "destroy",
        "asleep",
        rules=[
            {
                "method": "DELETE",
                "path": "/qemu/5001$",
                "happens": {"vm_changed": {"vmid": 5001, "key": "protection", "value": "1"}},
                "times": 1,
            }
        ],
        error=HypervisorError,
        says=["cannot delete VM 5001", "protection mode enabled"],
        then=["Options > Protection"],
        left="stopped",
        mend=lambda yard: yard.lab.befall("vm_option_removed", vmid=5001, key="protection"),
    ),
    Case(
        "somebody paused the VM",
        "sleep",
        "awake",
        rules=[{"method": "POST", "path": "/status/shutdown$", "happens": {"vm_paused": {"vmid": 5001}}, "times": 1}],
        error=HypervisorError,
        says=["VM is paused - cannot shutdown"],
        then=["resume it"],
        left="running",
        mend=lambda yard: yard.lab.befall("vm_resumed", vmid=5001),
    ),
    Case(
        "somebody starts the VM before it is deleted",
        "destroy",
        "asleep",
        rules=[{"method": "DELETE", "path": "/qemu/5001$", "happens": {"vm_started": {"vmid": 5001}}, "times": 1}],
        error=HypervisorError,
        says=["VM 5001 is running - destroy failed"],
        then=["started meanwhile"],
        left="running",
    ),
    *(
        Case(
            f"another writer takes the VMID between look and creation, for a {kind}",
            "up",
            rules=[{"method": "POST", "path": CREATE, "happens": stolen(kind), "times": 1}],
            error=RefusedError,
            says=["vmid 5001 belongs to VM", "nextcloud2"],
            then=["another vmid"],
            ends=theirs_is_untouched,
            mend=somebody_deletes,
        )
        for kind in ("vm", "template", "container")
    ),
    Case(
        "the VMID belongs to a VM that is out of our sight",
        "up",
        rules=[
            {
                "method": "POST",
                "path": CREATE,
                "status": 500,
                "reason": "unable to create VM 5001 - VM 5001 already exists on node 'pve1'",
            }
        ],
        error=VmidTakenError,
        says=["already exists on node 'pve1'"],
        then=["another vmid in the fleet file"],
        left="absent",
    ),
    Case(
        "the VM loses our tag before it is shut down",
        "sleep",
        "awake",
        rules=[
            {
                "method": "GET",
                "path": "/qemu/5001/status/current$",
                "skip": 1,
                "happens": {"vm_changed": {"vmid": 5001, "key": "tags", "value": "mine"}},
                "times": 1,
            }
        ],
        error=RefusedError,
        says=['does not carry the tag "provisioner"'],
        then=["only a VM with tag"],
        left="running",
        mend=retagged,
    ),
    Case(
        "the VM loses our tag before it is deleted",
        "destroy",
        "asleep",
        rules=[
            {
                "method": "GET",
                "path": "/qemu/5001/status/current$",
                "skip": 1,
                "happens": {"vm_changed": {"vmid": 5001, "key": "tags", "value": "mine"}},
                "times": 1,
            }
        ],
        error=RefusedError,
        says=['does not carry the tag "provisioner"'],
        then=["only a VM with tag"],
        left="stopped",
        mend=retagged,
    ),
    Case(
        "somebody deletes the VM before it is started",
        "wake",
        "asleep",
        rules=[{"method": "POST", "path": START, "happens": {"vm_deleted": {"vmid": 5001}}, "times": 1}],
        error=VmMissingError,
        says=["cannot start VM 5001", "does not exist"],
        then=["it looks first"],
        left="absent",
    ),
    Case(
        "somebody deletes the VM before it is shut down",
        "sleep",
        "awake",
        rules=[{"method": "POST", "path": "/status/shutdown$", "happens": {"vm_deleted": {"vmid": 5001}}, "times": 1}],
        says=["shut down"],
        left="absent",
    ),
    Case(
        "the VM has moved to another server",
        "wake",
        "asleep",
        before=second_server,
        error=RefusedError,
        says=["its VM is on pve2, not on pve1"],
        then=["write hypervisor: pve2"],
        mend=moved_back,
    ),
    Case(
        "somebody deletes the seed of a sleeping VM",
        "wake",
        "asleep",
        before=lambda yard: yard.lab.befall("volume_deleted", volume=f"local:iso/{SEED}"),
        error=HypervisorError,
        says=["volume 'local:iso/llm-gpu-01-5001-", "-seed.iso' does not exist"],
        then=["provisioner up makes what is missing"],
        left="stopped",
    ),
    Case(
        "somebody deletes the seed of a sleeping VM",
        "up",
        "asleep",
        before=lambda yard: yard.lab.befall("volume_deleted", volume=f"local:iso/{SEED}"),
        says=["seal seed"],
        left="running",
    ),
)
__all__ = ["CASES", "made_once"]
