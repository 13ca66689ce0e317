"""The things a cluster is made of, as they are kept.

Plain mutable records of JSON values; rules about them live with the part of the
lab that enforces them (`access`, `storage`, `pci`, `vm`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 1024**3


@dataclass
class Node:
    """A server of the cluster; all of them are served by this one process."""

    name: str
    ip: str = "127.0.0.1"
    online: bool = True
    bridges: list[str] = field(default_factory=lambda: ["vmbr0"])
    cidr: str | None = None
    gateway: str | None = None
    threads: int = 32
    memory_bytes: int = 128 * GIB
    devices: list[dict[str, object]] = field(default_factory=list)


@dataclass
class Storage:
    """A storage definition; `total_bytes` None means that it never fills."""

    name: str
    type: str
    content: list[str]
    options: dict[str, object] = field(default_factory=dict)
    disabled: bool = False
    nodes: list[str] | None = None
    total_bytes: int | None = None


@dataclass
class Volume:
    """A disk image. Files such as ISOs are not recorded; they are what lies in their folder."""

    volid: str
    storage: str
    file: str
    format: str
    size: int
    used: int
    vmid: int
    created: int
    parent: str | None = None


@dataclass
class Guest:
    """A VM or container. `run` is what a running VM was started with."""

    vmid: int
    node: str
    kind: str = "qemu"
    config: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str | None] = field(default_factory=dict)
    run: dict[str, object] | None = None
    paused: bool = False


@dataclass
class Mapping:
    """A PCI resource mapping."""

    name: str
    map: list[str]
    description: str | None = None
    mdev: bool | None = None
    live_migration_capable: bool | None = None


@dataclass
class Pool:
    """A resource pool."""

    name: str
    comment: str | None = None
    vms: list[int] = field(default_factory=list)
    storage: list[str] = field(default_factory=list)


@dataclass
class User:
    """Somebody who may log in; the password is kept as it is, this is a lab."""

    name: str
    password: str | None = None
    comment: str | None = None
    enable: bool = True
    expire: int = 0
    groups: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)


@dataclass
class Token:
    """An API token, named ``user@realm!name``."""

    name: str
    secret: str
    privsep: bool = True
    expire: int = 0
    comment: str | None = None


@dataclass
class Group:
    """A group of users."""

    name: str
    comment: str | None = None


@dataclass
class Role:
    """A named set of privileges."""

    name: str
    privileges: list[str]


@dataclass
class AclEntry:
    """A role for somebody on a path; `kind` is user, token or group."""

    path: str
    kind: str
    who: str
    role: str
    propagate: bool = True

    @property
    def key(self) -> str:
        """Return what makes the entry the same entry."""
        return f"{self.path}|{self.kind}|{self.who}|{self.role}"


@dataclass
class TaskRecord:
    """A task, running or over, with its log."""

    upid: str
    node: str
    pid: int
    pstart: int
    starttime: int
    type: str
    id: str
    user: str
    endtime: int | None = None
    exitstatus: str | None = None
    log: list[str] = field(default_factory=list)
