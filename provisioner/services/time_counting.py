"""Counts how long nodes are awake and asleep and what they draw, turn by turn, and keeps it once a minute.

What passed between two turns is counted by the state that was seen at the second. Seconds are those of the monotonic
clock: one that is set forward or back adds nothing and takes nothing away. What was counted within the last minute
before a kill -9 is lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Protocol

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gauge import GuestGauge
from provisioner.domain.in_flight import InFlight, NodeTraffic
from provisioner.domain.lease import GpuSlot, LeasePage
from provisioner.domain.names import NodeName
from provisioner.domain.savings import CountedTime
from provisioner.domain.serving import Phase
from provisioner.errors import InputError
from provisioner.planning.lease_words import slots_of
from provisioner.services.keeper import Keeper, Seen
from provisioner.services.world import World

_LOGGER = logging.getLogger("provisioner.time")
_KEEP_EVERY_SECONDS = 60.0
# A machine that was suspended, or a service that hung: nobody knows what was meanwhile.
_LONGEST_TURN_SECONDS = 60.0
# What was asked for a moment ago still shows in the power that a card draws.
_SETTLES_SECONDS = 60.0
_AWAKE = (Phase.STARTING, Phase.BOOTING, Phase.LOADING, Phase.READY, Phase.DRAINING)


class Gauges(Protocol):
    """Where figures of guests come from."""

    def fresh(self) -> Mapping[NodeName, GuestGauge]:
        """Return those that are not too old."""
        ...


class TimeCounting:
    """Counts. `turn` is called after each look of the control loop, by one thread; the rest by any.

    Args:
        fleet, world: whose nodes, and where it is kept.
        keeper: in what state they are.
        gauges: what they draw.
    """

    def __init__(self, fleet: FleetSpec, world: World, keeper: Keeper, gauges: Gauges) -> None:
        self._fleet = fleet
        self._world = world
        self._keeper = keeper
        self._gauges = gauges
        self._lock = threading.Lock()
        self._since: float | None = None
        self._kept_at = world.clock.monotonic()
        self._unkept: dict[NodeName, CountedTime] = {}
        self._totals: dict[NodeName, CountedTime] | None = None

    def totals(self) -> Mapping[NodeName, CountedTime]:
        """Return all that was ever counted, this very minute included. Raises InputError."""
        with self._lock:
            return dict(self._known_totals())

    def turn(self) -> None:
        """Count what passed since the last turn."""
        clock = self._world.clock
        now = clock.monotonic()
        since, self._since = self._since, now
        if since is None or now <= since:
            return
        seconds = now - since
        counted = self._counted(seconds)
        with self._lock:
            for name, each in counted.items():
                self._unkept[name] = self._unkept.get(name, CountedTime()) + each
                if self._totals is not None:
                    self._totals[name] = self._totals.get(name, CountedTime()) + each
        if now - self._kept_at >= _KEEP_EVERY_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write down what was counted; where that fails it is kept for the next time, and said once a minute."""
        self._kept_at = self._world.clock.monotonic()
        with self._lock:
            if not self._unkept:
                return
            # The sums that are told begin with what is written, so they are read before more is.
            try:
                self._known_totals()
                self._world.times.add(self._world.clock.now(), self._unkept)
            except InputError as error:
                _LOGGER.warning("%s; hours and energy of the last minute are not kept yet", error.summary)
                return
            self._unkept = {}

    def _known_totals(self) -> dict[NodeName, CountedTime]:
        if self._totals is None:
            totals = dict(self._world.times.total())
            for name, each in self._unkept.items():
                totals[name] = totals.get(name, CountedTime()) + each
            self._totals = totals
        return self._totals

    def _counted(self, seconds: float) -> dict[NodeName, CountedTime]:
        seen = {name: self._keeper.of(name) for name in self._fleet.nodes}
        if seconds > max(_LONGEST_TURN_SECONDS, 3 * self._fleet.service.look_every_seconds):
            return {name: CountedTime(unknown_seconds=seconds) for name in seen}
        gauges = self._gauges.fresh()
        free = _free_slots(self._world.leases.read(), seen)
        found = {}
        for name, each in seen.items():
            if _is_awake(each):
                found[name] = self._awake(each, seconds, gauges.get(name))
            elif each.now.phase in (Phase.ASLEEP, Phase.QUEUED):
                slots = set(slots_of(each.node))
                is_spared = slots <= free
                # Two nodes of one GPU: always on, only one of them could be.
                free -= slots if is_spared else set()
                found[name] = CountedTime(asleep_seconds=seconds, spared_seconds=seconds if is_spared else 0.0)
            elif each.now.phase is Phase.UNKNOWN:
                found[name] = CountedTime(unknown_seconds=seconds)
        return found

    def _awake(self, each: Seen, seconds: float, gauge: GuestGauge | None) -> CountedTime:
        watts = gauge.watts if gauge is not None and len(gauge.gpus) >= len(each.node.gpus) else None
        if watts is None:
            return CountedTime(awake_seconds=seconds)
        is_idle = each.now.phase is Phase.READY and self._is_idle(self._world.in_flight, each.node, gauge)
        return CountedTime(
            awake_seconds=seconds,
            measured_seconds=seconds,
            measured_joules=watts * seconds,
            idle_seconds=seconds if is_idle else 0.0,
            idle_joules=watts * seconds if is_idle else 0.0,
        )

    def _is_idle(self, in_flight: InFlight, node: NodeSpec, gauge: GuestGauge | None) -> bool:
        traffic: NodeTraffic = in_flight.of(node.name)
        last = traffic.last_request_at
        recent = last is not None and abs(self._world.clock.now() - last) < _SETTLES_SECONDS
        engine = gauge.engine if gauge is not None else None
        return not (traffic.is_busy or recent or engine is None or engine.running or engine.waiting)


def _free_slots(page: LeasePage, seen: Mapping[NodeName, Seen]) -> set[GpuSlot]:
    """Return the slots that no VM has: no node that is seen awake, and no stranger by what is written down."""
    slots = {slot for each in seen.values() for slot in slots_of(each.node)}
    awake = {slot for each in seen.values() if _is_awake(each) for slot in slots_of(each.node)}
    # What is written of a node of ours may be of yesterday; what is seen of it is not.
    ours = {(each.node.hypervisor, each.node.vmid) for each in seen.values()}
    strangers = {slot for slot, lease in page.leases.items() if (slot.hypervisor, lease.vmid) not in ours}
    return slots - awake - strangers


def _is_awake(each: Seen) -> bool:
    # An engine that rests passes for asleep, and its VM draws power all the same.
    return each.now.phase in _AWAKE or each.uptime_seconds > 0
