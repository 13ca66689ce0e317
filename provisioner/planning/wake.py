"""What a wake needs from wherever the node is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import RefusedError
from provisioner.planning.ownership import require_own


class WakeNeed(Enum):
    """What is between a node and an answer."""

    START = "start"
    PROOF = "proof"


@dataclass(frozen=True, slots=True)
class WakeDecision:
    """The need, with its reason."""

    need: WakeNeed
    reason: str


def wake_decision(node: NodeSpec, vm: VmSeen | None) -> WakeDecision:
    """Say what a wake needs.

    Raises:
        RefusedError: there is nothing of ours to wake, or it must not be touched now.
    """
    if vm is None:
        raise RefusedError(
            "cannot wake the node: its VM does not exist", subject=node.subject, next_step=f"provisioner up {node.name}"
        )
    require_own(vm, node, "wake the node")
    # A suspended VM starts; every other lock makes Proxmox refuse.
    if vm.lock not in (None, "suspended"):
        raise RefusedError(
            f"cannot wake the node: its VM is locked ({vm.lock})",
            subject=node.subject,
            next_step="wait for the backup, snapshot, migration or creation that holds it, then try again",
            retryable=True,
        )
    if vm.power is Power.RUNNING:
        return WakeDecision(WakeNeed.PROOF, "the VM runs already")
    return WakeDecision(WakeNeed.START, "the VM is off")
