"""A VM in our words to a Proxmox configuration, and back. Pure.

q35 with OVMF because PCIe passthrough wants it; no enrolled keys because a
driver built in the guest is unsigned; no balloon because passthrough pins all
memory; a serial console because the GPU is not for display.
"""

from __future__ import annotations

import re

from provisioner.domain.actions import VmShape
from provisioner.domain.conventions import TAG
from provisioner.domain.quantities import GIB, MIB
from provisioner.domain.snapshot import VmConfig

BOOT_DISK = "scsi0"
_SIZE = re.compile(r"(?:^|,)size=(\d+(?:\.\d+)?)([KMGT]?)(?:,|$)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def create_parameters(shape: VmShape, notes: str) -> dict[str, str | int]:
    """Return the parameters of ``POST /nodes/{node}/qemu``."""
    return {
        "vmid": shape.vmid,
        "name": shape.name,
        "description": notes,
        "tags": TAG,
        "ostype": "l26",
        "machine": "q35",
        "bios": "ovmf",
        "efidisk0": f"{shape.disk_storage}:1,efitype=4m,pre-enrolled-keys=0",
        "cpu": "host",
        "cores": shape.cores,
        "sockets": 1,
        "memory": shape.memory_bytes // MIB,
        "balloon": 0,
        "scsihw": "virtio-scsi-single",
        # Size 0 means: as large as the image. Grown afterwards.
        BOOT_DISK: f"{shape.disk_storage}:0,import-from={shape.image_storage}:import/{shape.image_volume},"
        "discard=on,iothread=1,ssd=1",
        "ide2": f"{shape.iso_storage}:iso/{shape.seed_volume},media=cdrom",
        "net0": f"virtio={shape.mac},bridge={shape.bridge}",
        "boot": f"order={BOOT_DISK}",
        "agent": "enabled=1",
        "serial0": "socket",
        "vga": "serial0",
        # Nodes are woken on demand; a host that boots must not start them all.
        "onboot": 0,
        **{f"hostpci{at}": f"mapping={mapping},pcie=1" for at, mapping in enumerate(shape.gpu_mappings)},
    }


def disk_size(size_bytes: int) -> str:
    """Return bytes as the ``size`` of a resize: whole GiB where possible, else MiB."""
    return f"{size_bytes // GIB}G" if size_bytes % GIB == 0 else f"{size_bytes // MIB}M"


def read_config(config: dict[str, object]) -> VmConfig:
    """Read back the fields that we use."""
    match = _SIZE.search(str(config.get(BOOT_DISK, "")))
    size = int(float(match[1]) * _UNITS[match[2]]) if match else None
    return VmConfig(notes=str(config.get("description", "")), disk_bytes=size)
