"""What a cluster shows of itself before any fleet file speaks of it. Plain values; nothing is decided here.

None means that nobody may look (`Discovery.unseen` says why), an empty
collection that there is nothing. Names are Proxmox's own and come from outside:
whatever is written from them has to be quoted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface

from provisioner.domain.conventions import TAG
from provisioner.domain.host import PciAddress

Permissions = Mapping[str, Mapping[str, int]]
"""Path -> privilege -> 1 if it also holds below the path, else 0, as ``GET /access/permissions`` answers."""


@dataclass(frozen=True, slots=True)
class CertificateSeen:
    """A server's TLS certificate: its SHA-256 fingerprint (``AB:CD:...``), and why nobody vouches for it, if so."""

    fingerprint: str
    doubt: str | None

    @property
    def is_trusted(self) -> bool:
        """An authority that we know vouches for it and for the server's name."""
        return self.doubt is None


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One function of a PCI device. Ids are four hexadecimal digits; `iommu_group` is None where there is none."""

    address: PciAddress
    class_code: str
    vendor_id: str
    device_id: str
    name: str
    iommu_group: int | None


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of a hypervisor."""

    name: str
    is_bridge: bool
    is_active: bool
    address: IPv4Interface | None = None
    gateway: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class HypervisorFound:
    """A server of the cluster."""

    name: str
    is_online: bool
    address: IPv4Address | None = None
    threads: int | None = None
    memory_bytes: int | None = None
    devices: tuple[PciDevice, ...] | None = None
    interfaces: tuple[Interface, ...] | None = None
    nameservers: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class StorageFound:
    """A storage as one hypervisor sees it. `kind` is Proxmox's type (``lvmthin``, ``dir``, ...)."""

    name: str
    hypervisor: str
    kind: str
    content: frozenset[str]
    is_available: bool
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MappingEntry:
    """Devices of one hypervisor that a mapping gives out together. A path without a function is the whole card."""

    hypervisor: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MappingFound:
    """A PCI resource mapping. Several entries of one hypervisor are a pool of which a start takes the first free."""

    name: str
    entries: tuple[MappingEntry, ...]
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Hypervisor -> what Proxmox finds wrong with the mapping there."""
    is_mediated: bool = False
    """It gives out slices of a card (vGPU), not the card."""


@dataclass(frozen=True, slots=True)
class PassedThrough:
    """A ``hostpciN`` of a VM: either a mapping's name, or addresses (without a function: the whole card)."""

    mapping: str | None = None
    paths: tuple[str, ...] = ()


class GuestType(Enum):
    """What kind of guest it is."""

    VM = "VM"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class GuestFound:
    """A VM or container. `devices` and `addresses` are empty too when its configuration could not be read."""

    vmid: int
    name: str
    hypervisor: str
    type: GuestType = GuestType.VM
    is_template: bool = False
    tags: frozenset[str] = frozenset()
    devices: tuple[PassedThrough, ...] = ()
    addresses: tuple[IPv4Interface, ...] = ()
    """The addresses that its configuration fixes; those it got by DHCP or set itself are not in it."""

    @property
    def is_ours(self) -> bool:
        """It carries our tag."""
        return TAG in self.tags


@dataclass(frozen=True, slots=True)
class Unseen:
    """Something that could not be looked at: what, why, and what would open it."""

    what: str
    why: str
    next_step: str


def by_next_step(unseen: Iterable[Unseen]) -> Mapping[str, tuple[Unseen, ...]]:
    """Return what could not be looked at by what would open it: one step often opens several things."""
    found: dict[str, list[Unseen]] = {}
    for each in unseen:
        found.setdefault(each.next_step, []).append(each)
    return {step: tuple(each) for step, each in found.items()}


@dataclass(frozen=True, slots=True)
class Discovery:
    """A cluster as somebody's rights show it. `mappings` is None when nothing is known of them."""

    api_url: str
    version: str
    """Proxmox VE's version, such as ``9.1.1``."""
    cluster_name: str | None = None
    hypervisors: tuple[HypervisorFound, ...] = ()
    storages: tuple[StorageFound, ...] = ()
    mappings: tuple[MappingFound, ...] = ()
    guests: tuple[GuestFound, ...] = ()
    permissions: Permissions = field(default_factory=dict)
    unseen: tuple[Unseen, ...] = ()
    calls: int = 0
    """API requests that it took."""

    def guest(self, vmid: int) -> GuestFound | None:
        """Return the guest with a VMID."""
        return next((guest for guest in self.guests if guest.vmid == vmid), None)
