"""Takes seed ISOs off a storage, as far as the token may."""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import StorageName
from provisioner.errors import PermissionMissingError
from provisioner.planning.vm_shape import is_seed_of
from provisioner.ports.hypervisors import Hypervisors
from provisioner.ports.seeds import Seeds


def remove_seed(
    api: Hypervisors, seeds: Seeds, fleet: FleetSpec, node: NodeSpec, storage: StorageName, volume: str
) -> bool:
    """Delete a seed; where the token may not, leave no secret in it, and return False."""
    try:
        api.delete_iso(node.hypervisor, storage, volume)
    except PermissionMissingError:
        # The narrow role may replace an ISO but not delete one; what matters is that no key stays behind.
        api.upload_iso(node.hypervisor, storage, volume, seeds.sealed_seed(fleet, node, ""))
        return False
    return True


def remove_seeds(
    api: Hypervisors, seeds: Seeds, fleet: FleetSpec, node: NodeSpec, storage: StorageName, *, keep: str
) -> None:
    """Remove every seed that was made for a node but the one that its VM names.

    Only once that VM is there: before, another machine's may be about to be named by one.
    """
    for volume in sorted(api.volumes(node.hypervisor, storage, "iso")):
        if is_seed_of(node, volume) and volume != keep:
            remove_seed(api, seeds, fleet, node, storage, volume)
