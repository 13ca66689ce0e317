"""Makes a node ready: started if it is off, and answering when this returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.measurement import WAKE, Measurement
from provisioner.domain.names import ModeName
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import EngineError, NotReadyError, ProvisionerError
from provisioner.planning.bench_figures import measured_thing
from provisioner.planning.launches import units_of
from provisioner.planning.start_times import start_seconds
from provisioner.planning.wake import WakeDecision, WakeNeed, require_gpus, wake_decision
from provisioner.ports.clock import Clock
from provisioner.ports.hypervisors import Hypervisors, Ticket
from provisioner.services.arbitration import LeasedTicket
from provisioner.services.deployments import unit_of
from provisioner.services.diagnosing import LOGIN_SECONDS, explained
from provisioner.services.engine_units import DeathWatch, switch_units
from provisioner.services.engine_web import engine_key, engine_web
from provisioner.services.entering import Entering, told
from provisioner.services.events import OnEvent, running_step
from provisioner.services.gpu_holder import naming_gpu_holder
from provisioner.services.guest_access import GuestAccess
from provisioner.services.looking import find_vm
from provisioner.services.model_room import ModelRoom
from provisioner.services.noted_modes import noted
from provisioner.services.proving import Endpoint, EngineProbe
from provisioner.services.rare_models import RareModels
from provisioner.services.settling import settled
from provisioner.services.slot_taking import SlotTaking, always
from provisioner.services.together import Together, all_of
from provisioner.services.vm_writer import VmWriter
from provisioner.services.world import World
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

# Seconds from one look at Proxmox to the next while the engine is being probed: a start that fails fails
# early, and a VM found running may be on its way down.
_LOOKS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_LATER_LOOKS = 10.0
# Between two looks at a VM on its way down.
_PACE = Pace(first=0.1, longest=2.0)


@dataclass(frozen=True, slots=True)
class WakeReport:
    """What a wake did.

    `added_seconds` is the time from the first look that found the engine
    ready to the return: model list, one chat, and nothing else.
    """

    endpoint: Endpoint
    started: bool
    seconds: float
    added_seconds: float
    calls: int
    reason: str
    """Why it did what it did."""
    mode: ModeName | None = None
    """The mode that has answered."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "endpoint": self.endpoint.as_dict(),
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "added_seconds": round(self.added_seconds, 3),
            "api_calls": self.calls,
            "reason": self.reason,
        }


class Waking:
    """`wake`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._slots = SlotTaking(fleet, world)

    def wake(self, node: NodeSpec, on_event: OnEvent, still_wanted: Callable[[], None] = always) -> WakeReport:
        """Return when the node's model has answered.

        Args:
            node: which.
            on_event: told about the steps.
            still_wanted: called for as long as nothing is started; raises when nobody wants it any more.

        Raises:
            RefusedError: there is no VM of ours to start, or another has its GPUs and stays.
            HypervisorError: Proxmox could not start it; its words are in the summary.
            NotReadyError, EngineError: it started and did not come to answer.
        """
        with ExitStack() as watched:
            return self._wake(node, on_event, still_wanted, watched)

    def _wake(
        self, node: NodeSpec, on_event: OnEvent, still_wanted: Callable[[], None], watched: ExitStack
    ) -> WakeReport:
        clock = self._world.clock
        api = self._world.clusters[self._fleet.cluster_of(node).name]
        calls, begun = api.calls, clock.monotonic()
        vm = settled(lambda: find_vm(api, node), clock=clock, seconds=self._fleet.cluster_of(node).retry_seconds)
        decision = wake_decision(node, vm)
        node, notes = noted(self._fleet, api, node)
        head = self._fleet.answering(node)
        others = Together(self._fleet, self._world).others(node)
        if head.name != node.name:
            # Nobody speaks to this one by itself: who wants it wants what it computes for.
            return self.wake(self._fleet.nodes[head.name], on_event, still_wanted)
        require_gpus(self._fleet, node)
        engine_key(self._fleet, self._world, node).require()
        patience = node.patience.boot_seconds + node.patience.engine_seconds
        start = _Start(api, self._slots, node, clock, patience, on_event, still_wanted)
        beside = self._start_others(others, patience, on_event, still_wanted, watched)
        self._power_on(start, decision, node, on_event)
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), clock)
        # A guest boots once its VM has started, and pinning much memory for a GPU takes minutes.
        start_within = min(start_seconds(node), self._fleet.cluster_of(node).task_seconds)
        longest = patience + (start_within if decision.need is WakeNeed.START else 0.0)
        naming = naming_gpu_holder(self._fleet, node, api)
        with running_step(on_event, node, "answer", clock) as step, naming, start, ExitStack() as inside:
            waiting = [
                *(other for other, _ in others if self._mode_waits(other)),
                *([node] if notes.mode_waits else []),
            ]
            looks = [start.look, *(each.look for each in beside)]
            try:
                for each in waiting:
                    telling = self._telling_guest(each, step.say, seconds=longest, still_worth_it=all_of(*looks))
                    looks.append(inside.enter_context(telling))
                    for under_way in (start, *beside):
                        # Models may have been fetched meanwhile; the engine has its own time, all of it.
                        under_way.count_anew()
                room = ModelRoom(
                    self._fleet, node, engine, engine_web(self._fleet, self._world, node), clock,
                    lambda: Entering(self._fleet, self._world).shell(node), step.say,
                )  # fmt: skip
                proof = probe.prove(seconds=longest, still_worth_it=all_of(*looks), say=step.say, room=room)
                while sum(each.has_begun_anew(step.say) for each in (start, *beside)):
                    # Whoever watched an engine in a guest that was off since looks at nothing any more.
                    looks = [start.look, *(each.look for each in beside)]
                    proof = probe.prove(seconds=longest, still_worth_it=all_of(*looks), say=step.say, room=room)
            except EngineError as error:
                # An engine cannot answer while Proxmox has not even started its VM.
                raise (start.unfinished(longest) or self._explained(node, error)) from error
            except _BootOverdue as overdue:
                silence = probe.silence(patience, probe.health() or "it has just become ready")
                raise self._explained(node, silence) from overdue
            for under_way in (start, *beside):
                under_way.take_note()
            for each in waiting:
                self._note_told(each)
            found = f"{decision.reason}; " if decision.need is WakeNeed.PROOF else ""
            step.detail, step.changed = f"{found}{proof.endpoint.url}", False
            step.detail = "; ".join((step.detail, *start.warnings))
        # Those that were on already, and whose time of quiet had begun, are used again from now on.
        for each in (*([node] if start.was_needed else []), *(other for other, _ in others)):
            self._world.activity.forget(each.name)
        ended = clock.monotonic()
        if start.was_needed:
            cost = {"seconds": ended - begun, "added_seconds": ended - proof.healthy_at}
            self._world.measurements.add(Measurement(measured_thing(self._fleet, node, WAKE), clock.now(), cost))
        return WakeReport(
            endpoint=proof.endpoint,
            started=start.was_needed,
            seconds=ended - begun,
            added_seconds=ended - proof.healthy_at,
            calls=api.calls - calls,
            reason=decision.reason,
            mode=node.mode,
        )

    @staticmethod
    def _power_on(start: _Start, decision: WakeDecision, node: NodeSpec, on_event: OnEvent) -> None:
        if decision.need is not WakeNeed.START:
            return
        with running_step(on_event, node, "start", start.clock) as step:
            start.begin(step.say)
            accepted = "Proxmox has accepted the start" if start.was_needed else "somebody else starts it"
            step.detail, step.changed = f"{decision.reason}; {accepted}", start.was_needed

    def _start_others(
        self,
        others: Sequence[tuple[NodeSpec, VmSeen]],
        patience: float,
        on_event: OnEvent,
        still_wanted: Callable[[], None],
        watched: ExitStack,
    ) -> tuple[_Start, ...]:
        """Power on those that serve the mode too: without their GPUs the head need not be started. Raises as `wake`."""
        starts = []
        for other, vm in others:
            api = self._world.clusters[self._fleet.cluster_of(other).name]
            start = watched.enter_context(
                _Start(api, self._slots, other, self._world.clock, patience, on_event, still_wanted)
            )
            self._power_on(start, wake_decision(other, vm), other, on_event)
            starts.append(start)
        return tuple(starts)

    def _mode_waits(self, node: NodeSpec) -> bool:
        return noted(self._fleet, self._world.clusters[self._fleet.cluster_of(node).name], node)[1].mode_waits

    def _note_told(self, node: NodeSpec) -> None:
        api = self._world.clusters[self._fleet.cluster_of(node).name]
        VmWriter(node, api, None).write_notes_of(lambda notes: replace(notes, mode_waits=False))

    @contextmanager
    def _telling_guest(
        self, node: NodeSpec, say: Callable[[str], None], *, seconds: float, still_worth_it: Callable[[], None]
    ) -> Iterator[Callable[[], None]]:
        """Have a guest run the mode that was chosen while it was off; the block gets a look that sees its engine die.

        Raises:
            NotReadyError, GuestError: there is no way into it.
        """
        host_key = Entering(self._fleet, self._world).host_key(node)
        guests = GuestAccess(self._world.shells[self._fleet.cluster_of(node).name], self._world.clock)
        units = units_of(self._fleet, node, self._world.engines)
        wanted = unit_of(self._fleet, self._world, node)
        with (
            guests.shell(node, host_key, seconds=seconds, still_worth_it=still_worth_it) as shell,
            told(node),
        ):
            rare = RareModels(self._fleet, self._world)
            if rare.are_missing(node, shell):
                rare.fetch(node, shell, say)
            rare.keep_to_budget(node, shell, say)
            switch_units(shell, node, off=[unit.service for unit in units], on=wanted)
            yield DeathWatch(shell, node, wanted, self._world.clock).look

    def _explained(self, node: NodeSpec, error: EngineError) -> EngineError:
        """Return the error with what the engine's journal says, where we may log in."""
        if node.adopt:
            return error
        guests = GuestAccess(self._world.shells[self._fleet.cluster_of(node).name], self._world.clock)
        entering = Entering(self._fleet, self._world)
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        return explained(
            error,
            self._fleet,
            node,
            engine,
            unit_of(self._fleet, self._world, node),
            lambda: guests.shell(node, entering.host_key(node), seconds=LOGIN_SECONDS),
        )


class _BootOverdue(Exception):
    """The VM has run for longer than its guest and engine are given."""


class _Start:
    """The start of one VM, watched while its engine is being probed. `patience` is counted from its end."""

    def __init__(
        self,
        api: Hypervisors,
        slots: SlotTaking,
        node: NodeSpec,
        clock: Clock,
        patience: float,
        on_event: OnEvent,
        still_wanted: Callable[[], None],
    ) -> None:
        self._api = api
        self._on_event = on_event
        self._still_wanted = still_wanted
        self._slots = slots
        self._node = node
        self.clock = clock
        self._ticket: Ticket | None = None
        self._pending = False
        self._patience = patience
        self._ended: float | None = None
        self._pauses = iter(_LOOKS)
        self._next_look = clock.monotonic() + next(self._pauses)

    def __enter__(self) -> _Start:
        return self

    def __exit__(self, failure: type[BaseException] | None, *rest: object) -> None:
        """Leave a start under way to itself; that nobody watches it is noted, so that nobody waits for us."""
        if not (self._pending and isinstance(self._ticket, LeasedTicket)):
            return
        if failure is None:
            # The engine has answered before Proxmox's task was over.
            self._ticket.runs()
        else:
            self._ticket.leave()

    @property
    def was_needed(self) -> bool:
        """We have started the VM."""
        return self._ticket is not None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What Proxmox warned of when it started the VM."""
        return self._ticket.warnings if self._ticket is not None else ()

    def unfinished(self, seconds: float) -> ProvisionerError | None:
        """Return what to say of a start that is still under way after so long, or None. Raises when it has failed."""
        self.take_note()
        return self._ticket.overdue(seconds) if self._ticket is not None and self._pending else None

    def take_note(self) -> None:
        """Hear how the start ended, if nobody has yet: an engine may answer before that was asked. Raises."""
        if self._pending and self._ticket is not None:
            self._pending = not self._ticket.is_done()

    def begin(self, say: Callable[[str], None]) -> None:
        """Power on, once its GPUs are free; Proxmox has accepted it when this returns, or somebody else starts it.

        Raises as `SlotTaking.start_node`, and what `still_wanted` raises: nobody waits for it any more.
        """
        self._ticket = self._slots.start_node(self._node, say, self._on_event, self._still_wanted)
        self._pending = self._ticket is not None

    def count_anew(self) -> None:
        """Give guest and engine all their patience from now on; a start that has not ended is still waited for."""
        if self._ended is not None:
            self._ended = self.clock.monotonic()

    def has_begun_anew(self, say: Callable[[str], None]) -> bool:
        """Start a VM again that somebody is shutting down, once it is off; say whether that was needed.

        Its engine may well have answered a moment ago. False also when its guest did not obey.
        """
        hypervisor, vmid = self._node.hypervisor, self._node.vmid
        if self.was_needed or vmid not in self._api.going_down(hypervisor):
            return False
        say("its VM is being shut down, and is started again once it is off")

        def gone() -> bool | NotYet:
            # In this order: a task that has ended has done what it could.
            self._still_wanted()
            leaves = vmid in self._api.going_down(hypervisor)
            vm = self._api.vm(hypervisor, vmid)
            if vm is None or vm.power is Power.STOPPED:
                return True
            return NotYet("it is still on") if leaves else False

        try:
            is_off = wait_until(gone, clock=self.clock, seconds=self._patience, pace=_PACE)
        except WaitedInVain as waited:
            raise NotReadyError(
                f"cannot wake the node: its VM has been shutting down for {waited.seconds:g} s",
                subject=self._node.subject,
                next_step=f"see Proxmox > VM {vmid} > Task History, then: provisioner wake {self._node.name}",
                retryable=True,
            ) from waited
        if is_off:
            self.begin(say)
        return is_off

    def look(self) -> None:
        """Look at Proxmox when it is time to. Raises when waiting for the engine has become pointless."""
        now = self.clock.monotonic()
        if self._ended is not None and now >= self._ended + self._patience:
            raise _BootOverdue
        if now < self._next_look:
            return
        self._next_look = now + next(self._pauses, _LATER_LOOKS)
        if self._pending and self._ticket is not None:
            self._pending = not self._ticket.is_done()
            if not self._pending:
                self._ended = now
                # It runs; only a guest that dies while booting can still surprise us, and that takes a while.
                self._pauses = iter(())
                self._next_look = self.clock.monotonic() + _LATER_LOOKS
            return
        vm = self._api.vm(self._node.hypervisor, self._node.vmid)
        if vm is not None and vm.power is not Power.STOPPED:
            return
        if vm is not None and not self.was_needed:
            # It ran when we looked first and was on its way down: whoever wants it now gets it started again.
            self.begin(lambda reason: None)
            return
        raise NotReadyError(
            "cannot wake the node: its VM went off while it was starting",
            subject=self._node.subject,
            next_step=f"see Proxmox > VM {self._node.vmid} > Task History, then: provisioner wake {self._node.name}",
            retryable=True,
        )
