"""Tells orchestrators of the nodes, verifies what they then know, and withdraws what no longer is.

An orchestrator that is away costs nothing but its own registration: nobody waits long for it, and what failed is
remembered with its reason until a later try succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName
from provisioner.domain.orchestrator import OrchestratorName, OrchestratorSpec, Registration
from provisioner.domain.quantities import duration_text
from provisioner.errors import OrchestratorError, ProvisionerError, RefusedError
from provisioner.orchestrators.base import Item, ItemState, Orchestrator
from provisioner.orchestrators.registry import ORCHESTRATORS
from provisioner.planning import registration as planning
from provisioner.services.events import Event, OnEvent, Phase
from provisioner.services.orchestrator_news import NewsDesk
from provisioner.services.orchestrator_talk import Talk
from provisioner.services.world import World
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

# All that is said to one orchestrator.
_PATIENCE_SECONDS = 60.0
SHORT_PATIENCE_SECONDS = 20.0
"""For those who came for something else."""
# n8n publishes a workflow some moments after it has said so; on a busy machine it takes seconds.
_PUBLISHED_SECONDS = 20.0
_PACE = Pace(first=0.1, longest=1.0)


@dataclass(frozen=True, slots=True)
class RegistrationReport:
    """What was found and done at one orchestrator. `error` is why it could not be told."""

    orchestrator: OrchestratorName
    title: str
    nodes: tuple[str, ...]
    items: tuple[Item, ...] = ()
    error: ProvisionerError | None = None
    changed: bool = False

    @property
    def is_complete(self) -> bool:
        """It knows what it should know."""
        return self.error is None and not any(item.is_trouble for item in self.items)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "orchestrator": self.orchestrator,
            "nodes": list(self.nodes),
            "items": [item.as_dict() for item in self.items],
            "complete": self.is_complete,
            "changed": self.changed,
            "error": self.error.as_dict() if self.error else None,
        }


class Registering:
    """`register`, and what `up`, `destroy` and the service do of it."""

    def __init__(
        self,
        fleet: FleetSpec,
        world: World,
        orchestrators: Mapping[OrchestratorName, Orchestrator] = ORCHESTRATORS,
    ) -> None:
        self._fleet = fleet
        self._world = world
        self._known = orchestrators
        self._desk = NewsDesk(fleet, world)
        self._talk = Talk(world)

    def present(self) -> tuple[NodeName, ...]:
        """Return the nodes that exist."""
        return self._desk.present()

    def verify(self, nodes: Sequence[NodeName]) -> tuple[RegistrationReport, ...]:
        """Ask every orchestrator what it knows, and compare; changes nothing."""
        return tuple(self._verify(spec, nodes) for spec in self._fleet.orchestrators.values())

    def register(
        self, nodes: Sequence[NodeName], *, force: bool = False, patience: float = _PATIENCE_SECONDS
    ) -> tuple[RegistrationReport, ...]:
        """Make every orchestrator know these nodes and no others, and ask it whether it does.

        Args:
            nodes: all that exist; without any, what is ours there is removed.
            force: overwrite also what somebody edited.
            patience: seconds for one orchestrator.
        """
        return tuple(
            self.register_at(name, nodes, force=force, patience=patience) for name in self._fleet.orchestrators
        )

    def register_at(
        self,
        orchestrator: OrchestratorName,
        nodes: Sequence[NodeName],
        *,
        force: bool = False,
        patience: float = _PATIENCE_SECONDS,
    ) -> RegistrationReport:
        """Make one orchestrator know these nodes; never raises for what is its own or the network's fault."""
        spec, known = self._fleet.orchestrators[orchestrator], self._known[orchestrator]
        with ExitStack() as held:
            try:
                self._hold_lock(held, orchestrator, known.title, patience)
            except RefusedError as busy:
                # What becomes of it is for the other to remember.
                return RegistrationReport(orchestrator, known.title, tuple(nodes), error=busy)
            try:
                report = self._register(spec, known, nodes, force=force, seconds=patience)
            except ProvisionerError as error:
                report = RegistrationReport(orchestrator, known.title, tuple(nodes), error=error)
            self._remember(report)
            return report

    def _hold_lock(self, held: ExitStack, orchestrator: OrchestratorName, title: str, patience: float) -> None:
        """Be the only one who tells an orchestrator: two at once would each find nothing there and make everything."""

        def take() -> bool | NotYet:
            try:
                held.enter_context(self._world.locks.held(NodeName(f"_{orchestrator}")))
            except RefusedError as busy:
                return NotYet(busy.summary)
            return True

        try:
            wait_until(take, clock=self._world.clock, seconds=patience, pace=_PACE)
        except WaitedInVain:
            raise RefusedError(
                f"cannot tell {title} now: another provisioner has been at it for all of {duration_text(patience)}",
                subject=f"orchestrator {orchestrator}",
                next_step="let it finish; then: provisioner register",
                retryable=True,
            ) from None

    def tell(self, nodes: Sequence[NodeSpec], on_event: OnEvent) -> None:
        """Tell orchestrators, in little time, what has become of nodes; what fails is told, remembered, and later."""
        present = self.present()
        for name in self._fleet.orchestrators:
            began = self._world.clock.monotonic()
            report = self.register_at(name, present, patience=SHORT_PATIENCE_SECONDS)
            seconds = self._world.clock.monotonic() - began
            trouble = next((str(item) for item in report.items if item.is_trouble), "")
            detail = report.error.summary if report.error is not None else trouble
            phase = Phase.DONE if report.is_complete else Phase.FAILED
            for node in nodes:
                verb = "registered" if node.name in present else "withdrawn"
                words = f"{verb} at {report.title}" if not detail else f"not {verb} at {report.title}: {detail}"
                on_event(Event(node.name, "register", phase, words, report.changed, seconds))

    def n8n_workflows(self) -> dict[str, str]:
        """Return the workflows for n8n by their files' names; credentials are chosen when they are imported."""
        from provisioner.orchestrators.n8n import exported

        name = OrchestratorName("n8n")
        spec = self._fleet.orchestrators.get(name) or OrchestratorSpec(name)
        news = self._desk.news(spec, self._known[name], self._fleet.nodes, with_secrets=False)
        return exported(news, with_token=bool(self._fleet.service.tokens))

    def refresh_at(self, orchestrator: OrchestratorName, nodes: Sequence[NodeName]) -> RegistrationReport:
        """Ask one orchestrator what it knows; tell it anew only where that is not enough."""
        if set(self._world.registrations.of(orchestrator).nodes) == set(nodes):
            report = self._verify(self._fleet.orchestrators[orchestrator], nodes)
            if report.error is not None or (report.is_complete and not _surplus(report)):
                self._remember(report)
                return report
        return self.register_at(orchestrator, nodes)

    def _verify(self, spec: OrchestratorSpec, nodes: Sequence[NodeName]) -> RegistrationReport:
        known = self._known[spec.name]
        try:
            news = self._desk.news(spec, known, nodes)
            deadline = self._world.clock.monotonic() + _PATIENCE_SECONDS
            items = self._talk.hold(known, news, known.verify(news), deadline) if nodes else ()
        except ProvisionerError as error:
            return RegistrationReport(spec.name, known.title, tuple(nodes), error=error)
        return RegistrationReport(spec.name, known.title, tuple(nodes), items)

    def _register(
        self, spec: OrchestratorSpec, known: Orchestrator, nodes: Sequence[NodeName], *, force: bool, seconds: float
    ) -> RegistrationReport:
        deadline = self._world.clock.monotonic() + seconds
        news = self._desk.news(spec, known, nodes)
        if not nodes:
            items = self._talk.hold(known, news, known.withdraw(news), deadline)
            return RegistrationReport(spec.name, known.title, (), items, changed=bool(items))
        done = self._talk.hold(known, news, known.announce(news, force=force), deadline)

        def look() -> tuple[Item, ...] | NotYet:
            found = self._talk.hold(known, news, known.verify(news), deadline)
            trouble = [item for item in found if item.is_trouble]
            # What was found twice or cannot be switched on does not become better by waiting.
            if trouble and not any(item.is_trouble for item in done):
                return NotYet(str(trouble[0]))
            return found

        try:
            found = wait_until(look, clock=self._world.clock, seconds=_PUBLISHED_SECONDS, pace=_PACE)
        except WaitedInVain as vain:
            raise OrchestratorError(
                f"cannot tell {known.title} for good: it took everything, and then: {vain.last_seen}",
                subject=f"{known.title} at {spec.url}",
                next_step="see its log; then: provisioner register",
                retryable=True,
            ) from None
        changed = any(item.deed.value and item.deed.value != "left as it is" for item in done)
        return RegistrationReport(spec.name, known.title, tuple(nodes), _merged(done, found), changed=changed)

    def _remember(self, report: RegistrationReport) -> None:
        registrations, now = self._world.registrations, self._world.clock.now()
        before = registrations.of(report.orchestrator)
        if report.is_complete:
            remark = "; ".join(str(item) for item in report.items if item.is_by_hand)
            registrations.put(Registration(report.orchestrator, report.nodes, now, remark))
            return
        trouble = next((str(item) for item in report.items if item.is_trouble), "")
        reason = report.error.summary if report.error is not None else trouble
        registrations.put(planning.failed(before, reason, now))


def _surplus(report: RegistrationReport) -> bool:
    return any(item.state is ItemState.SURPLUS for item in report.items)


def _merged(done: tuple[Item, ...], found: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return what is there now, each with what was done about it."""
    deeds = {(item.kind, item.name): item for item in done}
    now = tuple(
        replace(item, deed=deeds[item.kind, item.name].deed, detail=deeds[item.kind, item.name].detail or item.detail)
        if (item.kind, item.name) in deeds
        else item
        for item in found
    )
    seen = {(item.kind, item.name) for item in found}
    return now + tuple(item for item in done if (item.kind, item.name) not in seen)
