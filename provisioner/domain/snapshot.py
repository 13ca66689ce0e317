"""What is seen, as plain values: VMs, storages, mappings, guests, engines. Nothing here is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from provisioner.domain.conventions import TAG
from provisioner.domain.model_keeping import ModelDisk, VmDisk
from provisioner.domain.models.model import Subject
from provisioner.domain.names import HypervisorName, MappingId, StorageName, Vmid
from provisioner.domain.vm_traits import Drift, PassedDevice, Traits


class Power(Enum):
    """Whether a VM has power. Unknown is a state of its own, never dressed up as off."""

    RUNNING = "running"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class VmSeen:
    """A VM as Proxmox describes it now."""

    vmid: Vmid
    name: str
    hypervisor: HypervisorName
    power: Power
    tags: frozenset[str] = frozenset()
    lock: str | None = None
    uptime_seconds: float = 0.0
    halt: str | None = None
    """Why its CPUs stand still though it has power, in QEMU's word, such as ``paused`` or ``io-error``."""
    is_container: bool = False
    """VMIDs are shared with containers; none of them is ever a node."""
    is_template: bool = False
    """Clones are made of it; it never runs. The cluster's report learns of it some seconds late."""

    @property
    def is_ours(self) -> bool:
        """It carries our tag."""
        return TAG in self.tags

    @property
    def is_being_made(self) -> bool:
        """A creation or a clone is under way; what it will be, name and tags included, does not show yet."""
        return self.lock in ("create", "clone")


@dataclass(frozen=True, slots=True)
class StorageSeen:
    """A storage on one hypervisor. `free_bytes` is None when Proxmox does not say."""

    name: StorageName
    hypervisor: HypervisorName
    content: frozenset[str]
    is_available: bool
    free_bytes: int | None
    kind: str = ""
    """Proxmox's type of storage: ``lvmthin``, ``dir``, ..."""
    is_shared: bool = False
    """Every server of the cluster sees the same volumes on it."""


@dataclass(frozen=True, slots=True)
class MappingSeen:
    """A PCI resource mapping as it stands on one hypervisor; `errors` are Proxmox's own findings."""

    mapping: MappingId
    errors: tuple[str, ...]
    entries: tuple[str, ...] = ()
    """As Proxmox writes them: ``node=pve1,path=0000:01:00,id=...``; those of other hypervisors too."""
    is_mediated: bool = False
    """It gives out slices of a card (vGPU)."""

    def cards_on(self, hypervisor: HypervisorName) -> int:
        """Return how many cards of a hypervisor it names; more than one make a pool."""
        return sum(f"node={hypervisor}" in entry.split(",") for entry in self.entries)


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """One cluster at one moment."""

    hypervisors: Mapping[HypervisorName, bool]
    """Name -> is online."""
    vms: Mapping[Vmid, VmSeen]
    storages: Mapping[tuple[HypervisorName, StorageName], StorageSeen]


@dataclass(frozen=True, slots=True)
class VmConfig:
    """The fields of a VM's configuration that we read back."""

    notes: str
    disk_bytes: int | None
    """Size of the boot disk; None while there is none."""
    digest: str = ""
    """Changes with every change of the configuration; guards an update against another's."""
    traits: Traits = field(default_factory=dict)
    """As the next start will have them; notes and GPUs apart."""
    waiting: tuple[Drift, ...] = ()
    """What the running VM has (`seen`) and its next start will change (`wanted`)."""
    tags: frozenset[str] = frozenset()
    devices: tuple[PassedDevice, ...] = ()
    """The devices passed through at the next start, in order."""
    running_devices: tuple[PassedDevice, ...] = ()
    """Those of the running VM; the same while nothing waits."""
    seed: tuple[StorageName, str] | None = None
    """Storage and file name of the seed ISO in its drive."""
    model_disk: ModelDisk | None = None
    """What is in the place of the model disk; None while that is free."""

    def bytes_of(self, disk: VmDisk) -> int | None:
        """Return the size of a disk of ours; None while there is none."""
        if disk is VmDisk.BOOT:
            return self.disk_bytes
        return self.model_disk.size_bytes if self.model_disk is not None else None


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """All that planning needs to know about one node's place in its cluster."""

    cluster: ClusterSnapshot
    vm: VmSeen | None
    config: VmConfig | None
    mappings: Mapping[MappingId, MappingSeen]
    image_present: bool
    seed_present: bool
    permissions: Mapping[str, Mapping[str, int]] | None = None
    """What our login may do; asked for only where a VM may be cloned."""
    models: Mapping[str, Subject] = field(default_factory=dict)
    """The models of its modes that lie in files here, by the names that the modes have for them."""
