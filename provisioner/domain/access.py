"""Who may do what in a Proxmox cluster: what is seen of it, and what is wanted. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from provisioner.domain.fleet import ClusterSpec, FleetSpec
from provisioner.domain.names import GpuName, HypervisorName, MappingId, StorageName, Vmid

MARK = "made by provisioner"
"""Stands in the comment or description of what we made; nothing without it is taken away or made anew.

Roles have no comment: there the name says it, and rules have neither: there the role does.
"""


@dataclass(frozen=True, slots=True)
class RoleSeen:
    """A named set of privileges; `is_builtin` ones cannot be changed."""

    privileges: frozenset[str]
    is_builtin: bool = False


@dataclass(frozen=True, slots=True)
class TokenSeen:
    """An API token. With `is_separated` it has only what both it and its user were given."""

    is_separated: bool
    comment: str = ""

    @property
    def is_ours(self) -> bool:
        """It carries our mark."""
        return MARK in self.comment


@dataclass(frozen=True, slots=True)
class UserSeen:
    """Somebody who may log in, with their tokens by the part of the id after ``!``."""

    comment: str = ""
    is_enabled: bool = True
    groups: frozenset[str] = frozenset()
    tokens: Mapping[str, TokenSeen] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """It carries our mark."""
        return MARK in self.comment


class HolderKind(Enum):
    """Who a rule may be about."""

    USER = "user"
    GROUP = "group"
    TOKEN = "token"  # noqa: S105 - Proxmox's word


@dataclass(frozen=True, slots=True)
class Rule:
    """A role given to somebody on a path, and below it if it propagates."""

    path: str
    kind: HolderKind
    holder: str
    role: str
    propagates: bool = True


@dataclass(frozen=True, slots=True)
class MappableDevice:
    """A PCI function with all that a mapping must say of it; ids are four hexadecimal digits, group -1 is none."""

    address: str
    class_code: str
    vendor: str
    device: str
    subsystem: str | None
    iommu_group: int
    name: str = ""
    has_mediated_types: bool = False

    @property
    def slot(self) -> str:
        """The address without the function."""
        return self.address.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class MapEntry:
    """One device of a PCI mapping on one server, as ``key=value`` pairs."""

    parts: Mapping[str, str]

    @property
    def node(self) -> str:
        """The server it is on."""
        return self.parts.get("node", "")

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots it takes, without functions."""
        return tuple(path.partition(".")[0] for path in self.parts.get("path", "").split(";") if path)

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.parts.items())


@dataclass(frozen=True, slots=True)
class PciMapping:
    """A PCI resource mapping; `problems` are Proxmox's own findings by server."""

    entries: tuple[MapEntry, ...]
    description: str = ""
    problems: Mapping[HypervisorName, tuple[str, ...]] = field(default_factory=dict)
    used_by: tuple[Vmid, ...] = ()

    @property
    def is_ours(self) -> bool:
        """It carries our mark."""
        return MARK in self.description


@dataclass(frozen=True, slots=True)
class StorageDefinition:
    """A storage as configured; `content` sorted."""

    type: str
    content: tuple[str, ...]


class SecretState(Enum):
    """What is known of the token's secret on this machine."""

    NOWHERE = "there is no place to keep it"
    ABSENT = "its file does not exist"
    EMPTY = "its file is empty"
    ACCEPTED = "Proxmox accepts it"
    REFUSED = "Proxmox does not accept it"
    SAVED = "there is one, and no token to try it with"
    UNUSABLE = "it cannot be read"


@dataclass(frozen=True, slots=True)
class SecretSeen:
    """Where the token's secret is, or will be kept; `place` is for messages, `reason` says why it is unusable."""

    state: SecretState
    place: str
    file: Path | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AccessSeen:
    """One cluster's rights at one moment, with what mappings and storages need beside."""

    major: int
    roles: Mapping[str, RoleSeen]
    users: Mapping[str, UserSeen]
    rules: tuple[Rule, ...]
    mappings: Mapping[MappingId, PciMapping]
    devices: Mapping[HypervisorName, tuple[MappableDevice, ...]]
    """By server; one that is missing here could not be asked."""
    storages: Mapping[StorageName, StorageDefinition]
    secret: SecretSeen


@dataclass(frozen=True, slots=True)
class AccessWanted:
    """What is wanted of a cluster: the rights that its part of the fleet needs.

    Attributes:
        fleet: names servers, GPUs and nodes.
        cluster: whose rights.
        secret_file: where a new token's secret goes, when the fleet file takes it from the environment.
        may_delete_seeds: grant the broad privilege to delete ISOs too.
        gpu_slots: which device is which GPU, where that cannot be told, as ``0000:01:00``; several make a pool,
            of which a VM gets the first free one.
        leaving: the one server that the way back is for; while the fleet has others in the cluster, what they need
            stays.
    """

    fleet: FleetSpec
    cluster: ClusterSpec
    secret_file: Path | None = None
    may_delete_seeds: bool = False
    gpu_slots: Mapping[tuple[HypervisorName, GpuName], tuple[str, ...]] = field(default_factory=dict)
    leaving: HypervisorName | None = None

    @property
    def user(self) -> str:
        """``USER@REALM``."""
        return self.cluster.token_id.partition("!")[0]

    @property
    def token(self) -> str:
        """The part of the token's id after ``!``."""
        return self.cluster.token_id.partition("!")[2]
