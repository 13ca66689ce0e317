"""Carries out steps: the only `match` over actions, each of which becomes port calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from provisioner.domain import actions
from provisioner.domain.fleet import FleetSpec, ImageSpec, NodeSpec, SecretReference
from provisioner.domain.names import StorageName, Vmid
from provisioner.domain.notes import read_notes
from provisioner.domain.quantities import size_text
from provisioner.domain.snapshot import Power
from provisioner.engines.base import InferenceEngine
from provisioner.errors import (
    EngineError,
    HypervisorError,
    NotReadyError,
    RefusedError,
)
from provisioner.planning.launches import EngineUnit, unit_of
from provisioner.planning.native_drive import is_native
from provisioner.planning.ownership import halted
from provisioner.planning.vm_shape import cold_drifts, seed_volume
from provisioner.ports.clock import Clock
from provisioner.ports.guest_shell import GuestShell
from provisioner.ports.hypervisors import Hypervisors, Ticket
from provisioner.ports.playbooks import Playbooks
from provisioner.ports.seeds import HostKeyPair, Seeds
from provisioner.ports.web import Web
from provisioner.services.converging import converge
from provisioner.services.diagnosing import LOGIN_SECONDS, explained
from provisioner.services.engine_evidence import require_on_gpu
from provisioner.services.engine_help import check_arguments_in_guest
from provisioner.services.gpu_driver import install_driver
from provisioner.services.gpu_holder import naming_gpu_holder
from provisioner.services.guest_access import GuestAccess
from provisioner.services.guest_disk import fill_disks
from provisioner.services.guest_host_key import read_host_key
from provisioner.services.model_room import ModelRoom
from provisioner.services.outcomes import Outcome, done
from provisioner.services.playbook_secrets import with_secrets
from provisioner.services.proving import EngineProbe, Proof
from provisioner.services.seed_isos import remove_seeds
from provisioner.services.together import all_of
from provisioner.services.vm_maker import VmMaker
from provisioner.services.vm_writer import VmWriter

# A boot that has died shows in Proxmox, not in the guest; looking there costs an API call each time.
_POWER_LOOK_SECONDS = 10.0
# The guest has answered a moment before.
_SHELL_SECONDS = 60.0


def _no_secret(reference: SecretReference) -> str:
    raise AssertionError(f"a plan with secrets needs a way to read {reference}")


def _refuse_to_stop(look_inside: bool) -> None:
    raise AssertionError("a plan that restarts a VM needs a way to shut it down")


def _refuse_to_start(say: Callable[[str], None]) -> Ticket | None:
    raise AssertionError("a plan that starts a VM needs a way to")


def _needs_nobody(seconds: float) -> Callable[[], None]:
    return lambda: None


@dataclass(slots=True)
class Executor:
    """Carries out the steps of one node's plan, in order; holds what one step learns for the next."""

    fleet: FleetSpec
    node: NodeSpec
    engine: InferenceEngine
    hypervisors: Hypervisors
    guests: GuestAccess
    playbooks: Playbooks
    seeds: Seeds
    web: Web
    clock: Clock
    maker: VmMaker
    image_lock: Callable[[StorageName, str], AbstractContextManager[object]] = lambda storage, image: nullcontext()
    """Held while an image is fetched to a storage."""
    secret: Callable[[SecretReference], str] = _no_secret
    """Reads a secret for a playbook."""
    shut_down: Callable[[bool], object] = _refuse_to_stop
    """Puts the node to sleep as `sleep` does, told whether its guest can be asked; raises RefusedError while busy."""
    start: Callable[[Callable[[str], None]], Ticket | None] = _refuse_to_start
    """Starts the node's VM with its GPUs; None where somebody else does."""
    undisturbed: Callable[[], AbstractContextManager[object]] = nullcontext
    """Lets no request to the node meanwhile; raises RefusedError while it is busy."""
    others: Callable[[float], Callable[[], None]] = _needs_nobody
    """Given seconds, returns a look that raises when the nodes that serve its mode with it have been off so long."""
    left_for_next_start: str = ""
    """Why changes wait, when they do."""
    proof: Proof | None = None
    _new_key: HostKeyPair | None = field(default=None, repr=False)
    vm: VmWriter = field(init=False)

    def carry_out(self, action: actions.Action, say: Callable[[str], None]) -> Outcome:
        """Do one action. Raises ProvisionerError."""
        match action:
            case actions.DownloadImage(image, storage):
                return self._download(image, storage)
            case actions.UploadSeed(storage, volume):
                return self._upload_seed(storage, volume)
            case actions.AwaitCreation(vmid):
                return self.maker.await_creation(vmid)
            case actions.CreateVm(shape):
                return self.maker.create(shape, self.vm, self._key)
            case actions.MakeTemplate(wanted):
                return self.maker.make_template(wanted, say)
            case actions.CloneVm(shape, wanted, ready):
                return self.maker.clone(shape, self.vm, self._key, self.maker.template(wanted, ready, say))
            case actions.ShapeClone(shape):
                return self.maker.shape(shape, self.vm)
            case actions.ChangeVm(change):
                return done(", ".join(sorted(trait.value for trait in change.traits)), self.vm.change(change))
            case actions.RestartVm(vmid):
                return self._restart(vmid, say)
            case actions.RenewNotes(vmid):
                self.vm.write_notes(lambda notes: replace(notes, host_key=self._key().public, seed_is_sealed=False))
                return Outcome(True)
            case actions.GrowDisk(vmid, size_bytes, disk):
                return done(size_text(size_bytes), self.vm.grow_disk(vmid, size_bytes, disk))
            case actions.AddModelDisk(vmid, storage, size_bytes):
                return done(f"{size_text(size_bytes)} on {storage}", self.vm.add_model_disk(vmid, storage, size_bytes))
            case actions.StartVm():
                self._forget_old_key()
                with naming_gpu_holder(self.fleet, self.node, self.hypervisors):
                    warnings = self._start(say)
                return done("running", warnings)
            case actions.ReadHostKey(seconds):
                return self._read_host_key(seconds, say)
            case actions.ConcludeFirstBoot():
                self.vm.write_notes(lambda notes: replace(notes, seed_is_sealed=True))
                return Outcome(True, "nothing to seal: Proxmox's cloud-init drive never held a secret")
            case actions.AwaitGuest(seconds):
                return self._await_guest(seconds, say)
            case actions.GrowFilesystem():
                with self.guests.shell(self.node, self._host_key(), seconds=_SHELL_SECONDS) as shell:
                    grown = fill_disks(shell, self.node)
                return Outcome(grown.changed, grown.detail)
            case actions.SealSeed(storage, volume):
                return self._seal(storage, volume)
            case actions.ConvergeGuest() | actions.InstallDriver():
                return self._converge(action, say)
            case actions.RunPlaybook() | actions.CheckArguments() if self.left_for_next_start:
                # It may restart the engine, and would fit it to a VM that is not there yet.
                return Outcome(False, "left until the node was restarted: it is in use")
            case actions.RunPlaybook(playbook, variables):
                given = with_secrets(variables, lambda reference: self.secret(reference))
                self._room(say).make_for(self.playbooks, playbook, variables)
                outcome = self.playbooks.run(playbook, self.node, self._host_key(), given, say)
                what = ", ".join(outcome.changed) if outcome.changed else "everything was in place"
                return Outcome(bool(outcome.changed), f"{outcome.tasks} tasks, {len(outcome.changed)} changed: {what}")
            case actions.CheckArguments():
                return check_arguments_in_guest(action, self.node, self._shell)
            case actions.PullModels(models, seconds):
                return self._pull(models, seconds, say)
            case actions.ProveEngine(seconds):
                return self._prove(seconds, say)

    def _download(self, image: ImageSpec, storage: StorageName) -> Outcome:
        with self.image_lock(storage, image.volume_name):
            # Nodes that come up side by side want the same image; the first fetches it for all.
            if image.volume_name in self.hypervisors.volumes(self.node.hypervisor, storage, "import"):
                return Outcome(False, "fetched for another node meanwhile")
            warnings = self.hypervisors.download_image(self.node.hypervisor, storage, image)
        return done(image.volume_name, warnings)

    def _host_key(self) -> str:
        key = read_notes(self.vm.notes).host_key
        if key is None:
            raise HypervisorError(
                "cannot log in to the guest: its VM's notes no longer hold its SSH host key",
                subject=self.node.subject,
                next_step=(
                    f"read it on the console (Proxmox > VM {self.node.vmid} > Console: cat "
                    "/etc/ssh/ssh_host_ed25519_key.pub) and add a line `ssh-host-key: ssh-ed25519 AAAA...` to the notes"
                ),
            )
        return key

    def begin(self, plan: actions.Plan) -> None:
        """Take over what a plan knows of the VM."""
        self.vm = VmWriter(self.node, self.hypervisors, plan.seen)

    def _restart(self, vmid: Vmid, say: Callable[[str], None]) -> Outcome:
        """Let what has been written take effect, unless somebody uses the node."""
        here = self.node.hypervisor
        boots_anew = read_notes(self.vm.notes).boots_anew
        if not boots_anew and not cold_drifts(self.fleet, self.node, self.hypervisors.config(here, vmid)):
            return Outcome(False, "everything took effect at once")
        try:
            # While its host key is being changed nobody gets in to ask.
            self.shut_down(not boots_anew)
        except RefusedError as busy:
            self.left_for_next_start = busy.summary
            return Outcome(
                False,
                f"left for its next start: {busy.summary}; "
                f"at once: provisioner sleep {self.node.name}, then provisioner wake {self.node.name}",
            )
        self._forget_old_key()
        with naming_gpu_holder(self.fleet, self.node, self.hypervisors):
            warnings = self._start(say)
        return done("shut down and started", warnings)

    def _start(self, say: Callable[[str], None]) -> tuple[str, ...]:
        """Start the VM once its GPUs are its own; return when it runs, with what Proxmox warned of."""
        ticket = self.start(say)
        if ticket is None:
            return ()
        ticket.wait()
        return ticket.warnings

    def _key(self) -> HostKeyPair:
        """Return the key of this run's first boot; seed and notes carry the same one."""
        if self._new_key is None:
            self._new_key = self.seeds.new_host_key()
        return self._new_key

    def _forget_old_key(self) -> None:
        """Before a start that makes new keys, note that there is none: who goes on after us must not restart again."""
        if read_notes(self.vm.notes).boots_anew:
            self.vm.write_notes(lambda notes: replace(notes, host_key=None, boots_anew=False))

    def _read_host_key(self, seconds: float, say: Callable[[str], None]) -> Outcome:
        if self.left_for_next_start:
            # The settings that it runs with are not the ones to be proved, nor need it be at this address.
            raise RefusedError(
                "cannot go on: the guest is to have a new first boot, and was not restarted: "
                f"{self.left_for_next_start}",
                subject=self.node.subject,
                next_step=f"when nobody uses it: provisioner sleep {self.node.name}, then provisioner up "
                f"{self.node.name}; --force with sleep, if it answers at an address that the fleet file no longer has",
                retryable=True,
            )
        key = read_host_key(
            self.hypervisors,
            self.node,
            self.clock,
            seconds=seconds,
            still_worth_it=self._watch_power(),
            say=say,
        )
        self.vm.write_notes(lambda notes: replace(notes, host_key=key, seed_is_sealed=False, boots_anew=False))
        return Outcome(True, f"{key.split()[0]}, read through the guest agent")

    def _await_guest(self, seconds: float, say: Callable[[str], None]) -> Outcome:
        deadline = self.clock.monotonic() + seconds
        with self.guests.shell(
            self.node,
            self._host_key(),
            seconds=seconds,
            still_worth_it=self._watch_power(),
            on_change=say,
        ) as shell:
            say("logged in")
            remaining = max(deadline - self.clock.monotonic(), 1.0)
            first = self.guests.await_first_boot(shell, self.node, seconds=remaining)
        if is_native(self.node):
            # cloud-init stays on in such a guest, and says of every boot that it is done.
            first = not read_notes(self.vm.notes).seed_is_sealed
        return Outcome(first, "first boot done" if first else "logged in")

    def _watch_power(self) -> Callable[[], None]:
        """Return a look at the VM's power that costs an API call only now and then."""
        last_look = [self.clock.monotonic()]

        def look() -> None:
            if self.clock.monotonic() - last_look[0] < _POWER_LOOK_SECONDS:
                return
            last_look[0] = self.clock.monotonic()
            vm = self.hypervisors.vm(self.node.hypervisor, self.node.vmid)
            if vm is None or vm.power is Power.STOPPED:
                raise NotReadyError(
                    "cannot go on: the VM went off while its guest was booting",
                    subject=self.node.subject,
                    next_step=f"see Proxmox > VM {self.node.vmid} > Task History, then provisioner up {self.node.name}",
                    retryable=True,
                )
            if vm.halt is not None:
                # A disk that grew beyond what its storage really has shows in the first boot.
                found = halted(vm)
                raise NotReadyError(
                    f"cannot go on: {found.reason}",
                    subject=self.node.subject,
                    next_step=f"{found.next_step}; then provisioner up {self.node.name}",
                    retryable=True,
                )

        return look

    def _upload_seed(self, storage: StorageName, volume: str | None) -> Outcome:
        key = self._key()
        name = volume or seed_volume(self.node, key.public)
        iso = self.seeds.seed(self.fleet, self.node, key)
        return done(name, self.hypervisors.upload_iso(self.node.hypervisor, storage, name, iso))

    def _seal(self, storage: StorageName, volume: str | None) -> Outcome:
        key = self._host_key()
        name = volume or seed_volume(self.node, key)
        iso = self.seeds.sealed_seed(self.fleet, self.node, key)
        self.hypervisors.upload_iso(self.node.hypervisor, storage, name, iso)
        # Runs that were killed before they made the VM have left theirs; who lost it to us removes its own, too.
        remove_seeds(self.hypervisors, self.seeds, self.fleet, self.node, storage, keep=name)
        self.vm.write_notes(lambda notes: replace(notes, seed_is_sealed=True))
        return Outcome(True, "no secret is left on the ISO storage")

    def _converge(self, wanted: actions.ConvergeGuest | actions.InstallDriver, say: Callable[[str], None]) -> Outcome:
        key = self._host_key()
        if isinstance(wanted, actions.ConvergeGuest):
            return converge(self._shell, self.playbooks, self.node, key, wanted, say)
        if self.left_for_next_start:
            # It may reboot the guest.
            return Outcome(False, "left until the node was restarted: it is in use")
        with self.undisturbed() if wanted.renew else nullcontext():
            return install_driver(self._shell, self.playbooks, self.node, key, wanted, say)

    def _pull(self, models: tuple[str, ...], seconds: float, say: Callable[[str], None]) -> Outcome:
        if self.left_for_next_start:
            return Outcome(False, "left until the node was restarted: it is in use")
        probe = EngineProbe(self.fleet, self.node, self.engine, self.web, self.clock)
        room = self._room(say)
        try:
            if self.engine.stored_path:
                probe.await_health(seconds=seconds, still_worth_it=self._watch_power())
            room.keep_to_budget()
            fetched = probe.store(room).ensure(models, say) if models else ()
        except EngineError as error:
            unit = self._unit().service
            raise explained(error, self.fleet, self.node, self.engine, unit, self._shell_for_evidence) from error
        gone = [f"evicted {eviction}" for eviction in room.evicted]
        said = [f"fetched {', '.join(fetched)}" if fetched else "they are there", *gone, *filter(None, (room.left,))]
        return Outcome(bool(fetched or gone), ", ".join(said))

    def _room(self, say: Callable[[str], None]) -> ModelRoom:
        return ModelRoom(self.fleet, self.node, self.engine, self.web, self.clock, self._shell_for_evidence, say)

    def _prove(self, seconds: float, say: Callable[[str], None]) -> Outcome:
        probe = EngineProbe(self.fleet, self.node, self.engine, self.web, self.clock)
        try:
            room = self._room(say)
            if self.fleet.others_beside(self.node):
                # They may be on their first boot still.
                seconds += self.node.patience.boot_seconds
            looks = (self._watch_power(), self.others(self.node.patience.boot_seconds))
            self.proof = probe.prove(seconds=seconds, still_worth_it=all_of(*looks), say=say, room=room)
        except EngineError as error:
            unit = self._unit().service
            raise explained(error, self.fleet, self.node, self.engine, unit, self._shell_for_evidence) from error
        seen = self._on_gpu()
        if read_notes(self.vm.notes).mode_waits:
            # Its playbooks have told the guest of the mode that was chosen while it was off.
            self.vm.write_notes(lambda notes: replace(notes, mode_waits=False))
        return Outcome(False, "; ".join(filter(None, (f"answers at {self.proof.endpoint.url}", seen))))

    def _unit(self) -> EngineUnit:
        return unit_of(self.fleet, self.node, {self.engine.name: self.engine})

    def _on_gpu(self) -> str:
        """Make sure that a node with GPUs answered with their help. Raises EngineError."""
        if not self.node.gpus:
            return ""
        return require_on_gpu(self.fleet, self.node, self._unit(), self.web, self._shell_for_evidence)

    def _shell(self) -> AbstractContextManager[GuestShell]:
        return self.guests.shell(self.node, self._host_key(), seconds=_SHELL_SECONDS)

    def _shell_for_evidence(self) -> AbstractContextManager[GuestShell]:
        return self.guests.shell(self.node, self._host_key(), seconds=LOGIN_SECONDS)
