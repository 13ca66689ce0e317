"""Gathers what `planning.node_test` judges, and tries whether a node's GPUs survive that their VM is stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gpu_reading import GpuFacts
from provisioner.domain.measurement import PROBE, Measurement
from provisioner.domain.names import ModeName
from provisioner.domain.node_evidence import EngineEvidence, NodeEvidence, UnitEvidence
from provisioner.engines.base import AnswerUnreadable, InferenceEngine
from provisioner.errors import EngineError, EngineKeyError, GpuUnusableError, InputError, ProvisionerError, RefusedError
from provisioner.planning.bench_figures import measured_thing, rate
from provisioner.planning.gpu.diagnosis import diagnosis
from provisioner.planning.launches import unit_of
from provisioner.planning.node_test import node_checks
from provisioner.planning.readiness import Check, CheckStatus, failures
from provisioner.ports.web import NoAnswer
from provisioner.services.benchmarking import Benchmarking
from provisioner.services.deployments import address_of, engine_of
from provisioner.services.engine_evidence import memory_evidence, unit_evidence
from provisioner.services.engine_web import engine_web
from provisioner.services.entering import Entering
from provisioner.services.events import OnEvent, running_step
from provisioner.services.gpu_facts import gather_gpu_facts
from provisioner.services.mode_switching import ModeSwitching
from provisioner.services.proving import EngineProbe
from provisioner.services.sleeping import Sleeping
from provisioner.services.waking import Waking
from provisioner.services.world import World

_PROBES = 3
_SPEED_TOKENS = 32
# A reply that is over so soon says more about the clock than about the engine.
_QUICKEST_SECONDS = 0.05
_LOAD_SECONDS = 600.0
_ASK_SECONDS = 10.0
_HISTORY = 20


@dataclass(frozen=True, slots=True)
class NodeTestReport:
    """What was found of one node."""

    node: str
    mode: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def has_failed(self) -> bool:
        """Something does not work."""
        return any(check.status is CheckStatus.FAIL for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node,
            "mode": self.mode,
            "passed": not self.has_failed,
            "checks": [check.as_dict() for check in self.checks],
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class SurvivalReport:
    """Whether a node's GPUs came back after their VM was stopped and started."""

    node: str
    hypervisor: str
    gpus: tuple[str, ...]
    survived: bool
    reason: str
    seconds: float

    @property
    def lines(self) -> tuple[str, ...]:
        """What the fleet file should say."""
        verdict = "true" if self.survived else "false"
        return tuple(f"hypervisors.{self.hypervisor}.gpus.{gpu}.survives_stop: {verdict}" for gpu in self.gpus)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node,
            "hypervisor": self.hypervisor,
            "gpus": list(self.gpus),
            "survives_stop": self.survived,
            "reason": self.reason,
            "lines": list(self.lines),
            "seconds": round(self.seconds, 1),
        }


class NodeTesting:
    """`test`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._entering = Entering(fleet, world)
        self._bench = Benchmarking(fleet, world)

    def test(self, node: NodeSpec, on_event: OnEvent, *, smoke: bool = False) -> NodeTestReport:
        """Look at a node that runs, closely.

        Args:
            node: which; it is not woken.
            on_event: told about the steps.
            smoke: only whether card, driver and engine work at all; nothing is timed or remembered.

        Raises:
            NotReadyError: the node is off.
        """
        clock = self._world.clock
        begun = clock.monotonic()
        self._entering.require_running(node)
        engine, mode = engine_of(self._fleet, self._world, node), self._fleet.mode_of(node)
        # The engine first: what it is asked brings its model to where the second look finds it.
        with running_step(on_event, node, "engine", clock) as step:
            answered = self._engine(node, engine, smoke=smoke)
            step.changed, step.detail = False, answered.trouble or "it answers"
        with running_step(on_event, node, "guest", clock) as step:
            facts, unit, inside = self._inside(node)
            step.changed, step.detail = False, inside or "looked at"
        evidence = NodeEvidence(answered, facts, unit, inside)
        checks = node_checks(node, mode, self._fleet.gpus_of(node), engine, evidence)
        return NodeTestReport(node.name, mode.name, checks, clock.monotonic() - begun)

    def test_in(self, node: NodeSpec, mode: str, on_event: OnEvent, *, smoke: bool = False) -> NodeTestReport:
        """Switch a node to another of its modes, one with a tiny model for instance, test it there, and switch back.

        Raises what `test` and `ModeSwitching.switch` raise; whatever ends the test, the mode before is brought back.
        """
        self._entering.require_running(node)
        switching = ModeSwitching(self._fleet, self._world)
        switching.switch(node, mode, on_event)
        try:
            there = self._fleet.in_mode(node, ModeName(mode))
            return self.test(there, on_event, smoke=smoke)
        finally:
            # By force: what we asked of it would count as use, and the mode was there for the test alone.
            switching.switch(self._fleet.in_mode(node, ModeName(mode)), node.mode, on_event, force=True)

    def survives_stop(self, node: NodeSpec, on_event: OnEvent) -> SurvivalReport:
        """Stop and start a node's VM, and see whether its GPUs came back; the node is awake again afterwards.

        Raises:
            InputError: it has no GPU.
            RefusedError: it is busy, or its cards are not well to begin with.
            ProvisionerError: what `sleep` and `wake` raise, where it is no word about the card.
        """
        clock = self._world.clock
        begun = clock.monotonic()
        if not node.gpus:
            raise InputError(
                "cannot test whether its GPU survives a stop: it has none",
                subject=node.subject,
                next_step="name a node with gpus",
            )
        before = self._card_failures(node)
        if before:
            raise RefusedError(
                f"cannot test whether its GPU survives a stop: it is not well before one: {before[0].found}",
                subject=node.subject,
                next_step=before[0].next_step,
            )
        Sleeping(self._fleet, self._world).sleep(node, on_event, lose_gpu=True)
        reason = self._awake_again(node, on_event)
        return SurvivalReport(
            node.name,
            node.hypervisor,
            tuple(node.gpus),
            survived=not reason,
            reason=reason or "every card answered its driver after the stop",
            seconds=clock.monotonic() - begun,
        )

    def _awake_again(self, node: NodeSpec, on_event: OnEvent) -> str:
        """Start a node; return what is wrong with its cards then, empty when nothing is."""
        try:
            Waking(self._fleet, self._world).wake(node, on_event)
        except GpuUnusableError as unusable:
            return unusable.summary
        except EngineError as silent:
            found = self._card_failures(node)
            if not found:
                # The card is well; why the engine is not is another question.
                raise
            return f"{found[0].found} ({silent.summary.splitlines()[0]})"
        found = self._card_failures(node)
        return found[0].found if found else ""

    def _card_failures(self, node: NodeSpec) -> tuple[Check, ...]:
        with self._entering.shell(node, seconds=node.patience.boot_seconds) as shell:
            facts = gather_gpu_facts(shell, node)
        return failures(diagnosis(facts, node=node.name, cards=len(node.gpus)))

    def _inside(self, node: NodeSpec) -> tuple[GpuFacts | None, UnitEvidence | None, str]:
        """Return what a look inside the guest shows, or why there was none."""
        try:
            with self._entering.shell(node) as shell:
                unit = unit_evidence(shell, unit_of(self._fleet, node, self._world.engines))
                return (gather_gpu_facts(shell, node) if node.gpus else None), unit, ""
        except ProvisionerError as error:
            return None, None, error.summary

    def _engine(self, node: NodeSpec, engine: InferenceEngine, *, smoke: bool) -> EngineEvidence:
        web = engine_web(self._fleet, self._world, node)
        trouble = EngineProbe(self._fleet, node, engine, web, self._world.clock).health()
        if trouble:
            return EngineEvidence(trouble)
        try:
            answer = web.get(address_of(self._fleet, self._world, node) + engine.models_path, seconds=_ASK_SECONDS)
            if answer.status != 200:
                raise NoAnswer(f"HTTP {answer.status} from {engine.models_path}")
            models = engine.served_models(answer.text)
            number = round(self._world.clock.now() * 1000) % 10**9
            # This one may bring the model into memory: its time is that of a load.
            self._bench.reply(node, max_tokens=1, number=number, silence=_LOAD_SECONDS)
            memory = memory_evidence(web, address_of(self._fleet, self._world, node), engine)
            seen = replace(memory, models=models)
            return seen if smoke else self._timed(node, seen, number)
        except (NoAnswer, AnswerUnreadable) as reason:
            return EngineEvidence(str(reason))
        except EngineKeyError as refused:
            return EngineEvidence(refused.summary, refused.next_step)
        except EngineError as error:
            return EngineEvidence(error.summary)

    def _timed(self, node: NodeSpec, seen: EngineEvidence, number: int) -> EngineEvidence:
        """Time a first token, in the middle of three, and one short reply; remember the former."""
        firsts = []
        for each in range(1, _PROBES + 1):
            reply = self._bench.reply(node, max_tokens=1, number=number + each)
            if reply.times:
                firsts.append(reply.times[0] - reply.asked_at)
        probe = median(firsts) if firsts else None
        long = self._bench.reply(node, max_tokens=_SPEED_TOKENS, number=number + _PROBES + 1)
        is_slow_enough = bool(long.times) and long.times[-1] - long.times[0] >= _QUICKEST_SECONDS
        thing = measured_thing(self._fleet, node, PROBE)
        earlier = self._world.measurements.last(thing, _HISTORY)
        benched = self._world.measurements.last(measured_thing(self._fleet, node, "bench:1"), 1)
        if probe is not None:
            self._world.measurements.add(Measurement(thing, self._world.clock.now(), {"seconds": probe}))
        return replace(
            seen,
            probe_seconds=probe,
            probe_history=tuple(each.figures["seconds"] for each in earlier),
            tokens_per_second=rate(long) if is_slow_enough else None,
            bench=benched[0].figures if benched else None,
        )
