"""What a proposed fleet is made of: names and numbers to write, and for each what a person should know about it.

Every name that reaches an entry of the file follows `name_rules`; what does not
is only spoken of in notes, whose words may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from provisioner.domain.discovery import Discovery, Unseen
from provisioner.domain.fleet import SecretReference, TlsTrust
from provisioner.domain.host import PciAddress


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """The token that the fleet will use, and where its secret is (or will be) kept."""

    token_id: str
    secret: SecretReference


@dataclass(frozen=True, slots=True)
class GpuSlot:
    """A GPU of a hypervisor as the fleet file will name it. `mapping` is the PCI mapping, which may not exist yet."""

    name: str
    mapping: str
    is_mapped: bool
    hypervisor: str
    address: PciAddress
    title: str
    ids: str
    functions: tuple[PciAddress, ...]
    iommu_group: int | None
    vram_bytes: int | None = None
    is_integrated: bool = False
    is_pooled: bool = False
    """The mapping gives out one of several cards, this one among them; the slots of the others share it."""
    used_by: tuple[int, ...] = ()
    """VMs of somebody else that name this card: only one of all can run at a time."""
    ours: tuple[int, ...] = ()
    """VMs with our tag that name this card."""
    notes: tuple[str, ...] = ()

    @property
    def is_free(self) -> bool:
        """Nobody else's VM names it."""
        return not self.used_by


@dataclass(frozen=True, slots=True)
class HypervisorProposal:
    """A server, with a slot for each of its GPUs."""

    name: str
    address: IPv4Address | None
    gpus: tuple[GpuSlot, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """A name chosen out of several; `found` says what was seen of it."""

    name: str
    found: str = ""
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """The network that a bridge of the cluster is on, and addresses that somebody is known to have there."""

    bridge: str
    network_of: IPv4Interface
    gateway: IPv4Address | None
    taken: frozenset[IPv4Address]


@dataclass(frozen=True, slots=True)
class NodeProposal:
    """A node to offer. `is_adopted`: a VM of somebody else, to be woken and slept as it is."""

    name: str
    vmid: int
    hypervisor: str
    gpus: tuple[str, ...] = ()
    address: IPv4Interface | None = None
    is_adopted: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a node gets when it says nothing."""

    cores: int
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class FleetProposal:
    """A whole fleet file before it is text."""

    discovery: Discovery
    cluster: str
    token: TokenChoice
    tls: TlsTrust
    disks: Choice
    images: Choice
    iso: Choice
    bridge: Choice
    hypervisors: tuple[HypervisorProposal, ...]
    sizes: Sizes
    gateway: IPv4Address | None
    nameservers: tuple[IPv4Address, ...]
    nodes: tuple[NodeProposal, ...]
    notes: tuple[str, ...]
    unseen: tuple[Unseen, ...]

    @property
    def gpus(self) -> tuple[GpuSlot, ...]:
        """Every slot, server by server."""
        return tuple(gpu for hypervisor in self.hypervisors for gpu in hypervisor.gpus)
