"""A VM in our words to a Proxmox configuration, and back. Pure.

q35 with OVMF because PCIe passthrough wants it; no enrolled keys because a
driver built in the guest is unsigned; no balloon because passthrough pins all
memory; a serial console because the GPU is not for display.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from provisioner.adapters.proxmox.native_drive import SEED_DRIVE, native_drive_settings
from provisioner.adapters.proxmox.property_strings import parts_of
from provisioner.adapters.proxmox.vm_traits import BOOT_DISK, MODEL_DISK, efi_disk, passed_devices, tags_of, traits_of
from provisioner.domain.conventions import TAG
from provisioner.domain.model_keeping import MODEL_DISK_SERIAL, ModelDisk
from provisioner.domain.names import StorageName, Vmid
from provisioner.domain.quantities import GIB, MIB
from provisioner.domain.snapshot import VmConfig
from provisioner.domain.templates import TEMPLATE_TAG, TemplateShape
from provisioner.domain.vm_traits import Drift, VmShape

_ON_FILES = frozenset({"dir", "nfs", "cifs"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def create_parameters(shape: VmShape, notes: str) -> dict[str, str | int]:
    """Return the parameters of ``POST /nodes/{node}/qemu``."""
    return {
        "vmid": shape.vmid,
        "name": shape.name,
        "description": notes,
        "tags": ";".join(sorted(shape.tags)),
        "ostype": "l26",
        "machine": "q35",
        "bios": "ovmf",
        "efidisk0": efi_disk(shape),
        "cpu": "host",
        "cores": shape.cores,
        "sockets": 1,
        "memory": shape.memory_bytes // MIB,
        "balloon": 0,
        "numa": int(shape.numa),
        "scsihw": "virtio-scsi-single",
        # Size 0 means: as large as the image. Grown afterwards.
        BOOT_DISK: f"{shape.disk_storage}:0,import-from={shape.image_storage}:import/{shape.image_volume},"
        "discard=on,iothread=1,ssd=1",
        **(
            native_drive_settings(shape)
            if shape.cloud_init is not None
            else {SEED_DRIVE: f"{shape.iso_storage}:iso/{shape.seed_volume},media=cdrom"}
        ),
        "net0": f"virtio={shape.mac},bridge={shape.bridge}",
        "boot": f"order={BOOT_DISK}",
        "agent": "enabled=1",
        "serial0": "socket",
        "vga": "serial0",
        # Nodes are woken on demand; a host that boots must not start them all.
        "onboot": 0,
        "protection": int(shape.protection),
        **{f"hostpci{at}": f"mapping={mapping},pcie=1" for at, mapping in enumerate(shape.gpu_mappings)},
    }


def template_parameters(vmid: Vmid, template: TemplateShape) -> dict[str, str | int]:
    """Return the parameters of ``POST /nodes/{node}/qemu`` for the VM that becomes a template.

    It is as small as can be, never runs, and has nothing that a node has for itself: no card, no seed, no GPU.
    """
    # On files a clone is a qcow2 over its base (pve-storage, Plugin.pm), whose format then follows; elsewhere there is
    # one format.
    kind = ",format=qcow2" if template.disk_kind in _ON_FILES else ""
    return {
        "vmid": vmid,
        "name": template.name,
        "description": "Template of provisioner: nodes are linked clones of its disk. "
        "provisioner destroy --unused-templates removes it once no node of the fleet file is made from it.\n",
        "tags": ";".join(sorted((TAG, TEMPLATE_TAG, template.tag))),
        "ostype": "l26",
        "machine": "q35",
        "bios": "ovmf",
        "efidisk0": f"{template.disk_storage}:1,efitype=4m,pre-enrolled-keys={int(template.secure_boot)}",
        "cpu": "host",
        "cores": 1,
        "memory": 512,
        "scsihw": "virtio-scsi-single",
        BOOT_DISK: f"{template.disk_storage}:0,import-from={template.image_storage}:import/{template.image_volume},"
        f"discard=on,iothread=1,ssd=1{kind}",
        "boot": f"order={BOOT_DISK}",
        "onboot": 0,
    }


def clone_settings(shape: VmShape) -> dict[str, str | int]:
    """Return what makes a clone the VM that an import would have made: all options but disks, name and notes."""
    # The clone brings its disks along, and has been named and given its notes as it was made.
    brought = {"vmid", "name", "description", "efidisk0", BOOT_DISK}
    return {key: value for key, value in create_parameters(shape, "").items() if key not in brought}


def disk_size(size_bytes: int) -> str:
    """Return bytes as the ``size`` of a resize: whole GiB where possible, else MiB."""
    return f"{size_bytes // GIB}G" if size_bytes % GIB == 0 else f"{size_bytes // MIB}M"


def both_configs(rows: Iterable[Mapping[str, object]]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the options that the VM has now, and those that its next start will have; `digest` is among both.

    Args:
        rows: the answer of ``GET .../pending``, the one call that shows both.
    """
    now: dict[str, object] = {}
    settled: dict[str, object] = {}
    for row in rows:
        key = str(row["key"])
        if "value" in row:
            now[key] = row["value"]
        if "pending" in row:
            settled[key] = row["pending"]
        elif "value" in row and not row.get("delete"):
            settled[key] = row["value"]
    return now, settled


def read_config(rows: Iterable[Mapping[str, object]]) -> VmConfig:
    """Read back the fields that we use, from the answer of ``GET .../pending``."""
    now, settled = both_configs(rows)
    traits = traits_of(settled)
    # Mostly nothing waits.
    before = traits if now == settled else traits_of(now)
    return VmConfig(
        notes=str(settled.get("description", "")),
        disk_bytes=_size(settled, BOOT_DISK),
        digest=str(settled.get("digest", "")),
        traits=traits,
        waiting=tuple(Drift(trait, before[trait], traits[trait]) for trait in traits if before[trait] != traits[trait]),
        tags=tags_of(settled.get("tags")),
        devices=(devices := passed_devices(settled)),
        running_devices=devices if now == settled else passed_devices(now),
        seed=_seed(settled),
        model_disk=_model_disk(settled),
    )


def model_disk(storage: StorageName, size_bytes: int) -> dict[str, str | int]:
    """Return what gives a VM an empty disk for models; Proxmox takes the size in GiB, as a number alone."""
    settings = f"discard=on,iothread=1,ssd=1,serial={MODEL_DISK_SERIAL}"
    return {MODEL_DISK: f"{storage}:{size_bytes // GIB},{settings}"}


def _size(options: Mapping[str, object], disk: str) -> int | None:
    size = _SIZE.fullmatch(parts_of(options.get(disk), "file").get("size", ""))
    return int(float(size[1]) * _UNITS[size[2]]) if size else None


def _model_disk(options: Mapping[str, object]) -> ModelDisk | None:
    """Return what is in the place of the model disk."""
    parts = parts_of(options.get(MODEL_DISK), "file")
    if not parts:
        return None
    storage = StorageName(parts.get("file", "").partition(":")[0])
    return ModelDisk(storage, _size(options, MODEL_DISK) or 0, parts.get("serial") == MODEL_DISK_SERIAL)


def _seed(options: Mapping[str, object]) -> tuple[StorageName, str] | None:
    """Return storage and file name of the ISO in the seed's drive."""
    storage, colon, volume = parts_of(options.get(SEED_DRIVE), "file").get("file", "").partition(":")
    return (StorageName(storage), volume.removeprefix("iso/")) if colon and volume.startswith("iso/") else None
