"""Brings one node's VM into being: created from an image, or cloned from a template; and waits for others who do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from provisioner.domain.actions import AwaitCreation, Plan
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import StorageName, Vmid
from provisioner.domain.notes import read_notes, write_notes
from provisioner.domain.templates import Template, TemplateShape
from provisioner.domain.vm_traits import VmShape
from provisioner.engines.base import InferenceEngine
from provisioner.errors import HypervisorError, VmidTakenError
from provisioner.planning.creation import seed_of
from provisioner.planning.vm_shape import new_notes, seed_volume
from provisioner.ports.clock import Clock
from provisioner.ports.hypervisors import Hypervisors
from provisioner.ports.seeds import HostKeyPair, Seeds
from provisioner.services.outcomes import Outcome, done
from provisioner.services.seed_isos import remove_seed
from provisioner.services.templates import TemplateMaker
from provisioner.services.vm_writer import VmWriter
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

_CREATION_SECONDS = 1800.0
# Whose it is cannot be told either: what is being made shows neither name nor tags.
_NOBODY = "no task in our sight makes it: its creation died on the way, or is somebody else's"
_CREATES = frozenset({"qmcreate", "qmrestore", "qmclone"})
NewKey = Callable[[], HostKeyPair]
Say = Callable[[str], None]


@dataclass(slots=True)
class VmMaker:
    """Makes the VM of one node during one run of `up`."""

    fleet: FleetSpec
    node: NodeSpec
    engine: InferenceEngine
    hypervisors: Hypervisors
    seeds: Seeds
    clock: Clock
    templates: TemplateMaker
    _vmid_was_taken: bool = False
    _template: Template | None = None
    _doubtful_seed: tuple[StorageName, str] | None = None

    def create(self, shape: VmShape, vm: VmWriter, new_key: NewKey) -> Outcome:
        """Create the VM, its disk an import of the image. Raises HypervisorError."""
        whole = self._begin(shape, vm, new_key)
        return self._make(whole, lambda: self.hypervisors.create_vm(self.node.hypervisor, whole, vm.notes))

    def make_template(self, wanted: TemplateShape, say: Say) -> Outcome:
        """Make the template that the VM is to be a clone of, unless it is there. Raises HypervisorError."""
        made = self.templates.ensure(self.hypervisors, self.node, wanted, say)
        self._template = made.template
        detail = f"vm {made.template.vmid}, {wanted.name}"
        return done(detail, made.warnings) if made.changed else Outcome(False, f"{detail}, is there meanwhile")

    def clone(self, shape: VmShape, vm: VmWriter, new_key: NewKey, template: Template) -> Outcome:
        """Make the VM as a clone. Raises HypervisorError."""
        whole = self._begin(shape, vm, new_key)
        return self._make(whole, lambda: self.hypervisors.clone_vm(self.node.hypervisor, template, whole, vm.notes))

    def template(self, wanted: TemplateShape, ready: Template | None, say: Say) -> Template:
        """Return the template to clone: the one the plan knew, the one just made, or one made now."""
        return ready or self._template or self.templates.ensure(self.hypervisors, self.node, wanted, say).template

    def shape(self, shape: VmShape, vm: VmWriter) -> Outcome:
        """Finish a clone whose making was cut short. Raises ConfigChangedError."""
        # What makes a VM name its seed is the key that its notes name.
        return done(f"vm {shape.vmid}", vm.shape_clone(self._whole(shape, read_notes(vm.notes).host_key)))

    def await_creation(self, vmid: Vmid) -> Outcome:
        """Wait for whoever makes the VM right now. Raises HypervisorError when nobody does any more."""

        def look() -> Outcome | NotYet:
            vm = self.hypervisors.vm(self.node.hypervisor, vmid)
            if vm is None:
                return Outcome(False, "it failed and left nothing behind", replan=True)
            if not vm.is_being_made:
                return Outcome(True, "it is done", replan=True)
            if _CREATES & self.hypervisors.active_tasks(self.node.hypervisor, vmid):
                looks_without_task[0] = 0
                return NotYet(f"locked ({vm.lock})")
            # One that ends takes its lock off as its last act, so a second look tells the end from a death.
            looks_without_task[0] += 1
            if looks_without_task[0] > 1:
                raise self._creation_died(vmid, f"locked ({vm.lock})", _NOBODY)
            return NotYet(f"locked ({vm.lock}), and no task in sight")

        looks_without_task = [0]
        try:
            return wait_until(look, clock=self.clock, seconds=_CREATION_SECONDS, pace=Pace(longest=5.0))
        except WaitedInVain as waited:
            why = f"it has been in creation for more than {waited.seconds:g} s"
            raise self._creation_died(vmid, waited.last_seen, why) from waited

    def _begin(self, shape: VmShape, vm: VmWriter, new_key: NewKey) -> VmShape:
        """Note what the VM is made for, and return its shape with what only we know."""
        key = None if shape.cloud_init is not None else new_key().public
        notes = new_notes(self.node, self.engine, self.fleet.mode_of(self.node).model, key)
        vm.notes = write_notes(vm.notes, self.node.name, notes)
        return self._whole(shape, key)

    def _whole(self, shape: VmShape, host_key: str | None) -> VmShape:
        if shape.cloud_init is None:
            return replace(shape, seed_volume=seed_volume(self.node, host_key))
        return replace(shape, cloud_init=replace(shape.cloud_init, authorized_keys=self.seeds.authorized_keys()))

    def _make(self, shape: VmShape, make: Callable[[], tuple[str, ...]]) -> Outcome:
        try:
            warnings = make()
        except VmidTakenError:
            if shape.cloud_init is None:
                self._doubtful_seed = (shape.iso_storage, shape.seed_volume)
            # Whoever took it between look and creation will be seen now; one that stays out of sight is an error.
            if self._vmid_was_taken:
                self._take_back_seed()
                raise
            self._vmid_was_taken = True
            return Outcome(False, f"vmid {shape.vmid} was taken meanwhile", replan=True)
        return done(f"vm {shape.vmid}", warnings)

    def take_back_seed(self, plan: Plan) -> None:
        """Take our seed off the storage again if another's VM was there first, which names a seed of its own.

        Only once that can be told: the VM may be ours after all, made by a request whose answer was lost.
        """
        being_made = any(isinstance(step.action, AwaitCreation) for step in plan.steps)
        if self._doubtful_seed is None or plan.seen is None or being_made:
            return
        if seed_of(self.fleet, self.node, plan.seen) != self._doubtful_seed:
            self._take_back_seed()
        self._doubtful_seed = None

    def _take_back_seed(self) -> None:
        if self._doubtful_seed is None:
            return
        storage, volume = self._doubtful_seed
        # Whoever won may have swept it away.
        if volume in self.hypervisors.volumes(self.node.hypervisor, storage, "iso"):
            remove_seed(self.hypervisors, self.seeds, self.fleet, self.node, storage, volume)

    def _creation_died(self, vmid: Vmid, state: str, why: str) -> HypervisorError:
        return HypervisorError(
            f"cannot go on: VM {vmid} is {state}, and {why}",
            subject=self.node.subject,
            next_step=(
                "see whether a task makes it (Proxmox > Tasks; a token sees the tasks of others only with Sys.Audit on "
                f"/nodes/{self.node.hypervisor}), and let it finish. If none does, and the VM is nobody else's, on "
                f"the server: qm unlock {vmid} && qm destroy {vmid}; then: provisioner up {self.node.name}"
            ),
        )
