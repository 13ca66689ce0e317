"""Brings a node into another of its modes, proves that it answers, and goes back when it does not.

The note on the VM is written last: whatever ends a switch half-way, the note
still names the mode that answered before, and `up` brings that one back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ModeSpec
from provisioner.errors import EngineError, GuestError, ProvisionerError
from provisioner.planning.launches import unit_of, units_of
from provisioner.planning.mode_switch import SwitchDecision, SwitchKind, require_mode, switch_decision
from provisioner.planning.ownership import Act
from provisioner.ports.guest_shell import GuestShell
from provisioner.ports.hypervisors import Hypervisors
from provisioner.ports.switch_log import SwitchRecord
from provisioner.services.arbitration import Arbitration
from provisioner.services.diagnosing import explained
from provisioner.services.engine_evidence import require_on_gpu
from provisioner.services.engine_units import DeathWatch, switch_units, unit_state
from provisioner.services.engine_web import engine_key, engine_web
from provisioner.services.entering import Entering
from provisioner.services.events import OnEvent, running_step
from provisioner.services.gpu_lending import GpuLending
from provisioner.services.mode_notes import note_mode
from provisioner.services.model_memory import ModelMemory
from provisioner.services.model_room import ModelRoom
from provisioner.services.noted_modes import noted
from provisioner.services.proving import Endpoint, EngineProbe, Proof
from provisioner.services.rare_models import RareModels
from provisioner.services.sleeping import Sleeping
from provisioner.services.switchable import switchable_vm
from provisioner.services.switching_together import SwitchingTogether
from provisioner.services.together import Together
from provisioner.services.waking import Waking
from provisioner.services.world import World


@dataclass(frozen=True, slots=True)
class ModeReport:
    """What a change of mode did. `endpoint` answers now; None where the node is off."""

    node: str
    mode: str
    previous: str
    did: str
    reason: str
    seconds: float
    endpoint: Endpoint | None = None
    last_seconds: float | None = None
    """How long the last change to this mode took."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node,
            "mode": self.mode,
            "previous": self.previous,
            "did": self.did,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "endpoint": self.endpoint.as_dict() if self.endpoint else None,
            "last_seconds": self.last_seconds,
        }


class ModeSwitching:
    """`mode`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._sleeping = Sleeping(fleet, world)
        self._lending = GpuLending(fleet, world, self._sleeping)

    def switch(self, node: NodeSpec, name: str, on_event: OnEvent, *, force: bool = False) -> ModeReport:
        """Bring a node into a mode; when this returns, the mode has answered, unless the node is off.

        Args:
            node: which.
            name: one of its modes.
            on_event: told about the steps.
            force: also while it is busy or does not say; what runs is cut off.

        Raises:
            InputError: it is none of its modes.
            RefusedError: the node is busy, not ours, or a VM that holds its GPUs is not to be shut down.
            EngineError: the mode does not answer. The one before is back, unless the summary says otherwise.
        """
        target = require_mode(self._fleet, node, name)
        clock = self._world.clock
        mode = self._fleet.modes.get(target)
        if mode is not None and mode.nodes:
            return self._switch_together(node, mode, on_event, force=force)
        with self._world.locks.held(node.name):
            begun = clock.monotonic()
            api = self._api(node)
            vm = switchable_vm(self._fleet, self._world, node)
            node, notes = noted(self._fleet, api, node)
            if not force:
                way_out = f"provisioner mode {self._fleet.answering(node).name} MODE first; --force does not ask"
                Together(self._fleet, self._world).require_head_off(node, Act.SWITCH.value, way_out)
            engines = self._world.engines
            decision = switch_decision(self._fleet, node, engines, target, vm.power, waits=notes.mode_waits)
            last = self._world.switches.last(node.name, target)
            previous = node.mode
            wanted = self._fleet.in_mode(node, target)
            endpoint = self._carry_out(decision, node, wanted, on_event, force=force)
            seconds = clock.monotonic() - begun
            if decision.kind not in (SwitchKind.PROOF, SwitchKind.NOTE):
                record = SwitchRecord(node.name, target, previous, decision.kind.value, clock.now(), seconds)
                self._world.switches.add(record)
            return ModeReport(
                node=str(node.name),
                mode=str(target),
                previous=str(previous),
                did=decision.kind.value,
                reason=decision.reason,
                seconds=seconds,
                endpoint=endpoint,
                last_seconds=last.seconds if last else None,
            )

    def _switch_together(self, node: NodeSpec, mode: ModeSpec, on_event: OnEvent, *, force: bool) -> ModeReport:
        clock = self._world.clock
        begun, last = clock.monotonic(), self._world.switches.last(node.name, mode.name)
        done = SwitchingTogether(self._fleet, self._world).switch(node, mode, on_event, force=force)
        seconds = clock.monotonic() - begun
        kind = SwitchKind.NOTE
        if done.endpoint is not None:
            kind = SwitchKind.PROOF if done.previous == mode.name else SwitchKind.UNITS
        if kind is SwitchKind.UNITS:
            record = SwitchRecord(node.name, mode.name, done.previous, kind.value, clock.now(), seconds)
            self._world.switches.add(record)
        return ModeReport(
            node=str(node.name),
            mode=str(mode.name),
            previous=str(done.previous),
            did=kind.value,
            reason=done.reason,
            seconds=seconds,
            endpoint=done.endpoint,
            last_seconds=last.seconds if last else None,
        )

    def _carry_out(
        self, decision: SwitchDecision, node: NodeSpec, wanted: NodeSpec, on_event: OnEvent, *, force: bool
    ) -> Endpoint | None:
        clock = self._world.clock
        if decision.kind not in (SwitchKind.NOTE, SwitchKind.RELEASE):
            # Who cannot ask the engine whether it answers would end in the middle.
            engine_key(self._fleet, self._world, wanted).require()
        match decision.kind:
            case SwitchKind.NOTE:
                with running_step(on_event, node, "note", clock) as step:
                    step.detail, step.changed = decision.reason, node.mode != wanted.mode
                    self._note(wanted, waits=True)
                return None
            case SwitchKind.RELEASE:
                self._lending.give(node, wanted, on_event, note=self._note, force=force)
                return None
            case SwitchKind.TAKE_BACK:
                self._lending.take_back(node, on_event, force=force)
                self._note(wanted, waits=True)
                return Waking(self._fleet, self._world).wake(wanted, on_event).endpoint
            case SwitchKind.PROOF | SwitchKind.MODELS | SwitchKind.UNITS:
                return self._switch_running(decision, node, wanted, on_event, force=force)

    def _switch_running(
        self, decision: SwitchDecision, node: NodeSpec, wanted: NodeSpec, on_event: OnEvent, *, force: bool
    ) -> Endpoint:
        with Entering(self._fleet, self._world).shell(node) as shell:
            is_up = unit_state(shell, node, self._service(node)).is_active
            if decision.kind is SwitchKind.PROOF and is_up:
                with running_step(on_event, node, "answer", self._world.clock) as step:
                    proof = self._prove(wanted, shell, step.say)
                    step.detail, step.changed = proof.endpoint.url, False
                return proof.endpoint
            rare = RareModels(self._fleet, self._world)
            if rare.are_missing(wanted, shell):
                if is_up and not force:
                    # Asked again when they have come; but who is busy need not have them come first.
                    self._sleeping.require_quiet(node, Act.SWITCH)
                with running_step(on_event, node, "fetch", self._world.clock) as step:
                    # What serves now goes on meanwhile.
                    step.detail = rare.fetch(wanted, shell, step.say, before=node)
            # Closed before it is asked: a request that came in between would be cut off.
            with self._sleeping.gate_closed(node):
                if is_up and not force:
                    way_out = "; the same command with --force does not ask"
                    Arbitration(self._fleet, self._world).require_no_hold(node, Act.SWITCH, way_out=way_out)
                    # An engine that has died serves nobody; one that runs is asked.
                    self._sleeping.require_quiet(node, Act.SWITCH)
                with running_step(on_event, node, "switch", self._world.clock) as step:
                    step.detail = decision.reason
                    rare.keep_to_budget(wanted, shell, step.say, before=node)
                    try:
                        self._bring(decision, node, wanted, shell, is_up=is_up)
                        proof = self._prove(wanted, shell, step.say, before=node)
                    except (EngineError, GuestError) as failure:
                        raise self._rolled_back(failure, decision, node, wanted, shell, step.say) from failure
                self._note(wanted, waits=False)
        self._world.activity.forget(node.name)
        return proof.endpoint

    def _bring(
        self, decision: SwitchDecision, node: NodeSpec, wanted: NodeSpec, shell: GuestShell, *, is_up: bool
    ) -> None:
        """Have the wanted mode's unit run, with only its own models in memory."""
        if decision.kind is SwitchKind.UNITS or not is_up:
            off = [unit.service for unit in units_of(self._fleet, wanted, self._world.engines)]
            switch_units(shell, wanted, off=off, on=self._service(wanted))
            return
        ModelMemory(self._fleet, wanted, self._world).leave_only_wanted()

    def _prove(
        self, node: NodeSpec, shell: GuestShell, say: Callable[[str], None], *, before: NodeSpec | None = None
    ) -> Proof:
        """Wait until a mode answers. Raises EngineError, with what the engine's journal says."""
        if before is not None and self._world.engines[self._fleet.mode_of(before).engine].stored_path:
            # Should it have to come back, its engine fetches anew what had to go.
            before = None
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        service = self._service(node)
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
        watch = DeathWatch(shell, node, service, self._world.clock)
        try:
            room = ModelRoom(
                self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock,
                lambda: nullcontext(shell), say, before=before,
            )  # fmt: skip
            seconds = node.patience.engine_seconds
            proof = probe.prove(seconds=seconds, still_worth_it=watch.look, say=say, room=room)
            if node.gpus:
                web = engine_web(self._fleet, self._world, node)
                unit = unit_of(self._fleet, node, self._world.engines)
                require_on_gpu(self._fleet, node, unit, web, lambda: nullcontext(shell))
            return proof
        except EngineError as error:
            raise explained(error, self._fleet, node, engine, service, lambda: nullcontext(shell)) from error

    def _rolled_back(
        self,
        failure: EngineError | GuestError,
        decision: SwitchDecision,
        node: NodeSpec,
        wanted: NodeSpec,
        shell: GuestShell,
        say: Callable[[str], None],
    ) -> ProvisionerError:
        """Bring the mode before back, and return the error that tells of both."""
        if node.mode == wanted.mode:
            return failure
        begun = self._world.clock.monotonic()
        try:
            self._bring(decision, wanted, node, shell, is_up=True)
            self._prove(node, shell, say)
        except ProvisionerError as second:
            outcome = f'and mode "{node.mode}" did not come back either: {second.summary}'
            next_step = f"mend what is said of either, then: provisioner mode {node.name} {node.mode}"
        else:
            seconds = self._world.clock.monotonic() - begun
            outcome = f'mode "{node.mode}" is back and answers, after {seconds:.1f} s'
            next_step = failure.next_step
        told = EngineError(
            f'cannot switch to mode "{wanted.mode}": {failure.summary.removeprefix("cannot ")}\n{outcome}',
            subject=node.subject,
            next_step=next_step,
            retryable=failure.retryable,
        )
        told.diagnosis = failure.diagnosis if isinstance(failure, EngineError) else ""
        return told

    def _note(self, node: NodeSpec, *, waits: bool) -> None:
        """Write the mode that a node is in to its VM's notes."""
        note_mode(self._fleet, self._world, node, waits=waits)

    def _service(self, node: NodeSpec) -> str:
        return unit_of(self._fleet, node, self._world.engines).service

    def _api(self, node: NodeSpec) -> Hypervisors:
        return self._world.clusters[self._fleet.cluster_of(node).name]
