"""What makes a VM the one we want, trait by trait, in values that compare.

Only what we manage is a trait. Extra disks, extra network cards, other devices
passed through and a person's own tags are theirs and are not even read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.cloud_init import SEARCH_DOMAIN, NativeDrive
from provisioner.domain.conventions import TAG
from provisioner.domain.names import MappingId, NodeName, StorageName, Vmid
from provisioner.domain.quantities import size_text


class Trait(Enum):
    """One managed trait; its value is its name for people."""

    NAME = "name"
    TAGS = "tags"
    NOTES = "notes"
    START_AT_BOOT = "start at boot"
    PROTECTION = "protection"
    OS_TYPE = "os type"
    CORES = "cores"
    MEMORY = "memory"
    BALLOONING = "ballooning"
    NUMA = "numa"
    HUGEPAGES = "hugepages"
    CPU = "cpu"
    MACHINE = "machine"
    FIRMWARE = "firmware"
    SECURE_BOOT = "secure boot"
    GPUS = "gpus"
    NETWORK = "network card"
    DISK_CONTROLLER = "disk controller"
    DISK_OPTIONS = "disk options"
    BOOT_DEVICE = "boot device"
    AGENT = "guest agent"
    SERIAL = "serial console"
    DISPLAY = "display"
    CLOUD_INIT = "cloud-init drive"
    CLOUD_INIT_USER = "cloud-init user"
    CLOUD_INIT_ADDRESS = "cloud-init address"
    CLOUD_INIT_DNS = "cloud-init nameservers"
    CLOUD_INIT_UPGRADE = "cloud-init package upgrade"


Traits = Mapping[Trait, str]

AT_ONCE = frozenset((Trait.NAME, Trait.TAGS, Trait.NOTES, Trait.START_AT_BOOT, Trait.PROTECTION, Trait.NETWORK))
"""What takes effect on a running VM as it is written; a network card is plugged anew or moved to its bridge."""

OF_FIRST_BOOT = frozenset(
    (
        Trait.CLOUD_INIT,
        Trait.CLOUD_INIT_USER,
        Trait.CLOUD_INIT_ADDRESS,
        Trait.CLOUD_INIT_DNS,
        Trait.CLOUD_INIT_UPGRADE,
        Trait.NAME,
        Trait.NETWORK,
    )
)
"""What Proxmox's cloud-init drive is made of: its instance-id is a checksum of these, and another id is a new first
boot (qemu-server, Cloudinit.pm). Of the network card only the address counts."""

NATIVE_DRIVE, SEED_ISO = "Proxmox's own", "seed ISO"
YES, NO = "yes", "no"
NONE = "none"


@dataclass(frozen=True, slots=True)
class VmShape:
    """The VM that is wanted, in our words; the Proxmox adapter turns it into a configuration."""

    vmid: Vmid
    name: NodeName
    cores: int
    memory_bytes: int
    disk_storage: StorageName
    image_storage: StorageName
    image_volume: str
    iso_storage: StorageName
    seed_volume: str
    bridge: str
    mac: str
    gpu_mappings: tuple[MappingId, ...]
    tags: frozenset[str] = frozenset({TAG})
    numa: bool = False
    secure_boot: bool = False
    protection: bool = False
    cloud_init: NativeDrive | None = None
    """Proxmox's own cloud-init drive, in the place of the seed ISO."""


def wanted_traits(shape: VmShape) -> dict[Trait, str]:
    """Return the traits of a VM of that shape; notes and hugepages are not part of a shape."""
    native = native_traits(shape.cloud_init) if shape.cloud_init is not None else {}
    return {
        Trait.NAME: shape.name,
        Trait.TAGS: listed(sorted(shape.tags)),
        Trait.START_AT_BOOT: NO,
        Trait.PROTECTION: said(shape.protection),
        Trait.OS_TYPE: "l26",
        Trait.CORES: str(shape.cores),
        Trait.MEMORY: size_text(shape.memory_bytes),
        Trait.BALLOONING: NO,
        Trait.NUMA: said(shape.numa),
        Trait.CPU: "host",
        Trait.MACHINE: "q35",
        Trait.FIRMWARE: "ovmf",
        Trait.SECURE_BOOT: said(shape.secure_boot),
        Trait.GPUS: listed(shape.gpu_mappings),
        Trait.NETWORK: f"virtio {shape.mac} on {shape.bridge}",
        Trait.DISK_CONTROLLER: "virtio-scsi-single",
        Trait.DISK_OPTIONS: "discard, iothread, ssd",
        Trait.BOOT_DEVICE: "scsi0",
        Trait.AGENT: YES,
        Trait.SERIAL: "socket",
        Trait.DISPLAY: NONE,
        **native,
    }


def native_traits(drive: NativeDrive) -> dict[Trait, str]:
    """Return the traits of a VM whose cloud-init drive Proxmox makes."""
    return {
        Trait.CLOUD_INIT: NATIVE_DRIVE,
        Trait.CLOUD_INIT_USER: drive.user,
        Trait.CLOUD_INIT_ADDRESS: address_text(str(drive.address), str(drive.gateway or "")),
        Trait.CLOUD_INIT_DNS: dns_text([str(each) for each in drive.nameservers], SEARCH_DOMAIN),
        Trait.CLOUD_INIT_UPGRADE: NO,
    }


def address_text(address: str, gateway: str) -> str:
    """Write an address with its gateway for people."""
    return f"{address} via {gateway}" if gateway else address


def dns_text(nameservers: Iterable[str], search: str) -> str:
    """Write nameservers and search domain for people."""
    return listed(nameservers) + (f", searching {search}" if search else "")


def said(claim: bool) -> str:
    """Say yes or no."""
    return YES if claim else NO


def listed(words: Iterable[object]) -> str:
    """Join words for people; none of them is said so."""
    return ", ".join(str(word) for word in words) or NONE


@dataclass(frozen=True, slots=True)
class Drift:
    """A trait that is not as it should be, with both values."""

    trait: Trait
    seen: str
    wanted: str

    @property
    def waits_for_start(self) -> bool:
        """On a running VM it takes effect at the next cold start only."""
        return self.trait not in AT_ONCE

    def __str__(self) -> str:
        return f"{self.trait.value} {self.seen} → {self.wanted}"


@dataclass(frozen=True, slots=True)
class PassedDevice:
    """A PCI device handed to a VM. Without a mapping it is passed by its raw address, which `address` holds."""

    index: int
    mapping: MappingId | None
    address: str = ""
    is_pcie: bool = True

    def __str__(self) -> str:
        name = self.mapping or self.address
        return name if self.is_pcie else f"{name} (not PCIe)"
