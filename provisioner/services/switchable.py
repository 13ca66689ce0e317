"""The VM of a node whose mode is to change: ours, there, and known to be on or off."""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import RefusedError
from provisioner.planning.ownership import Act, require
from provisioner.services.arbitration import Arbitration
from provisioner.services.looking import find_vm
from provisioner.services.world import World


def switchable_vm(fleet: FleetSpec, world: World, node: NodeSpec) -> VmSeen:
    """Return a node's VM. Raises RefusedError for one that is not to be switched, or not now."""
    if node.adopt:
        raise RefusedError(
            "cannot switch the mode: the node is adopted, so its guest knows neither our key nor we its host key",
            subject=node.subject,
            next_step="switch it in its own way; what it serves is what the first of its modes says",
        )
    vm = find_vm(world.clusters[fleet.cluster_of(node).name], node)
    require(node, vm, Act.SWITCH)
    if vm is None:
        raise RefusedError(
            "cannot switch the mode: its VM does not exist",
            subject=node.subject,
            next_step=f"provisioner up {node.name}",
        )
    if vm.power is Power.UNKNOWN:
        raise RefusedError(
            f"cannot switch the mode: whether its VM runs is unknown; {vm.hypervisor} has not reported for a while",
            subject=node.subject,
            next_step=f"see why in Proxmox; provisioner status {node.name}",
            retryable=True,
        )
    if vm.power is Power.STOPPED:
        # Whoever starts it has read the note already: its guest would come up in the mode before.
        Arbitration(fleet, world).require_not_starting(node, Act.SWITCH)
    return vm
