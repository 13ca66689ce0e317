"""The answer of ``GET /metrics``: everything that is known in memory, and the arbiter's page; nobody is asked anything.

A guest, a cluster or a card that hangs makes figures old or missing, never this answer late.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import isfinite

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.gauge import GuestGauge
from provisioner.domain.in_flight import InFlight
from provisioner.domain.lease import GpuSlot, LeasePage
from provisioner.domain.names import NodeName
from provisioner.domain.savings import savings
from provisioner.domain.serving import Phase
from provisioner.domain.timings import Timings
from provisioner.errors import ProvisionerError
from provisioner.metrics import table
from provisioner.metrics.requests import BOUNDS, RequestCounts, Spread
from provisioner.metrics.table import Metric
from provisioner.metrics.tally import Tally, usual
from provisioner.metrics.text import family, histograms, labels
from provisioner.planning.lease_words import slots_of
from provisioner.services.gauging import Gauging
from provisioner.services.keeper import Keeper, Seen
from provisioner.services.savings import node_powers
from provisioner.services.time_counting import TimeCounting
from provisioner.services.world import World

_LOGGER = logging.getLogger("provisioner.metrics")


@dataclass(slots=True)
class Sources:
    """Where the figures are. `quiet_since` are UNIX seconds by the last idle pass; `record` counts what was sent."""

    fleet: FleetSpec
    world: World
    keeper: Keeper
    in_flight: InFlight
    gauging: Gauging
    counting: TimeCounting
    requests: RequestCounts
    tally: Tally
    loops: Timings
    api_calls: Timings
    version: str
    quiet_since: Callable[[], Mapping[NodeName, float]] = dict
    verdicts: Callable[[], Mapping[NodeName, str]] = dict
    held_bytes: Callable[[], int] = lambda: 0
    is_draining: Callable[[], bool] = lambda: False
    record: Callable[[], Mapping[Metric, Mapping[tuple[str, ...], float]]] = dict
    process: Callable[[], str] = lambda: ""
    """What is told of the process itself."""


@dataclass(slots=True)
class _Series:
    """Lines by metric, in the order of the table."""

    found: dict[Metric, list[str]] = field(default_factory=lambda: {each: [] for each in table.TABLE})

    def add(self, metric: Metric, value: float | None, *values: str) -> None:
        """Write a series down; one without a value that is a number is left out."""
        self.put(metric, labels(metric, *values), value)

    def put(self, metric: Metric, braces: str, value: float | None) -> None:
        """Write a series down whose labels are ready."""
        if value is not None and isfinite(value):
            self.found[metric].append(f"{metric.name}{braces} {value!r}\n")


class MetricsPage:
    """Safe to ask from several threads."""

    def __init__(self, sources: Sources) -> None:
        self._from = sources
        self._power = node_powers(sources.fleet)
        # A series that begins with 1 has not grown, in Prometheus's eyes: the first failure would go unnoticed.
        self._zeros = {(name, result): 0 for name in sources.fleet.nodes for result in ("done", "failed")}
        self._no_wakes = self._zeros | {(name, "failed_gpu"): 0 for name in sources.fleet.nodes}
        # The braces of a label `node` alone are by far the most, and always the same.
        self._node: Callable[[str], str] = cache(lambda name: labels(table.READY, name))

    def text(self) -> bytes:
        """Return the page."""
        series = _Series()
        self._service(series)
        self._orchestrators(series)
        self._nodes(series)
        self._guests(series)
        self._arbiter(series)
        self._loops(series)
        self._savings(series)
        counted = self._from.requests.read()
        for (model, node, outcome), count in counted.requests.items():
            series.add(table.REQUESTS, count, model, node, outcome)
        for (model, node), count in counted.fallbacks.items():
            series.add(table.FALLBACKS, count, model, node)
        for model, count in counted.held.items():
            series.add(table.WOKEN, count, model)
        for (node, model, direction), count in counted.tokens.items():
            series.add(table.TOKENS, count, node, model, direction)
        spreads = {
            table.REQUEST_SECONDS: self._spreads(counted.seconds),
            table.FIRST_BYTE_SECONDS: self._spreads(counted.first_byte),
            table.HELD_SECONDS: iter([("", BOUNDS, counted.waits.counts, counted.waits.total)]),
        }
        parts = [
            histograms(metric, spreads[metric]) if metric in spreads else family(metric, lines)
            for metric, lines in series.found.items()
        ]
        return ("".join(parts) + self._from.process()).encode()

    def _spreads(self, found: Mapping[str, Spread]) -> Iterator[tuple[str, tuple[float, ...], list[int], float]]:
        return ((self._node(name), BOUNDS, each.counts, each.total) for name, each in found.items())

    def _service(self, series: _Series) -> None:
        series.add(table.BUILD, 1, self._from.version)
        series.add(table.DRAINING, int(self._from.is_draining()))
        series.add(table.HELD_BYTES, self._from.held_bytes())
        for metric, found in self._from.record().items():
            for values, value in found.items():
                series.add(metric, value, *values)

    def _orchestrators(self, series: _Series) -> None:
        try:
            for name in self._from.fleet.orchestrators:
                told = self._from.world.registrations.of(name)
                series.add(table.FAILING, int(told.failing_since is not None), name)
        except ProvisionerError as error:
            _LOGGER.warning("%s; what orchestrators know is missing", error.summary)

    def _nodes(self, series: _Series) -> None:
        now = self._from.world.clock.now()
        quiet, tallied = self._from.quiet_since(), self._from.tally.read()
        traffic = self._from.in_flight.all()
        for name in self._from.fleet.nodes:
            seen, braces = self._from.keeper.of(name), self._node(name)
            phase, mode = seen.now.phase, self._from.fleet.mode_of(seen.node)
            role = "fallback" if seen.node.stands_in else "node"
            hypervisor, engine = seen.node.hypervisor, mode.engine
            series.add(table.NODE, 1, name, str(seen.node.vmid), hypervisor, engine, seen.node.mode, role)
            series.add(table.PHASE, 1, name, phase.value)
            # A clock that was set back makes no time negative.
            series.put(table.PHASE_SECONDS, braces, max(now - seen.now.since, 0.0))
            series.put(table.READY, braces, int(phase is Phase.READY))
            series.put(table.IDLE_AFTER, braces, seen.node.idle_after_seconds)
            if name in quiet and _is_on(seen):
                series.put(table.QUIET, braces, max(now - quiet[name], 0.0))
            lane = traffic.get(name)
            series.put(table.RUNNING, braces, lane.running if lane else 0)
            series.put(table.WAITING, braces, lane.waiting if lane else 0)
        for name, verdict in self._from.verdicts().items():
            series.add(table.VERDICT, 1, name, verdict)
        for metric, counts in (
            (table.WAKES, self._no_wakes | tallied.wakes),
            (table.SLEEPS, self._zeros | tallied.sleeps),
            (table.SWITCHES, self._zeros | tallied.switches),
        ):
            for (name, result), count in counts.items():
                series.add(metric, count, name, result)
        for name, seconds in tallied.wake_seconds.items():
            series.add(table.WAKE_SECONDS, seconds[-1], name)
            series.add(table.WAKE_USUAL, usual(seconds), name)

    def _guests(self, series: _Series) -> None:
        now = self._from.world.clock.monotonic()
        for name, gauge in self._from.gauging.fresh().items():
            braces = self._node(name)
            for metric, value in _plain(gauge, now):
                series.put(metric, braces, value)
            for room in gauge.numbers.disks:
                series.add(table.DISK, room.bytes, name, room.mounted_at)
                series.add(table.DISK_FREE, room.free_bytes, name, room.mounted_at)
            for check in gauge.checks:
                series.add(table.GPU_CHECK, 1, name, check.name, "fail" if check.is_failure else "warn")
            _cards(series, name, gauge)

    def _arbiter(self, series: _Series) -> None:
        page = self._lease_page()
        if page is None:
            return
        ours = {(each.hypervisor, each.vmid) for each in self._from.fleet.nodes.values()}
        known = {slot for each in self._from.fleet.nodes.values() for slot in slots_of(each)}
        for slot, lease in page.leases.items():
            if slot in known:
                holder = lease.name if (slot.hypervisor, lease.vmid) in ours else "other"
                series.add(table.LEASE, 1, slot.hypervisor, slot.gpu, holder, lease.phase.value)
        waiters: dict[GpuSlot, int] = {}
        for waiter in page.waiters:
            for slot in waiter.slots:
                waiters[slot] = waiters.get(slot, 0) + 1
        for slot in sorted(known):
            series.add(table.TAKEOVERS, page.fences.get(slot, 0), slot.hypervisor, slot.gpu)
            series.add(table.WAITERS, waiters.get(slot, 0), slot.hypervisor, slot.gpu)
        now = self._from.world.clock.now()
        for name in {hold.node for hold in page.holds} & set(self._from.fleet.nodes):
            series.add(table.HELD, len(page.holds_on(name, now)), name)

    def _lease_page(self) -> LeasePage | None:
        try:
            return self._from.world.leases.read()
        except ProvisionerError as error:
            _LOGGER.warning("%s; the arbiter's figures are missing", error.summary)
            return None

    def _loops(self, series: _Series) -> None:
        for key, timing in self._from.loops.all().items():
            series.add(table.TURNS, timing.count, *key)
            series.add(table.TURN_SECONDS, timing.seconds, *key)
            if key[1] == "done":
                series.add(table.TURN_LAST, timing.last_seconds, key[0])
        for key, timing in self._from.api_calls.all().items():
            series.add(table.CALLS, timing.count, *key)
            series.add(table.CALL_SECONDS, timing.seconds, *key)

    def _savings(self, series: _Series) -> None:
        try:
            counted = self._from.counting.totals()
        except ProvisionerError as error:
            _LOGGER.warning("%s; hours and energy are missing", error.summary)
            return
        for name, each in counted.items():
            if name not in self._from.fleet.nodes:
                continue
            braces = self._node(name)
            for metric, value in (
                (table.AWAKE, each.awake_seconds),
                (table.ASLEEP, each.asleep_seconds),
                (table.SPARED, each.spared_seconds),
                (table.UNKNOWN, each.unknown_seconds),
                (table.MEASURED, each.measured_joules),
            ):
                series.put(metric, braces, value)
        found = savings(counted, self._power, self._from.fleet.electricity, since=0.0, until=0.0)
        for node in found.nodes:
            series.add(table.USED, node.used.joules, node.node, node.used.basis.value)
            series.add(table.SAVED, node.saved.joules, node.node, node.saved.basis.value)
        if found.price is not None:
            series.add(table.MONEY, found.money, found.price.currency)


def _is_on(seen: Seen) -> bool:
    return seen.now.phase in (Phase.READY, Phase.LOADING, Phase.BOOTING)


def _plain(gauge: GuestGauge, now: float) -> Iterator[tuple[Metric, float | None]]:
    yield table.GAUGE_AGE, max(now - gauge.at, 0.0)
    yield table.BLIND, int(bool(gauge.why_blind))
    yield table.LOAD, gauge.numbers.load
    yield table.MEMORY_USED, gauge.numbers.memory_used_bytes
    yield table.MEMORY, gauge.numbers.memory_bytes
    yield table.ON_CPU, None if gauge.is_on_cpu is None else int(gauge.is_on_cpu)
    if gauge.engine is not None:
        yield table.ENGINE_RUNNING, gauge.engine.running
        yield table.ENGINE_WAITING, gauge.engine.waiting
        yield table.ENGINE_TOKENS, gauge.engine.tokens_made


def _cards(series: _Series, name: NodeName, gauge: GuestGauge) -> None:
    for place, card in enumerate(gauge.gpus):
        gpu = str(place if card.index is None else card.index)
        percent = card.utilization_percent
        series.add(table.GPU, 1, name, gpu, card.uuid or "", card.name or "", card.driver_version or "")
        series.add(table.GPU_UTILIZATION, None if percent is None else percent / 100, name, gpu)
        series.add(table.GPU_MEMORY_USED, card.memory_used_bytes, name, gpu)
        series.add(table.GPU_MEMORY, card.memory_bytes, name, gpu)
        series.add(table.GPU_POWER, card.power_watts, name, gpu)
        series.add(table.GPU_POWER_LIMIT, card.power_limit_watts, name, gpu)
        series.add(table.GPU_TEMPERATURE, card.temperature_celsius, name, gpu)
