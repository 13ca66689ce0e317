"""VM settings that tests of the lab share."""

from __future__ import annotations

GPU_VM = {
    "name": "llm-gpu-01",
    "memory": "4096",
    "cores": "4",
    "cpu": "host",
    "machine": "q35",
    "bios": "ovmf",
    "agent": "enabled=1",
    "scsihw": "virtio-scsi-single",
    "efidisk0": "local-lvm:1,efitype=4m,pre-enrolled-keys=0",
    "scsi0": "local-lvm:8",
    "net0": "virtio,bridge=vmbr0",
    "hostpci0": "mapping=rtx3090,pcie=1",
    "boot": "order=scsi0",
}
PROVISIONER = "provisioner@pve!fleet"
