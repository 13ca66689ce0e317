"""Reads the figures of guests that are awake, now and then, over the one connection that idle passes keep open.

Nothing here wakes a node or keeps it awake. A guest that hangs holds up nobody: its figures become old, and old ones
are not told any more.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gauge import EngineNumbers, GaugedCheck, GuestGauge
from provisioner.domain.gpu_reading import GpuFacts
from provisioner.domain.names import NodeName
from provisioner.domain.node_evidence import NodeEvidence
from provisioner.domain.serving import Phase
from provisioner.engines.base import AnswerUnreadable
from provisioner.engines.token_counters import tokens_made
from provisioner.errors import ProvisionerError
from provisioner.planning.gpu.diagnosis import diagnosis
from provisioner.planning.node_test import on_gpu
from provisioner.planning.readiness import CheckStatus
from provisioner.ports.web import NoAnswer
from provisioner.services.engine_evidence import memory_evidence
from provisioner.services.engine_web import engine_web
from provisioner.services.keeper import Keeper
from provisioner.services.proving import EngineProbe
from provisioner.services.use_looks import UseLooks
from provisioner.services.world import World

_LOGGER = logging.getLogger("provisioner.gauge")
_MOST_AT_ONCE = 32
# After so many turns without an answer, figures are those of a guest that hangs, and say nothing of it now.
_FRESH_TURNS = 4
# Versions change with upgrades and reboots, and asking for them takes seconds: with the turns that are usual, every
# half hour.
_THOROUGH_EVERY = 120
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, _MOST_DOUBLINGS = 30.0, 300.0, 10


@dataclass(slots=True)
class _Guest:
    """What is remembered of one guest between two looks."""

    looks: int = 0
    thorough: tuple[GaugedCheck, ...] = ()
    """What only a thorough look finds."""
    blind: int = 0
    """How many looks in a row found no way in."""
    not_before: float = 0.0
    """Of the monotonic clock: a guest that hangs keeps its one connection busy, which idle passes need, too."""


class Gauging:
    """Figures by node. Safe to use from several threads.

    Args:
        fleet, world: which nodes, and the outside.
        keeper: says who is awake, and in which mode.
        looks: the connections into guests.
    """

    def __init__(self, fleet: FleetSpec, world: World, keeper: Keeper, looks: UseLooks) -> None:
        self._fleet = fleet
        self._world = world
        self._keeper = keeper
        self._looks = looks
        self._lock = threading.Lock()
        self._found: dict[NodeName, GuestGauge] = {}
        self._guests: dict[NodeName, _Guest] = {}
        self._asked: set[NodeName] = set()

    def fresh(self) -> Mapping[NodeName, GuestGauge]:
        """Return the figures that are not too old; of a guest that lets nobody in, that it does not."""
        oldest = self._world.clock.monotonic() - _FRESH_TURNS * self._fleet.service.figures_every_seconds
        with self._lock:
            found = dict(self._found)
        return {
            name: gauge if gauge.at >= oldest else GuestGauge(gauge.at, why_blind=gauge.why_blind)
            for name, gauge in found.items()
            if gauge.at >= oldest or gauge.why_blind
        }

    def gauge(self) -> None:
        """Have every guest looked at that is awake, by threads that nobody waits for.

        One that is still being asked from last time is passed over.
        """
        seen = self._keeper.seen()
        awake = [name for name, now in seen.items() if now.phase is Phase.READY]
        with self._lock:
            for name in set(self._found) - set(awake):
                self._found.pop(name)
                self._guests.pop(name, None)
            due = [name for name in awake if name not in self._asked and self._may_ask(name)]
            self._asked.update(due)
        if not due:
            return
        nodes = deque(self._keeper.of(name).node for name in due)
        for number in range(min(len(due), _MOST_AT_ONCE)):
            # Who stops the service waits for none of them.
            threading.Thread(target=self._gauge_all, args=(nodes,), name=f"gauge {number}", daemon=True).start()

    def _may_ask(self, name: NodeName) -> bool:
        guest = self._guests.get(name)
        return guest is None or self._world.clock.monotonic() >= guest.not_before

    def _gauge_all(self, nodes: deque[NodeSpec]) -> None:
        while True:
            try:
                node = nodes.popleft()
            except IndexError:
                return
            try:
                found = self.look(node)
                with self._lock:
                    self._found[node.name] = found
            except Exception:
                _LOGGER.exception("cannot read the figures of %s", node.subject)
            finally:
                with self._lock:
                    self._asked.discard(node.name)

    def look(self, node: NodeSpec) -> GuestGauge:
        """Look at one guest now."""
        with self._lock:
            guest = self._guests.setdefault(node.name, _Guest())
        thoroughly = guest.looks % _THOROUGH_EVERY == 0
        guest.looks += 1
        engine = self._engine(node)
        if node.adopt:
            # Nobody of us can log in, and nothing is wrong with that.
            return GuestGauge(self._world.clock.monotonic(), engine=engine)
        told, why = self._looks.numbers(node, thoroughly=thoroughly)
        at = self._world.clock.monotonic()
        if told is None:
            # The next one asks for little; what was missed comes with the one after that.
            guest.looks = -1
            guest.not_before = at + min(_FIRST_PAUSE_SECONDS * 2.0**guest.blind, _LONGEST_PAUSE_SECONDS)
            guest.blind = min(guest.blind + 1, _MOST_DOUBLINGS)
            return GuestGauge(at, engine=engine, why_blind=why)
        guest.blind, guest.not_before = 0, 0.0
        numbers, facts = told
        checks = _checks(node, facts)
        if thoroughly:
            guest.thorough = tuple(each for each in checks if each.name in _ONLY_THOROUGH)
        else:
            checks = (*checks, *(each for each in guest.thorough if each not in checks))
        gauge = GuestGauge(at, numbers, facts.readings, checks, engine=engine)
        return replace(gauge, is_on_cpu=self._is_on_cpu(node, facts)) if node.gpus and facts.readings else gauge

    def _engine(self, node: NodeSpec) -> EngineNumbers | None:
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
        try:
            text = probe.activity_text()
            activity = engine.activity(text, self._world.clock.now())
        except (NoAnswer, AnswerUnreadable, ProvisionerError):
            return None
        return EngineNumbers(activity.running, activity.waiting, tokens_made(text))

    def _is_on_cpu(self, node: NodeSpec, facts: GpuFacts) -> bool | None:
        mode = self._fleet.mode_of(node)
        engine = self._world.engines[mode.engine]
        web = engine_web(self._fleet, self._world, node)
        try:
            memory = memory_evidence(web, f"http://{node.reach.address}:{engine.port}", engine)
        except (NoAnswer, AnswerUnreadable, ProvisionerError):
            return None
        if engine.loaded_path and not memory.model_bytes:
            # Nothing is loaded, so nothing computes anywhere.
            return None
        check = on_gpu(node, mode, engine, NodeEvidence(memory, facts))
        return None if check.status is CheckStatus.UNKNOWN else check.status is CheckStatus.FAIL


_ONLY_THOROUGH = frozenset(
    {"driver_matches", "driver_drift", "driver_held", "boot_check", "xid", "uvm", "persistence", "memory_errors"}
)


def _checks(node: NodeSpec, facts: GpuFacts) -> tuple[GaugedCheck, ...]:
    """Return what is not well; each kind of event of NVIDIA's driver counts under one name."""
    if not node.gpus:
        return ()
    found: dict[str, GaugedCheck] = {}
    for check in diagnosis(facts, node=node.name, cards=len(node.gpus)):
        if check.status in (CheckStatus.FAIL, CheckStatus.WARN):
            name = "xid" if check.id.startswith("xid_") else check.id
            is_failure = check.status is CheckStatus.FAIL
            found[name] = GaugedCheck(name, is_failure or (name in found and found[name].is_failure))
    return tuple(found.values())
