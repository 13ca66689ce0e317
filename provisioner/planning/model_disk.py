"""A disk for models alone: made, grown, and what stands in its way. Pure.

It is never taken away again: whoever writes it out of the fleet file keeps disk and models until the node is destroyed.
"""

from __future__ import annotations

from provisioner.domain.actions import AddModelDisk, GrowDisk, Refusal, Step, StepKind
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.model_keeping import MODEL_FOLDER, VmDisk
from provisioner.domain.quantities import size_text
from provisioner.domain.snapshot import VmConfig


def model_disk_steps(fleet: FleetSpec, node: NodeSpec, config: VmConfig | None) -> tuple[Step, ...]:
    """Return the step that makes or grows the model disk of a VM; none where it is as it should be.

    Args:
        fleet: what is wanted.
        node: whose.
        config: what its VM has; None while it is being made.
    """
    storage, wanted = fleet.model_storage(node), node.models.disk_bytes
    if storage is None or wanted is None:
        return ()
    seen = config.model_disk if config is not None else None
    if seen is None:
        made = AddModelDisk(node.vmid, storage, wanted)
        reason = f"{size_text(wanted)} on {storage}; the guest gets it at {MODEL_FOLDER}"
        return (Step("model disk", StepKind.CHANGE, made, reason),)
    if seen.size_bytes >= wanted:
        return ()
    reason = f"the model disk has {size_text(seen.size_bytes)}, wanted are {size_text(wanted)}"
    return (Step("grow model disk", StepKind.CHANGE, GrowDisk(node.vmid, wanted, VmDisk.MODELS), reason),)


def model_disk_refusal(fleet: FleetSpec, node: NodeSpec, config: VmConfig) -> Refusal | None:
    """Return why the model disk cannot become the wanted one, or None."""
    storage, wanted, seen = fleet.model_storage(node), node.models.disk_bytes, config.model_disk
    if storage is None or wanted is None or seen is None:
        return None
    if not seen.is_ours:
        return Refusal(
            "the place of the model disk, scsi1, is taken by a disk that is not ours",
            f"move that disk to another place (Proxmox > VM {node.vmid} > Hardware), or leave model_disk out",
        )
    if seen.size_bytes > wanted:
        has = size_text(seen.size_bytes)
        return Refusal(
            f"the model disk has {has}, wanted are {size_text(wanted)}: disks only grow",
            f"write model_disk: {has} for {node.name}",
        )
    if seen.storage != storage:
        return Refusal(
            f'the model disk is on storage "{seen.storage}", wanted is "{storage}"',
            f"move it (Proxmox > VM {node.vmid} > Hardware > Disk Action > Move Storage), or write model_storage: "
            f"{seen.storage} for {node.name}",
        )
    return None
