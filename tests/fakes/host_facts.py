"""A hypervisor as the API shows it when all is well, to be spoilt with `replace`."""

from __future__ import annotations

from provisioner.domain.host import (
    AMD_CPU,
    HostFacts,
    HostMemory,
    PciAddress,
    PciFunction,
    Release,
    Source,
)
from provisioner.domain.quantities import GIB

GPU, SOUND, PORT = (PciAddress(address) for address in ("0000:01:00.0", "0000:01:00.1", "0000:00:01.1"))
ENTRY = "id=10de:2204,iommugroup=15,node=pve1,path=0000:01:00,subsystem-id=10de:3095"
_RIGHTS = (
    "Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit Mapping.Use SDN.Use"
    " Sys.AccessNetwork Sys.Audit VM.Allocate VM.Audit VM.Config.CPU VM.Config.Disk VM.Config.HWType"
    " VM.Config.Memory VM.Config.Network VM.Config.Options VM.GuestAgent.Unrestricted VM.Monitor VM.PowerMgmt"
)
EVERY_RIGHT = tuple(_RIGHTS.split())


def ready_host() -> HostFacts:
    """One RTX 3090 in a group of its own, memory for it, and a current Proxmox VE."""
    functions = (
        PciFunction(PORT, "0604", "AMD GPP Bridge", "1022", "1483", offers_mdev=False),
        PciFunction(GPU, "0300", "NVIDIA GA102 [GeForce RTX 3090]", "10de", "2204", None, False, "10de:3095", False),
        PciFunction(SOUND, "0403", "NVIDIA GA102 HD Audio", "10de", "1aef", None, False, "10de:3095", False),
    )
    return HostFacts(
        functions={function.address: function for function in functions},
        groups={PORT: 14, GPU: 15, SOUND: 15},
        cpu_vendor=AMD_CPU,
        cpu_model="AMD Ryzen 9 5950X 16-Core Processor",
        cpu_flags=frozenset({"svm", "avx2"}),
        threads=32,
        kernel=Release(6, 14, "6.14.11-4-pve"),
        pve=Release(9, 1, "9.1.1"),
        is_secure_boot=False,
        boot_mode="efi",
        memory=HostMemory(128 * GIB, 100 * GIB, 120 * GIB),
        sources=(Source.API,),
    )
