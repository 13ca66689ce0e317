"""The control loop of the service: looks at the fleet, remembers what it saw, and tells what changed.

What the gateway and the API know of nodes is this memory: reading it asks nobody. Work that is under way on a node
speaks for it meanwhile, so that a look that began earlier cannot say otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from types import MappingProxyType

from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.serving import NodeNow, Phase
from provisioner.services.events import Event
from provisioner.services.events import Phase as StepPhase
from provisioner.services.journaling import Journal
from provisioner.services.proving import Endpoint, EngineProbe
from provisioner.services.sight import Looked, Sight
from provisioner.services.world import World

# One knock that gets no answer within a second may be a busy engine; two in a row are an engine that is gone.
_KNOCKS_BEFORE_GONE = 2
# Of a node's latest wakes, how many say how long the next one takes, and how far back they are looked for.
_WAKES_COUNTED, _ENTRIES_READ = 5, 300
# What a step of a wake says of its node. A start that has something to say waits for its GPU.
_WAKE_STAGES = {
    ("start", StepPhase.STARTED): Phase.STARTING,
    ("start", StepPhase.PROGRESS): Phase.QUEUED,
    ("answer", StepPhase.STARTED): Phase.BOOTING,
    ("answer", StepPhase.PROGRESS): Phase.LOADING,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as last seen, with what only a closer look tells."""

    node: NodeSpec
    now: NodeNow
    url: str | None = None
    uptime_seconds: float = 0.0


@dataclass(slots=True)
class _Work:
    """Something under way on a node."""

    phase: Phase
    reason: str
    begun: float
    since: float
    usual_seconds: float | None = None


class Keeper:
    """The fleet's state in this process. Safe to use from several threads."""

    def __init__(self, fleet: FleetSpec, world: World, journal: Journal) -> None:
        self._fleet = fleet
        self._world = world
        self._journal = journal
        self._sight = Sight(fleet, world)
        self._lock = threading.Lock()
        self._work: dict[NodeName, _Work] = {}
        self._switches: dict[NodeName, _Work] = {}
        self._changed_at: dict[NodeName, float] = {}
        self._silent: dict[NodeName, int] = {}
        self._told: dict[NodeName, Phase] = {}
        now = world.clock.now()
        self._seen: dict[NodeName, Seen] = {
            name: Seen(node, NodeNow(name, Phase.UNKNOWN, "nobody has looked yet", since=now))
            for name, node in fleet.nodes.items()
        }
        self._shown: Mapping[NodeName, NodeNow] = MappingProxyType({})
        self._show()
        self._doubted: set[NodeName] = set()
        self.doubts = threading.Event()
        """Set when a node is to be looked at out of turn."""

    def seen(self) -> Mapping[NodeName, NodeNow]:
        """Return every node as last seen. Never blocks, and never changes: the next look makes a new one."""
        return self._shown

    def of(self, node: NodeName) -> Seen:
        """Return one node as last seen, with what only a closer look tells."""
        with self._lock:
            seen, now = self._seen[node], self._shown[node]
            return seen if seen.now is now else replace(seen, now=now)

    def endpoint(self, node: NodeName) -> Endpoint:
        """Return where a node's clients connect in the mode that it is in."""
        with self._lock:
            spec = self._seen[node].node
        engine = self._world.engines[self._fleet.mode_of(spec).engine]
        return EngineProbe(self._fleet, spec, engine, self._world.web, self._world.clock).endpoint

    def doubt(self, node: NodeName) -> None:
        """Have a node that passes for ready looked at out of turn."""
        with self._lock:
            self._doubted.add(node)
        self.doubts.set()

    def look(self, nodes: Iterable[NodeName] | None = None) -> None:
        """Look at nodes, all of them when none is named; one call per cluster."""
        with self._lock:
            doubted, self._doubted = self._doubted, set()
            self.doubts.clear()
        chosen = self._fleet.nodes if nodes is None else {*nodes, *doubted}
        begun = self._world.clock.monotonic()
        found = self._sight.look([self._fleet.nodes[name] for name in chosen])
        changes = []
        with self._lock:
            for name, looked in found.items():
                if self._changed_at.get(name, -1.0) >= begun or name in self._work:
                    # What was done to it since the look began is newer.
                    continue
                changes += self._take(name, self._patiently(name, looked))
            self._show()
        self._tell(changes)

    def look_at_doubted(self) -> None:
        """Look at the nodes that are in doubt."""
        with self._lock:
            doubted = set(self._doubted)
        self.look(doubted)

    @contextmanager
    def at_work(self, node: NodeName, phase: Phase, reason: str) -> Iterator[None]:
        """Say that a node is on its way to another state; what it is afterwards is for a look to say."""
        clock = self._world.clock
        usual = self._usual_wake_seconds(node) if phase.is_on_its_way else None
        with self._lock:
            self._work[node] = _Work(phase, reason, clock.monotonic(), clock.now(), usual)
            self._show()
        self._tell([(node, phase, reason)])
        try:
            yield
        finally:
            with self._lock:
                self._work.pop(node, None)
                self._changed_at[node] = clock.monotonic()
                self._show()

    def progress(self, event: Event) -> None:
        """Learn from a step of work how far a node is."""
        if event.step == "shut down":
            self._going_down(event)
            return
        if event.step == "switch" and event.phase is StepPhase.STARTED:
            self._switching(event)
            return
        phase = _WAKE_STAGES.get((event.step, event.phase))
        if phase is None:
            return
        with self._lock:
            work = self._work.get(event.node)
            if work is None or not work.phase.is_on_its_way:
                return
            changed = work.phase is not phase
            work.phase, work.reason = phase, event.detail or work.reason
            self._show()
        if changed:
            self._tell([(event.node, phase, event.detail)])

    def _switching(self, event: Event) -> None:
        """What its engine says until `switched` may be another mode's word."""
        clock, reason = self._world.clock, "its mode is being changed"
        with self._lock:
            work = _Work(Phase.LOADING, reason, clock.monotonic(), clock.now())
            self._work[event.node] = self._switches[event.node] = work
            self._show()
        self._tell([(event.node, Phase.LOADING, reason)])

    def _going_down(self, event: Event) -> None:
        if event.phase is StepPhase.STARTED:
            clock = self._world.clock
            with self._lock:
                self._work[event.node] = _Work(Phase.DRAINING, "it is being shut down", clock.monotonic(), clock.now())
                self._show()
            self._tell([(event.node, Phase.DRAINING, "it is being shut down")])
        elif event.phase in (StepPhase.DONE, StepPhase.FAILED):
            if event.phase is StepPhase.DONE:
                self.found(event.node, Phase.ASLEEP, "its VM is off")
            with self._lock:
                self._work.pop(event.node, None)
                self._changed_at[event.node] = self._world.clock.monotonic()
                self._show()
            self.doubt(event.node)

    def found(
        self, node: NodeName, phase: Phase, reason: str, url: str | None = None, mode: ModeName | None = None
    ) -> None:
        """Take the word of whoever has just worked on a node: its model answered, in a mode; or its VM is off."""
        self._sight.forget_mode(node)
        with self._lock:
            self._changed_at[node] = self._world.clock.monotonic()
            spec = self._seen[node].node
            spec = self._fleet.in_mode(spec, mode) if mode is not None else spec
            changes = self._take(node, Looked(spec, phase, reason, url))
            self._show()
        self._tell(changes)

    def switched(self, node: NodeName) -> None:
        """Learn anew what a node is for: a change of its mode has ended, one way or the other."""
        self._sight.forget_mode(node)
        try:
            looked = self._sight.look([self._fleet.nodes[node]])[node]
        finally:
            with self._lock:
                switch = self._switches.pop(node, None)
                if switch is not None and self._work.get(node) is switch:
                    del self._work[node]
        with self._lock:
            changes = self._take(node, looked) if node not in self._work else []
            self._changed_at[node] = self._world.clock.monotonic()
            self._show()
        self._tell(changes)

    def _patiently(self, name: NodeName, looked: Looked) -> Looked:
        before = self._seen[name]
        gone = before.now.phase is Phase.READY and looked.phase in (Phase.BOOTING, Phase.LOADING)
        # A VM that has been up for less time than before was started anew.
        if not gone or looked.uptime_seconds < before.uptime_seconds:
            self._silent.pop(name, None)
            return looked
        self._silent[name] = self._silent.get(name, 0) + 1
        if self._silent[name] >= _KNOCKS_BEFORE_GONE:
            return looked
        self._doubted.add(name)
        self.doubts.set()
        return replace(looked, phase=Phase.READY, reason=f"once silent ({looked.reason})", url=before.url)

    def _take(self, name: NodeName, looked: Looked) -> list[tuple[NodeName, Phase, str]]:
        before = self._seen[name].now
        since = before.since if before.phase is looked.phase else self._world.clock.now()
        mode = looked.node.mode
        now = NodeNow(name, looked.phase, looked.reason, mode, since)
        self._seen[name] = Seen(looked.node, now, looked.url, looked.uptime_seconds)
        # Work that ended without the state it was to bring was told of all the same.
        told = self._told.get(name, before.phase)
        return [(name, looked.phase, looked.reason)] if told is not looked.phase else []

    def _show(self) -> None:
        shown = {name: seen.now for name, seen in self._seen.items()}
        clock = self._world.clock.monotonic()
        for name, work in self._work.items():
            left = max(work.usual_seconds - (clock - work.begun), 0.0) if work.usual_seconds is not None else None
            shown[name] = NodeNow(name, work.phase, work.reason, shown[name].mode, work.since, left)
        self._shown = MappingProxyType(shown)

    def _usual_wake_seconds(self, node: NodeName) -> float | None:
        latest = self._journal.latest(limit=_ENTRIES_READ, node=node)
        wakes = [each for each in latest if each.kind is Kind.WAKE and each.phase == StepPhase.DONE.value]
        seconds = [float(each.facts["seconds"] or 0.0) for each in wakes if each.facts.get("started")]
        return median(seconds[-_WAKES_COUNTED:]) if seconds else None

    def _tell(self, changes: Iterable[tuple[NodeName, Phase, str]]) -> None:
        for node, phase, reason in changes:
            self._told[node] = phase
            self._journal.add(NewEntry(Kind.STATE, node, phase.value, reason))
