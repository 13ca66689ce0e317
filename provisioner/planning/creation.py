"""How a node's VM comes into being: imported, cloned, or the rest of a clone that was cut short. Pure."""

from __future__ import annotations

from provisioner.domain.actions import (
    CloneVm,
    CreateVm,
    DownloadImage,
    GrowDisk,
    MakeTemplate,
    Refusal,
    RenewNotes,
    ShapeClone,
    StartVm,
    Step,
    StepKind,
    UploadSeed,
)
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import StorageName
from provisioner.domain.notes import read_notes
from provisioner.domain.quantities import size_text
from provisioner.domain.snapshot import NodeSeen, VmConfig
from provisioner.domain.vm_traits import VmShape
from provisioner.planning.cloning import Making, how_to_make
from provisioner.planning.model_disk import model_disk_steps
from provisioner.planning.native_drive import is_native
from provisioner.planning.vm_shape import seed_volume, vm_shape

_CHANGE = StepKind.CHANGE


def creation_steps(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> tuple[Step, ...]:
    """Return the steps from no VM to one that runs."""
    shape, image = vm_shape(fleet, node), fleet.images[node.image]
    making = how_to_make(fleet, node, seen.cluster, seen.permissions)
    download = Step(
        "image",
        _CHANGE,
        DownloadImage(image, shape.image_storage),
        f'"{image.name}" is not on storage "{shape.image_storage}" yet',
    )
    gpus = f" with {', '.join(shape.gpu_mappings)}" if shape.gpu_mappings else ""
    upload = UploadSeed(shape.iso_storage, None)
    seed = Step("seed", _CHANGE, upload, "the guest gets its name, address and keys")
    return (
        *(() if seen.image_present or making.ready else (download,)),
        *_template_steps(making),
        *(() if is_native(node) else (seed,)),
        _making_step(making, shape, f"there is no VM {node.vmid} yet: {_size(node)}{gpus}; {making.why}"),
        Step("grow disk", _CHANGE, GrowDisk(node.vmid, node.disk_bytes), f"to {size_text(node.disk_bytes)}"),
        *model_disk_steps(fleet, node, None),
        Step("start", _CHANGE, StartVm(node.vmid), "a new VM is off"),
    )


def shaping_steps(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen, config: VmConfig) -> tuple[Step, ...]:
    """Return the steps that finish a VM which was cloned, and whose making was cut short before it got its shape."""
    shape = vm_shape(fleet, node)
    lost = not is_native(node) and not seen.seed_present
    seed = new_seed_steps(node, shape.iso_storage, None) if lost else []
    reason = f"it was cloned from a template and no more, when its making was cut short: {_size(node)}"
    small = config.disk_bytes is not None and config.disk_bytes < node.disk_bytes
    grow = Step("grow disk", _CHANGE, GrowDisk(node.vmid, node.disk_bytes), f"to {size_text(node.disk_bytes)}")
    return (
        *seed,
        Step("shape", _CHANGE, ShapeClone(shape), reason),
        *((grow,) if small else ()),
        *model_disk_steps(fleet, node, config),
        Step("start", _CHANGE, StartVm(node.vmid), "the VM is off"),
    )


def new_seed_steps(node: NodeSpec, storage: StorageName, volume: str | None) -> list[Step]:
    """Return the steps that make a lost seed again, for a guest that has not finished its first boot.

    A new seed is a new instance to cloud-init, so new keys are right.
    """
    return [
        # The notes first: killed in between, the seed is still missing and the next run begins anew.
        Step("renew notes", _CHANGE, RenewNotes(node.vmid), "the new seed will have a new host key"),
        Step("seed", _CHANGE, UploadSeed(storage, volume), f"the seed ISO {volume or seed_volume(node)} is gone"),
    ]


def no_clone(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> Refusal | None:
    """Say why a VM cannot be the clone that the fleet file insists on."""
    making = how_to_make(fleet, node, seen.cluster, seen.permissions)
    if not making.is_refused:
        return None
    return Refusal(
        f"it cannot be a clone: it would be {making.why}",
        f"write clone: auto for {node.name} in the fleet file, or put right what stands in the way",
    )


def seed_of(fleet: FleetSpec, node: NodeSpec, config: VmConfig | None) -> tuple[StorageName, str | None]:
    """Return storage and name of a node's seed ISO: the one in the VM's drive, else the one that its drive will get.

    That is named after the key in the VM's notes; None where there are none yet.
    """
    if config is not None and config.seed is not None:
        return config.seed
    key = read_notes(config.notes).host_key if config is not None else None
    return fleet.cluster_of(node).storage.iso, seed_volume(node, key) if key else None


def _template_steps(making: Making) -> tuple[Step, ...]:
    if making.template is None or making.ready is not None:
        return ()
    what = f"made once, as {making.template.name}; its disk is imported, every further node is cloned"
    return (Step("template", _CHANGE, MakeTemplate(making.template), what),)


def _making_step(making: Making, shape: VmShape, reason: str) -> Step:
    if making.template is None:
        return Step("create", _CHANGE, CreateVm(shape), reason)
    source = f" of template {making.ready.vmid}" if making.ready else ""
    return Step("clone", _CHANGE, CloneVm(shape, making.template, making.ready), reason + source)


def _size(node: NodeSpec) -> str:
    return f"{node.cores} cores, {size_text(node.memory_bytes)} memory"
