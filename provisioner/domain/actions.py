"""The vocabulary of steps, and the plan made of them. Printing a plan moves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.fleet import ImageSpec, NodeSpec
from provisioner.domain.gpu_driver import DriverWish
from provisioner.domain.model_keeping import VmDisk
from provisioner.domain.names import MappingId, StorageName, Vmid
from provisioner.domain.refusal import Refusal as Refusal
from provisioner.domain.snapshot import VmConfig
from provisioner.domain.templates import Template, TemplateShape
from provisioner.domain.vm_traits import Drift, Trait
from provisioner.domain.vm_traits import VmShape as VmShape


@dataclass(frozen=True, slots=True)
class DownloadImage:
    """Have the hypervisor fetch a cloud image and verify its checksum."""

    image: ImageSpec
    storage: StorageName


@dataclass(frozen=True, slots=True)
class UploadSeed:
    """Make the guest's SSH host key and upload the seed ISO that gives it to the guest.

    `volume` is the name in the VM's drive; None where no VM names one yet: it is named after the key then.
    """

    storage: StorageName
    volume: str | None


@dataclass(frozen=True, slots=True)
class AwaitCreation:
    """Let a creation that is already under way come to its end."""

    vmid: Vmid


@dataclass(frozen=True, slots=True)
class CreateVm:
    """Create the VM with our tag, its disk imported from the image."""

    shape: VmShape


@dataclass(frozen=True, slots=True)
class MakeTemplate:
    """Make the template of an image, or finish one that was begun; whoever comes later uses the same."""

    template: TemplateShape


@dataclass(frozen=True, slots=True)
class CloneVm:
    """Make the VM with our tag as a linked clone; of `ready`, or of the template that a step before has made."""

    shape: VmShape
    template: TemplateShape
    ready: Template | None = None


@dataclass(frozen=True, slots=True)
class ShapeClone:
    """Give a clone whose making was cut short its shape, with all that it has for its first boot."""

    shape: VmShape


@dataclass(frozen=True, slots=True)
class VmChange:
    """Traits of an existing VM to be brought to a shape; nothing else of it is written.

    `notes` is the whole new text, or None to leave it. `known_gpus` are the
    mappings that the fleet calls GPUs on this hypervisor: of the devices passed
    through only those are ours to move.
    """

    shape: VmShape
    traits: frozenset[Trait]
    notes: str | None = None
    known_gpus: frozenset[MappingId] = frozenset()


@dataclass(frozen=True, slots=True)
class ChangeVm:
    """Write a change, if the configuration is still the one that was planned for."""

    change: VmChange


@dataclass(frozen=True, slots=True)
class RestartVm:
    """Shut down cleanly and start, unless the node is busy: then the change waits for its next start."""

    vmid: Vmid


@dataclass(frozen=True, slots=True)
class RenewNotes:
    """Write the host key of a newly made seed into the notes of a VM that exists."""

    vmid: Vmid


@dataclass(frozen=True, slots=True)
class GrowDisk:
    """Grow a disk to the wanted size."""

    vmid: Vmid
    size_bytes: int
    disk: VmDisk = VmDisk.BOOT


@dataclass(frozen=True, slots=True)
class AddModelDisk:
    """Give the VM an empty disk for models; the guest formats it."""

    vmid: Vmid
    storage: StorageName
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StartVm:
    """Power on."""

    vmid: Vmid


@dataclass(frozen=True, slots=True)
class ReadHostKey:
    """Read the SSH host key that the guest made for itself through its agent, once cloud-init has finished."""

    boot_seconds: float


@dataclass(frozen=True, slots=True)
class ConcludeFirstBoot:
    """Note that the first boot from Proxmox's own cloud-init drive is over; there is nothing to seal."""


@dataclass(frozen=True, slots=True)
class AwaitGuest:
    """Log in with the known host key and let cloud-init finish."""

    boot_seconds: float


@dataclass(frozen=True, slots=True)
class GrowFilesystem:
    """Let the guest's filesystems fill their disks; cloud-init, which would, is off after the first boot."""


@dataclass(frozen=True, slots=True)
class SealSeed:
    """Replace the seed ISO by one without the private host key, and take away those of makings that came to nothing.

    `volume` is the name in the VM's drive; None where that is named after the guest's key.
    """

    storage: StorageName
    volume: str | None


@dataclass(frozen=True, slots=True)
class RunPlaybook:
    """Converge the guest with one of our playbooks."""

    playbook: str
    variables: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ConvergeGuest:
    """Run a playbook, unless the guest shows that it is as that playbook left it: its files, and `units` that run."""

    playbook: str
    variables: Mapping[str, object]
    units: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstallDriver:
    """Give the guest the driver of its cards; `ids` are those of its mappings, where they were looked at.

    With `renew` kernel and driver, which are held otherwise, are upgraded too.
    """

    wish: DriverWish
    ids: tuple[tuple[str, str], ...] = ()
    cuda_toolkit: str | None = None
    renew: bool = False


@dataclass(frozen=True, slots=True)
class CheckArguments:
    """Hold the arguments of modes against what the engine that was laid down says of itself.

    `arguments` are those by the names of their modes. `command` prints the
    engine's help; it changes only with what is laid down, so the guest keeps
    what was printed under `kept`.
    """

    engine: str
    version: str
    arguments: Mapping[str, Mapping[str, object]]
    command: tuple[str, ...]
    kept: str
    privileged: bool = False


@dataclass(frozen=True, slots=True)
class PullModels:
    """Have the running engine fetch models into its own store."""

    models: tuple[str, ...]
    engine_seconds: float


@dataclass(frozen=True, slots=True)
class ProveEngine:
    """Have the engine answer: healthy, model listed, one chat."""

    engine_seconds: float


Action = (
    DownloadImage
    | UploadSeed
    | AwaitCreation
    | CreateVm
    | MakeTemplate
    | CloneVm
    | ShapeClone
    | ChangeVm
    | RestartVm
    | RenewNotes
    | GrowDisk
    | AddModelDisk
    | StartVm
    | ReadHostKey
    | ConcludeFirstBoot
    | AwaitGuest
    | GrowFilesystem
    | SealSeed
    | RunPlaybook
    | ConvergeGuest
    | InstallDriver
    | CheckArguments
    | PullModels
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
    drifts: tuple[Drift, ...] = ()
    """What is not as it should be, with both values."""
    at_cold_start: frozenset[Trait] = frozenset()
    """Of those, what takes effect only once the node, which runs, was off."""

    @property
    def needs_cold_start(self) -> bool:
        """The node runs, and this takes effect only once it was off."""
        return bool(self.at_cold_start)

    @property
    def id(self) -> str:
        """The name for programs; one plan has no two steps of one name."""
        return self.name.replace(" ", "-")

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind.value,
            "reason": self.reason,
            "changes": [
                {
                    "field": drift.trait.value,
                    "from": drift.seen,
                    "to": drift.wanted,
                    "needs_cold_start": drift.trait in self.at_cold_start,
                }
                for drift in self.drifts
            ],
            "needs_cold_start": self.needs_cold_start,
        }

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` would do for one node."""

    node: NodeSpec
    steps: tuple[Step, ...]
    refusal: Refusal | None = None
    seen: VmConfig | None = None
    """The VM's configuration that the plan was made for."""
    remark: str = ""
    """What a reader should know beside the steps."""

    @property
    def digest(self) -> str:
        """Proxmox's digest of that configuration; empty when there was no VM."""
        return self.seen.digest if self.seen else ""

    @property
    def notes(self) -> str:
        """The VM's notes as they were when the plan was made."""
        return self.seen.notes if self.seen else ""

    @property
    def renews_driver(self) -> bool:
        """Kernel and driver of the guest are to be upgraded."""
        return any(isinstance(step.action, InstallDriver) and step.action.renew for step in self.steps)

    @property
    def has_changes(self) -> bool:
        """At least one step is known to change something."""
        return any(step.kind is StepKind.CHANGE for step in self.steps)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node.name,
            "vmid": self.node.vmid,
            "hypervisor": self.node.hypervisor,
            "refused": self.refusal.reason if self.refusal else None,
            "next_step": self.refusal.next_step if self.refusal else None,
            "remark": self.remark,
            "digest": self.digest,
            "has_changes": self.has_changes,
            "steps": [step.as_dict() for step in self.steps],
        }

    def __str__(self) -> str:
        lines = [f"{self.node.subject}{f': {self.remark}' if self.remark else ''}"]
        if self.refusal:
            lines += [f"  refused: {self.refusal.reason}", f"  next: {self.refusal.next_step}"]
        lines += [f"  {'+' if step.kind is StepKind.CHANGE else '='} {step}" for step in self.steps]
        return "\n".join(lines)
