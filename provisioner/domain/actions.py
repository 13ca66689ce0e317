"""The vocabulary of steps, and the plan made of them. Printing a plan moves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.fleet import ImageSpec, NodeSpec
from provisioner.domain.names import MappingId, NodeName, StorageName, Vmid


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


@dataclass(frozen=True, slots=True)
class DownloadImage:
    """Have the hypervisor fetch a cloud image and verify its checksum."""

    image: ImageSpec
    storage: StorageName


@dataclass(frozen=True, slots=True)
class UploadSeed:
    """Make the guest's SSH host key and upload the seed ISO that gives it to the guest."""

    storage: StorageName
    volume: str


@dataclass(frozen=True, slots=True)
class AwaitCreation:
    """Let a creation that is already under way come to its end."""

    vmid: Vmid


@dataclass(frozen=True, slots=True)
class CreateVm:
    """Create the VM with our tag, its disk imported from the image."""

    shape: VmShape


@dataclass(frozen=True, slots=True)
class RenewNotes:
    """Write the host key of a newly made seed into the notes of a VM that exists."""

    vmid: Vmid


@dataclass(frozen=True, slots=True)
class GrowDisk:
    """Grow the boot disk to the wanted size."""

    vmid: Vmid
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StartVm:
    """Power on."""

    vmid: Vmid


@dataclass(frozen=True, slots=True)
class AwaitGuest:
    """Log in with the known host key and let cloud-init finish."""

    boot_seconds: float


@dataclass(frozen=True, slots=True)
class SealSeed:
    """Replace the seed ISO by one without the private host key."""

    storage: StorageName
    volume: str


@dataclass(frozen=True, slots=True)
class RunPlaybook:
    """Converge the guest with one of our playbooks."""

    playbook: str
    variables: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ProveEngine:
    """Have the engine answer: healthy, model listed, one chat."""

    engine_seconds: float


Action = (
    DownloadImage
    | UploadSeed
    | AwaitCreation
    | CreateVm
    | RenewNotes
    | GrowDisk
    | StartVm
    | AwaitGuest
    | SealSeed
    | RunPlaybook
    | ProveEngine
)


class StepKind(Enum):
    """Whether a step is known to change something, or makes sure and changes only what has drifted."""

    CHANGE = "change"
    ENSURE = "ensure"


@dataclass(frozen=True, slots=True)
class Step:
    """One action with its short name and the reason it is there."""

    name: str
    kind: StepKind
    action: Action
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing will be done, and what to do about it."""

    reason: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` would do for one node."""

    node: NodeSpec
    steps: tuple[Step, ...]
    refusal: Refusal | None = None
    notes: str = ""
    """The VM's notes as they were when the plan was made."""
    remark: str = ""
    """What a reader should know beside the steps."""

    @property
    def has_changes(self) -> bool:
        """At least one step is known to change something."""
        return any(step.kind is StepKind.CHANGE for step in self.steps)

    def __str__(self) -> str:
        lines = [f"{self.node.subject}{f': {self.remark}' if self.remark else ''}"]
        if self.refusal:
            lines += [f"  refused: {self.refusal.reason}", f"  next: {self.refusal.next_step}"]
        lines += [f"  {'+' if step.kind is StepKind.CHANGE else '='} {step}" for step in self.steps]
        return "\n".join(lines)
