"""What a wake needs from wherever the node is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import RefusedError
from provisioner.planning.ownership import Act, require


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

    Args:
        node: which.
        vm: the VM with its VMID, wherever in the cluster it is.

    Raises:
        RefusedError: there is nothing to wake, or it must not be touched now.
    """
    require(node, vm, Act.WAKE)
    if vm is not None and vm.power is Power.RUNNING:
        return WakeDecision(WakeNeed.PROOF, "the VM runs already")
    return WakeDecision(WakeNeed.START, "the VM is off")


def require_gpus(fleet: FleetSpec, node: NodeSpec) -> None:
    """Let a wake pass only if the node has its GPUs itself. Raises RefusedError."""
    release = fleet.release_of(node)
    if release is not None:
        raise RefusedError(
            f'cannot wake the node: its GPUs are given to VM {release.vmid} (mode "{release.name}")',
            subject=node.subject,
            next_step=f"provisioner mode {node.name} {fleet.mode_of(node).name} takes them back",
        )
