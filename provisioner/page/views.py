"""What the pages show, as plain values made of what the service knows; nothing here asks the world."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.api.control import Control
from provisioner.domain.callers import Caller, Scope
from provisioner.domain.events import Entry, EventQuery
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.gpu_reading import GpuReading
from provisioner.domain.names import NodeName
from provisioner.domain.savings import Savings
from provisioner.domain.serving import Phase
from provisioner.errors import ProvisionerError
from provisioner.page.drawing import COLUMNS, Chart, Strip, chart, strip
from provisioner.page.words import number, seconds_words
from provisioner.services.day_history import DAY_SECONDS, DayHistory
from provisioner.services.power_trail import PowerTrail

_LOGGER = logging.getLogger("provisioner.page")
_STAGES = (Phase.QUEUED, Phase.STARTING, Phase.BOOTING, Phase.LOADING)
_WORDS = {Phase.WITHHELD: "given away", Phase.DRAINING: "going to sleep", Phase.QUEUED: "waiting for its GPU"}
# A node in one of these can be woken, or put to sleep.
_WAKABLE = (Phase.ASLEEP, Phase.WITHHELD, Phase.UNKNOWN)
_SLEEPABLE = (Phase.READY, Phase.BOOTING, Phase.LOADING, Phase.UNKNOWN)
_SHOWN = ("phase", "reason", "since", "mode", "models", "holds")
RANGES = {"hour": (60, 60.0), "6 hours": (72, 300.0), "day": (96, 900.0)}
"""How far back charts go: how many steps of how many seconds."""

Readings = Callable[[NodeName], Sequence[GpuReading]]
"""What a node's GPUs said last; nothing where nobody asked them, or where they are off."""


@dataclass(frozen=True, slots=True)
class GpuView:
    """A GPU of a node: its slot in the fleet file, and what it said last."""

    slot: str
    name: str
    memory_bytes: int | None
    used_bytes: int | None = None
    celsius: float | None = None
    watts: float | None = None
    percent: float | None = None

    @property
    def share(self) -> float | None:
        """How full its memory is, of 100."""
        if not self.memory_bytes or self.used_bytes is None:
            return None
        return min(100.0 * self.used_bytes / self.memory_bytes, 100.0)


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as a row; `seen` is what the API says of it."""

    seen: Mapping[str, Any]
    phase: Phase
    gpus: tuple[GpuView, ...]
    mode: str
    column: int
    """Counts the columns of its day's strip since 1970."""
    day: Strip | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.seen["node"])

    @property
    def word(self) -> str:
        """Its phase, as a person says it."""
        return _WORDS.get(self.phase, self.phase.value)

    @property
    def tone(self) -> str:
        """How it is coloured."""
        if self.phase is Phase.READY and self.seen["traffic"]["running"]:
            return "serving"
        return "waking" if self.phase.is_on_its_way else self.phase.value

    @property
    def stage(self) -> int | None:
        """How far a wake is, from 1 to `stages`; None while there is none."""
        return _STAGES.index(self.phase) + 1 if self.phase in _STAGES else None

    @property
    def stages(self) -> int:
        """How many stages a wake has."""
        return len(_STAGES)

    @property
    def model(self) -> str:
        """The model that it serves, or the first of several."""
        return str(next(iter(self.seen["models"]), ""))

    @property
    def can_wake(self) -> bool:
        """A wake may bring it."""
        return self.phase in _WAKABLE

    @property
    def can_sleep(self) -> bool:
        """It may be put to sleep."""
        return self.phase in _SLEEPABLE

    @property
    def version(self) -> str:
        """Changes with everything that a row shows; as time goes by only with the columns of its day."""
        shown = {key: self.seen[key] for key in _SHOWN}
        traffic = (self.seen["traffic"]["running"], self.seen["traffic"]["waiting"])
        text = json.dumps([shown, traffic, [str(gpu) for gpu in self.gpus], self.column], default=str)
        return hashlib.blake2b(text.encode(errors="replace"), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks, and what is offered to them."""

    caller: Caller
    needs_token: bool

    def may(self, scope: str) -> bool:
        """Say whether something is allowed to them, by the scope's word."""
        return self.caller.is_allowed(Scope(scope))

    @property
    def scopes(self) -> str:
        """What they may, in the words of the fleet file."""
        return "admin" if Scope.ADMIN in self.caller.may else ", ".join(sorted(each.value for each in self.caller.may))


@dataclass(frozen=True, slots=True)
class Summary:
    """The fleet in some numbers."""

    awake: int
    waking: int
    nodes: int
    troubled: int
    running: int
    waiting: int
    watts: float | None
    savings: Savings | None
    troubles: tuple[str, ...] = ()
    """Who could not be told of the nodes, since when and why; a sentence each."""


class Views:
    """Makes views. Blocks while it reads journal and ledger; call it in a thread."""

    def __init__(
        self,
        fleet: FleetSpec,
        control: Control,
        history: DayHistory,
        models: Sequence[str],
        savings: Callable[[int | None], Savings] | None = None,
        readings: Readings | None = None,
        power: PowerTrail | None = None,
    ) -> None:
        """Wire it.

        Args:
            fleet: what is wanted.
            control: what the API knows.
            history: the last day.
            models: what can be asked for, in the order of the fleet file.
            savings: tells what was saved in the last days, or ever for None.
            readings: tells of GPUs.
            power: what they drew.
        """
        self.fleet = fleet
        self.models = tuple(models)
        self._control = control
        self._history = history
        self._savings = savings
        self._readings = readings
        self._power = power

    def nodes(self, names: Sequence[str] | None = None, *, with_day: bool = True) -> tuple[NodeView, ...]:
        """Return rows, of all nodes or of some; names that nobody has are left out."""
        wanted = self._control.nodes()
        if names is not None:
            chosen = frozenset(names)
            wanted = [each for each in wanted if each["node"] in chosen]
        days = self._history.days([NodeName(str(each["node"])) for each in wanted]) if with_day else {}
        return tuple(self._node(each, days) for each in wanted)

    def node(self, name: NodeName) -> NodeView:
        """Return one node. Raises UnknownNameError."""
        seen = self._control.node(name)
        return self._node(seen, self._history.days([name]))

    def summary(self, nodes: Sequence[NodeView]) -> Summary:
        """Return the fleet in some numbers."""
        watts = [gpu.watts for node in nodes for gpu in node.gpus if gpu.watts is not None]
        return Summary(
            awake=sum(node.phase in (Phase.READY, Phase.DRAINING) for node in nodes),
            waking=sum(node.phase.is_on_its_way for node in nodes),
            nodes=len(nodes),
            troubled=sum(node.phase is Phase.UNKNOWN for node in nodes),
            running=sum(node.seen["traffic"]["running"] for node in nodes),
            waiting=sum(node.seen["traffic"]["waiting"] for node in nodes),
            watts=sum(watts) if watts else None,
            savings=self.savings(7),
            troubles=self._troubles(),
        )

    def _troubles(self) -> tuple[str, ...]:
        if not self.fleet.orchestrators:
            return ()
        try:
            return tuple(str(each["trouble"]) for each in self._control.orchestrators() if each["trouble"])
        except ProvisionerError as error:
            _LOGGER.warning("%s; next: %s", error.summary, error.next_step)
            return ()

    def savings(self, days: int | None) -> Savings | None:
        """Return what was saved; None where nobody counts, or it cannot be read."""
        try:
            return self._savings(days) if self._savings is not None else None
        except ProvisionerError as error:
            # The fleet is shown all the same.
            _LOGGER.warning("%s; next: %s", error.summary, error.next_step)
            return None

    def charts(self, reach: str, node: NodeName | None = None) -> tuple[Chart, ...]:
        """Return the charts of a range, which is one of `RANGES`."""
        count, seconds = RANGES.get(reach, RANGES["hour"])
        found = self._history.steps(count=count, seconds=seconds, node=node)
        minutes = seconds / 60
        charts = [
            chart("Tokens", "per second", [each.tokens_per_second for each in found], number),
            chart("First token", "median wait", [each.first_byte_seconds for each in found], seconds_words),
            chart(
                "Requests",
                "per minute",
                [each.requests / minutes for each in found],
                number,
                bad=[each.failed / minutes for each in found],
            ),
        ]
        if self._power is not None and not self._power.is_empty:
            drawn = self._power.steps(count=count, seconds=seconds, node=node)
            charts.append(chart("GPU power", "watts", drawn, number))
        return tuple(charts)

    def events(self, query: EventQuery, most: int) -> tuple[Entry, ...]:
        """Return the newest entries that match, the newest first."""
        return self._control.journal.find(query, limit=most)

    def last_event(self) -> int:
        """Return the number of the newest entry."""
        return self._control.journal.last_number()

    def _node(self, seen: Mapping[str, Any], days: Mapping[NodeName, Any]) -> NodeView:
        name = NodeName(str(seen["node"]))
        day = days.get(name)
        mode = str(seen["mode"] or next(iter(seen["modes"]), ""))
        column = int(self._history.now() // (DAY_SECONDS / COLUMNS))
        drawn = strip(day) if day else None
        return NodeView(seen, Phase(seen["phase"]), self._gpus(name, seen), mode, column, drawn)

    def _gpus(self, name: NodeName, seen: Mapping[str, Any]) -> tuple[GpuView, ...]:
        slots = self.fleet.hypervisors[self.fleet.nodes[name].hypervisor].gpus
        readings = tuple(self._readings(name)) if self._readings is not None else ()
        found = []
        for at, slot in enumerate(seen["gpus"]):
            # Cards come in the order of their slots; one that is missing leaves the others' places unsure.
            said = readings[at] if len(readings) == len(seen["gpus"]) else GpuReading()
            found.append(
                GpuView(
                    slot=str(slot),
                    name=(said.name or str(slot)).removeprefix("NVIDIA "),
                    memory_bytes=said.memory_bytes or slots[slot].vram_bytes,
                    used_bytes=said.memory_used_bytes,
                    celsius=said.temperature_celsius,
                    watts=said.power_watts,
                    percent=said.utilization_percent,
                )
            )
        return tuple(found)
