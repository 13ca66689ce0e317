"""What a wake needs from wherever the node is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import ProvisionerError, RefusedError


class WakeNeed(Enum):
    """What is between a node and an answer."""

    START = "start"
    PROOF = "proof"


@dataclass(frozen=True, slots=True)
class WakeDecision:
    """The need, with its reason."""

    need: WakeNeed
    reason: str


def wake_decision(node: NodeSpec, vm: VmSeen | None, subject: str) -> WakeDecision:
    """Say what a wake needs.

    Raises:
        RefusedError: there is nothing of ours to wake, or it must not be touched now.
    """
    refusal = _refusal(node, vm, subject)
    if refusal is not None:
        raise refusal
    assert vm is not None  # noqa: S101 - _refusal covers it
    if vm.power is Power.RUNNING:
        return WakeDecision(WakeNeed.PROOF, "the VM runs already")
    return WakeDecision(WakeNeed.START, "the VM is off")


def _refusal(node: NodeSpec, vm: VmSeen | None, subject: str) -> ProvisionerError | None:
    if vm is None:
        return RefusedError(
            "cannot wake the node: its VM does not exist", subject=subject, next_step=f"provisioner up {node.name}"
        )
    if not vm.is_ours or vm.name != node.name:
        tags = ", ".join(sorted(vm.tags)) or "none"
        return RefusedError(
            f'cannot wake the node: VM {vm.vmid} is "{vm.name}" (tags: {tags}), not ours',
            subject=subject,
            next_step="check vmid in the fleet file",
        )
    # A suspended VM starts; every other lock makes Proxmox refuse.
    if vm.lock not in (None, "suspended"):
        return RefusedError(
            f"cannot wake the node: its VM is locked ({vm.lock})",
            subject=subject,
            next_step="wait for the backup, snapshot, migration or creation that holds it, then try again",
            retryable=True,
        )
    return None
