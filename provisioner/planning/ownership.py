"""May this be done to that VM? The one rule before anything is changed, started, stopped or deleted. Pure.

Every act asks the same question of the VM that has the node's VMID, wherever
in the cluster it is: is it there, is it ours, is it where the fleet file says,
is it free. An adopted VM is somebody else's work: it is woken and put to sleep
on the fleet file's word, which names exactly that VMID, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.conventions import TAG
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.names import Vmid
from provisioner.domain.snapshot import VmSeen
from provisioner.errors import RefusedError


class Act(Enum):
    """What is about to happen, in the words of a refusal."""

    PROVISION = "provision the node"
    WAKE = "wake the node"
    SLEEP = "put the node to sleep"
    DESTROY = "destroy it"
    SWITCH = "switch the mode"


class Why(Enum):
    """Why an act is not to be done."""

    MISSING = "missing"
    FOREIGN = "foreign"
    ELSEWHERE = "elsewhere"
    LOCKED = "locked"
    HALTED = "halted"
    ADOPTED = "adopted"


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an act is not to be done, and what to do about that."""

    why: Why
    reason: str
    next_step: str
    retryable: bool = False


def is_nodes_own(vm: VmSeen, node: NodeSpec) -> bool:
    """Say whether a VM was made for this node: it carries our tag and the node's name."""
    return vm.is_ours and vm.name == node.name


def has_power_over(vm: VmSeen, node: NodeSpec) -> bool:
    """Say whether a VM may be started and shut down for this node: it is the node's own, or the one it adopts."""
    return is_nodes_own(vm, node) or (node.adopt and vm.vmid == node.vmid)


def objection(node: NodeSpec, vm: VmSeen | None, act: Act) -> Objection | None:
    """Return why an act on a node's VM is not to be done, or None.

    Args:
        node: whose VM it should be.
        vm: the VM with the node's VMID, wherever in the cluster it is; None when there is none.
        act: what is about to happen.
    """
    if act is Act.DESTROY and node.adopt:
        return Objection(
            Why.ADOPTED,
            "its VM is adopted, not made by us",
            f"take {node.name} out of the fleet file; the VM itself is yours to delete, in Proxmox",
        )
    if vm is None:
        return _missing(node, act)
    if vm.is_being_made and (act is not Act.PROVISION or node.adopt or vm.hypervisor != node.hypervisor):
        # What is being created shows neither name nor tags: whose it is cannot be told yet.
        return _locked(node, vm)
    if vm.is_being_made:
        # Waited for, and judged again once it shows whose it is.
        return None
    if vm.is_container or not has_power_over(vm, node):
        return _foreign(node, vm)
    if vm.hypervisor != node.hypervisor:
        return Objection(
            Why.ELSEWHERE,
            f"its VM is on {vm.hypervisor}, not on {node.hypervisor}",
            f"write hypervisor: {vm.hypervisor} for {node.name} in the fleet file, or move the VM back",
        )
    # A suspended VM starts; every other lock makes Proxmox refuse.
    if vm.lock is not None and not (act is Act.WAKE and vm.lock == "suspended"):
        return _locked(node, vm)
    if vm.halt is not None and act in (Act.PROVISION, Act.WAKE):
        # Its guest would be waited for until all patience is gone.
        return halted(vm)
    return None


def halted(vm: VmSeen) -> Objection:
    """Return what to say of a VM that has power and stands still."""
    cause = {
        "io-error": "its storage takes no more writes, mostly for want of space: free some on that storage, then ",
        "paused": "somebody paused it: ",
    }.get(vm.halt or "", "see its console, then stop it, or ")
    return Objection(
        Why.HALTED,
        f"its VM has power and stands still ({vm.halt})",
        f"{cause}resume it (Proxmox > VM {vm.vmid} > Resume)",
    )


def require(node: NodeSpec, vm: VmSeen | None, act: Act) -> None:
    """Let an act pass only if nothing objects to it.

    Args:
        node: whose VM it should be.
        vm: as it is right now; read again right before every stop and delete.
        act: what is about to happen.

    Raises:
        RefusedError: with the reason and what to do.
    """
    found = objection(node, vm, act)
    if found is not None:
        raise refusal(node, found, act)


def refusal(node: NodeSpec, found: Objection, act: Act) -> RefusedError:
    """Return an objection as the error to raise."""
    return RefusedError(
        f"cannot {act.value}: {found.reason}",
        subject=node.subject,
        next_step=found.next_step,
        retryable=found.retryable,
    )


def free_vmid(node: NodeSpec, vms: Mapping[Vmid, VmSeen], wanted: Collection[Vmid] = ()) -> Vmid:
    """Return the next VMID that no VM in sight has, and that no node of the fleet is to get: `wanted`."""
    vmid = node.vmid
    while vmid in vms or (vmid in wanted and vmid != node.vmid):
        vmid = Vmid(vmid + 1)
    return vmid


def _missing(node: NodeSpec, act: Act) -> Objection | None:
    if node.adopt:
        return Objection(
            Why.MISSING,
            f"there is no VM {node.vmid} to adopt",
            "write the vmid of the VM that is meant, or take adopt: true away to have one made",
        )
    if act is Act.WAKE:
        return Objection(Why.MISSING, "its VM does not exist", f"provisioner up {node.name}")
    return None


def _foreign(node: NodeSpec, vm: VmSeen) -> Objection:
    tags = ", ".join(sorted(vm.tags)) or "none"
    reason = "made for another node" if vm.is_ours else f'it does not carry the tag "{TAG}"'
    if vm.is_container:
        reason = "it is a container"
    return Objection(
        Why.FOREIGN,
        f'vmid {vm.vmid} belongs to VM "{vm.name}" on {vm.hypervisor} (tags: {tags}), not ours: {reason}',
        f'only a VM with tag "{TAG}" and the node\'s name is touched; give {node.name} another vmid in the fleet file',
    )


def _locked(node: NodeSpec, vm: VmSeen) -> Objection:
    if vm.lock == "suspended":
        # Nothing holds it: its memory is on the disk, and taking the lock off would throw that away.
        return Objection(
            Why.LOCKED,
            "its VM is locked (suspended): somebody put it to disk",
            f"provisioner wake {node.name} lets it go on where it was, then the same command again",
        )
    # A crash leaves the lock behind; only a person can tell that from work under way.
    return Objection(
        Why.LOCKED,
        f"its VM is locked ({vm.lock})",
        "wait for the backup, snapshot, migration or creation that holds it; "
        f"if none runs (Proxmox > Tasks), a crash left the lock: qm unlock {vm.vmid}",
        retryable=True,
    )
