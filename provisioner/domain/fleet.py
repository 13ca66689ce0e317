"""The fleet that is wanted: what ``inventory/fleet.yml`` says, checked and with defaults applied.

Pure values. Secrets are references here; reading one is an edge's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TypeVar

from provisioner.domain.awake import AwakePlan
from provisioner.domain.cloud_init import CloudInit
from provisioner.domain.guest_software import GuestSoftware
from provisioner.domain.mode import Artifact as Artifact
from provisioner.domain.mode import EngineSpec as EngineSpec
from provisioner.domain.mode import GpuRelease as GpuRelease
from provisioner.domain.mode import ModeSpec as ModeSpec
from provisioner.domain.mode import WebUiSpec as WebUiSpec
from provisioner.domain.model_keeping import ModelKeeping
from provisioner.domain.names import (
    ClusterName,
    EngineName,
    GpuName,
    HypervisorName,
    ImageName,
    MappingId,
    ModeName,
    NodeName,
    StorageName,
    Vmid,
)
from provisioner.domain.orchestrator import OrchestratorName, OrchestratorSpec
from provisioner.domain.savings import Price
from provisioner.domain.service import ServiceSpec
from provisioner.domain.templates import CloneChoice
from provisioner.errors import UnknownNameError


class SecretSource(Enum):
    """Where a secret may come from."""

    ENV = "env"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class SecretReference:
    """``env:NAME`` or ``file:PATH``; the secret itself is never part of a spec."""

    source: SecretSource
    name: str

    def __str__(self) -> str:
        return f"{self.source.value}:{self.name}"


@dataclass(frozen=True, slots=True)
class TlsTrust:
    """How a Proxmox certificate is trusted: a pinned SHA-256 fingerprint, a CA file, or the system's store."""

    fingerprint: str | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class StorageRoles:
    """Which storage holds what."""

    disks: StorageName
    images: StorageName
    iso: StorageName


class GuestKind(Enum):
    """Whether a cluster's guests are machines, or the embedded lab's simulated ones that run no software."""

    REAL = "real"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """Where a cluster's API answers and how its certificate is trusted; `name` is for messages.

    An answer is waited for `answer_seconds`; what got none, or met a lock that soon opens, is tried again
    for `retry_seconds`; a task of the server is watched for `task_seconds`.
    """

    name: ClusterName
    api_url: str
    tls: TlsTrust
    answer_seconds: float = 60.0
    retry_seconds: float = 10.0
    task_seconds: float = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """One Proxmox cluster (or a single server) and our way in."""

    name: ClusterName
    api_url: str
    token_id: str
    token_secret: SecretReference
    tls: TlsTrust
    storage: StorageRoles
    bridge: str
    guests: GuestKind = GuestKind.REAL
    answer_seconds: float = 60.0
    retry_seconds: float = 10.0
    task_seconds: float = 4 * 3600.0

    @property
    def address(self) -> ClusterAddress:
        """Where the API answers."""
        return ClusterAddress(
            self.name, self.api_url, self.tls, self.answer_seconds, self.retry_seconds, self.task_seconds
        )


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """A GPU slot: a PCI resource mapping that one running VM may hold."""

    name: GpuName
    mapping: MappingId
    vram_bytes: int | None = None
    survives_stop: bool = True
    pool: bool = False
    """The mapping names several cards, any of which will do; other slots may name it too."""
    driver: str = "auto"
    """What the guest is to have for it, as `domain.gpu_driver` reads it."""


@dataclass(frozen=True, slots=True)
class HypervisorSsh:
    """How an admin logs in to a hypervisor; only `doctor` and `prepare` do.

    `host_key` is a line such as ``ssh-ed25519 AAAA...`` or a fingerprint ``SHA256:...``; without it
    the user's own known_hosts decides. Without `private_key` the agent and the user's own keys are tried.
    """

    address: str
    user: str = "root"
    port: int = 22
    host_key: str | None = None
    private_key: Path | None = None


@dataclass(frozen=True, slots=True)
class HypervisorSpec:
    """A server running Proxmox VE."""

    name: HypervisorName
    cluster: ClusterName
    gpus: Mapping[GpuName, GpuSpec] = field(default_factory=dict)
    ssh: HypervisorSsh | None = None


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """A cloud image, pinned by checksum."""

    name: ImageName
    url: str
    sha256: str

    @property
    def volume_name(self) -> str:
        """The file name on the storage. The checksum is part of it: present means verified.

        Proxmox checks the sum before it gives a download its name, and accepts
        content type ``import`` only for names it knows as disk images, whatever
        the publisher called the file (Ubuntu's ``.img`` is qcow2).
        """
        return f"{self.name}-{self.sha256[:12]}.qcow2"


@dataclass(frozen=True, slots=True)
class SshAccess:
    """How we log in to guests."""

    user: str = "provisioner"
    private_key: Path | None = None


@dataclass(frozen=True, slots=True)
class ConnectSpec:
    """Where a guest is reached from here, when that is not its own address (NAT, port forward, lab)."""

    address: str
    ssh_port: int = 22


@dataclass(frozen=True, slots=True)
class Patience:
    """How long we wait, in seconds, before a boot or an engine counts as failed."""

    boot_seconds: float = 900.0
    engine_seconds: float = 900.0
    shutdown_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class VmOptions:
    """What a node's VM is told beyond its size.

    `hugepages` is the page size, ``2MiB``, ``1GiB`` or ``any``. `protection`
    makes Proxmox, and us, refuse to delete the VM or its disks. `tags` stand
    beside ours.
    """

    numa: bool = False
    hugepages: str | None = None
    secure_boot: bool = False
    protection: bool = False
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One serving node as wanted, every default applied."""

    name: NodeName
    vmid: Vmid
    hypervisor: HypervisorName
    address: IPv4Interface
    gateway: IPv4Address | None
    nameservers: tuple[IPv4Address, ...]
    gpus: tuple[GpuName, ...]
    modes: tuple[ModeName, ...]
    image: ImageName
    cores: int
    memory_bytes: int
    disk_bytes: int
    idle_after_seconds: float
    min_uptime_seconds: float | None
    """None: what its wakes cost decides."""
    patience: Patience
    connect: ConnectSpec | None = None
    extra_user_data: Path | None = None
    """A cloud-config that is merged into ours, for the guest's first boot."""
    adopt: bool = False
    """The VM is somebody else's work: woken, slept and watched, never created, changed or deleted."""
    options: VmOptions = VmOptions()
    web_ui: WebUiSpec | None = None
    """A page to chat with, beside its engines."""
    noted_mode: ModeName | None = None
    """What its VM's notes say that it is for; None while nobody has looked, or where they say nothing."""
    cloud_init: CloudInit = CloudInit.SEED
    software: GuestSoftware = field(default_factory=GuestSoftware)
    clone: CloneChoice = CloneChoice.AUTO
    """Whether its VM is made as a linked clone of a template."""
    api_key: SecretReference | None = None
    """What clients of its engines must send, where the engine can ask for it."""
    models: ModelKeeping = field(default_factory=ModelKeeping)
    priority: int = 0
    """Who is higher gets a GPU that several want; its mode may say otherwise."""
    min_residence_seconds: float = 300.0
    """How long it keeps its GPUs at least before it gives way to another VM."""
    gpu_wait_seconds: float = 900.0
    """How long it waits for its GPUs before whoever wakes it is told no."""
    stands_in: bool = False
    """It answers with its own model for those whose nodes are away."""
    rest_after_seconds: float | None = None
    """Quiet for so long, its model leaves the GPU's memory; None for never before the VM goes off."""
    awake: AwakePlan = field(default_factory=AwakePlan)
    may_cut_power: bool = False
    """An idle pass may cut the power of a guest that does not shut down."""
    idle_watts: float | None = None
    """What it draws awake with nothing to do, and asleep: read from a meter. None: nobody has."""
    asleep_watts: float | None = None

    @property
    def subject(self) -> str:
        """The node, in the words of every message."""
        return f'node "{self.name}" (vm {self.vmid} on {self.hypervisor})'

    @property
    def reach(self) -> ConnectSpec:
        """Where to connect: the override, or the node's own address."""
        return self.connect or ConnectSpec(str(self.address.ip))

    @property
    def mode(self) -> ModeName:
        """What the node is for now: as noted on its VM, else its first mode."""
        return self.noted_mode or self.modes[0]


_Name = TypeVar("_Name", bound=str)
_Spec = TypeVar("_Spec")


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """The whole fleet file. Its cross-checks have passed: every name used is defined."""

    path: Path
    clusters: Mapping[ClusterName, ClusterSpec]
    hypervisors: Mapping[HypervisorName, HypervisorSpec]
    images: Mapping[ImageName, ImageSpec]
    engines: Mapping[EngineName, EngineSpec]
    models: Mapping[str, Artifact]
    modes: Mapping[ModeName, ModeSpec]
    nodes: Mapping[NodeName, NodeSpec]
    ssh: SshAccess = SshAccess()
    releases: Mapping[ModeName, GpuRelease] = field(default_factory=dict)
    """The modes without an engine; no name is in both tables."""
    huggingface_token: SecretReference | None = None
    service: ServiceSpec = field(default_factory=ServiceSpec)
    electricity: Price | None = None
    """What it costs; None where the file does not say."""

    orchestrators: Mapping[OrchestratorName, OrchestratorSpec] = field(default_factory=dict)

    def node(self, name: str) -> NodeSpec:
        """Return a node. Raises UnknownNameError that lists the known ones."""
        return self._known("node", self.nodes, NodeName(name))

    def hypervisor(self, name: str) -> HypervisorSpec:
        """Return a hypervisor. Raises UnknownNameError that lists the known ones."""
        return self._known("hypervisor", self.hypervisors, HypervisorName(name))

    def cluster_of(self, node: NodeSpec) -> ClusterSpec:
        """Return the cluster that a node lives in."""
        return self.clusters[self.hypervisors[node.hypervisor].cluster]

    def gpus_of(self, node: NodeSpec) -> tuple[GpuSpec, ...]:
        """Return the GPU slots a node uses, in the order it names them."""
        return tuple(self.hypervisors[node.hypervisor].gpus[gpu] for gpu in node.gpus)

    def model_storage(self, node: NodeSpec) -> StorageName | None:
        """Return the storage of a node's model disk, or None where it has none."""
        if node.models.disk_bytes is None or node.adopt:
            return None
        return node.models.storage or self.cluster_of(node).storage.disks

    def disk_storages(self, cluster: ClusterName) -> tuple[StorageName, ...]:
        """Return the storages of a cluster that hold disks: that of the boot disks, then those of model disks."""
        first = self.clusters[cluster].storage.disks
        own = (node for node in self.nodes.values() if self.hypervisors[node.hypervisor].cluster == cluster)
        return tuple(dict.fromkeys((first, *filter(None, map(self.model_storage, own)))))

    def mode_of(self, node: NodeSpec) -> ModeSpec:
        """Return the mode that a node serves; while its GPUs are given away, the one that it comes back to."""
        if node.mode in self.modes:
            return self.modes[node.mode]
        return self.modes_of(node)[0]

    def modes_of(self, node: NodeSpec) -> tuple[ModeSpec, ...]:
        """Return the modes that a node may serve, in the order it names them; never none."""
        return tuple(self.modes[name] for name in node.modes if name in self.modes)

    def span_of(self, node: NodeSpec, mode: ModeSpec | None = None) -> tuple[NodeSpec, ...]:
        """Return the nodes that serve a mode of a node together, their head first; none where it serves it alone.

        Args:
            node: which.
            mode: one of its modes; the one that it is in when none is given.
        """
        if mode is None and self.release_of(node) is not None:
            return ()
        return tuple(self.nodes[name] for name in (mode or self.mode_of(node)).nodes)

    def answering(self, node: NodeSpec) -> NodeSpec:
        """Return the node whose engine answers for a node in its mode: the head where several serve it, or itself."""
        head = next(iter(self.span_of(node)), node)
        return node if head.name == node.name else self.in_mode(head, self.mode_of(node).name)

    def others_beside(self, node: NodeSpec) -> tuple[NodeSpec, ...]:
        """Return the other nodes that serve a node's mode with it, each in that mode."""
        mode = self.mode_of(node).name
        return tuple(self.in_mode(each, mode) for each in self.span_of(node) if each.name != node.name)

    def release_of(self, node: NodeSpec) -> GpuRelease | None:
        """Return to whom a node's GPUs are given, or None while it has them itself."""
        return self.releases.get(node.mode)

    def priority_of(self, node: NodeSpec) -> int:
        """Return who is preferred where several want one GPU: what its mode says, else what the node says."""
        mode = self.modes.get(node.mode) or self.releases.get(node.mode)
        return node.priority if mode is None or mode.priority is None else mode.priority

    def in_mode(self, node: NodeSpec, noted: ModeName | None) -> NodeSpec:
        """Return a node as its VM's notes say that it is used; a mode that is no longer one of its modes is none."""
        return replace(node, noted_mode=noted if noted in node.modes else None)

    def nodes_serving(self, model: str) -> tuple[NodeSpec, ...]:
        """Return the nodes that answer for a model, in file order, each in the first such mode.

        Raises UnknownNameError that lists the known models.
        """
        found = tuple(
            self.in_mode(node, mode.name)
            for node in self.nodes.values()
            if (mode := next((each for each in self.modes_of(node) if self._answers(node, each, model)), None))
        )
        if not found:
            known = sorted(
                {each for node in self.nodes.values() for mode in self.modes_of(node) for each in mode.models}
            )
            raise UnknownNameError(
                f'cannot find a node that serves model "{model}"',
                subject=f"fleet file {self.path}",
                next_step=f"use one of: {', '.join(known) or 'none is defined'}; or give a node a mode with it",
            )
        return found

    def heads(self, mode: ModeSpec) -> tuple[NodeSpec, ...]:
        """Return the nodes that clients of a mode speak to: its head, or each node that has it."""
        return tuple(node for node in self.nodes.values() if mode in self.modes_of(node) and self._is_head(node, mode))

    @staticmethod
    def _is_head(node: NodeSpec, mode: ModeSpec) -> bool:
        return not mode.nodes or mode.nodes[0] == node.name

    def _answers(self, node: NodeSpec, mode: ModeSpec, model: str) -> bool:
        return model in mode.models and self._is_head(node, mode)

    def _known(self, kind: str, table: Mapping[_Name, _Spec], name: _Name) -> _Spec:
        try:
            return table[name]
        except KeyError:
            raise UnknownNameError(
                f'cannot find {kind} "{name}"',
                subject=f"fleet file {self.path}",
                next_step=f"use one of: {', '.join(table) or 'none is defined'}",
            ) from None
