"""Wires what is counted and read for whoever watches: metrics, targets, hours and energy, the record of requests."""

from __future__ import annotations

import json
from collections.abc import Callable

from provisioner.api.app import Watched
from provisioner.api.control import Control
from provisioner.domain.serving import Phase
from provisioner.domain.timings import Timings
from provisioner.fleet import Fleet
from provisioner.metrics.page import MetricsPage, Sources
from provisioner.metrics.process import process_figures
from provisioner.metrics.requests import CountedLedger, RequestCounts
from provisioner.metrics.tally import Tally, earlier_wakes
from provisioner.metrics.text import CONTENT_TYPE
from provisioner.planning.prometheus_targets import target_groups
from provisioner.ports.ledger import Ledger
from provisioner.services.gauging import Gauging
from provisioner.services.keeper import Keeper
from provisioner.services.time_counting import TimeCounting
from provisioner.services.use_looks import UseLooks
from provisioner.serving.record import Record

# Of the journal, for how long wakes usually take.
_ENTRIES_READ = 2000


class Counts:
    """What is counted from the first moment on. Raises InputError when the record's secret cannot be read."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        world, spec = fleet.world, fleet.spec.service.record
        self.tally = Tally(earlier_wakes(world.events.latest(limit=_ENTRIES_READ)))
        self.requests = RequestCounts()
        self.loops = Timings()
        self.record = Record(spec, world.secret) if spec is not None else None

    def ledger(self, kept: Ledger) -> CountedLedger:
        """Return a ledger that keeps requests there, and counts them here."""
        more = [self.record.add] if self.record is not None else []
        return CountedLedger(kept, self._fleet.spec, self.requests.add, *more)

    def close(self) -> None:
        """Send what waits, if that is a matter of a moment."""
        if self.record is not None:
            self.record.close()


class Figures:
    """Everything that is told of the fleet in figures.

    Args:
        fleet: whose.
        counts: what is counted.
        keeper: who is awake.
        looks: the connections into guests.
        control: what idle passes said.
        held_bytes: memory of bodies that wait.
        version: our own.
    """

    def __init__(
        self,
        fleet: Fleet,
        counts: Counts,
        keeper: Keeper,
        looks: UseLooks,
        control: Control,
        *,
        held_bytes: Callable[[], int],
        version: str,
    ) -> None:
        self._fleet = fleet
        self._keeper = keeper
        world = fleet.world
        self.gauging = Gauging(fleet.spec, world, keeper, looks)
        self.times = TimeCounting(fleet.spec, world, keeper, self.gauging)
        record = counts.record
        sources = Sources(
            fleet.spec,
            world,
            keeper,
            world.in_flight,
            self.gauging,
            self.times,
            counts.requests,
            counts.tally,
            counts.loops,
            world.api_calls,
            version,
            control.quiet_since,
            control.verdicts,
            held_bytes,
            lambda: control.is_draining,
            record=record.figures if record is not None else dict,
            process=process_figures,
        )
        self.watching = {
            "/metrics": Watched(MetricsPage(sources).text, CONTENT_TYPE),
            "/sd/prometheus": Watched(self._targets, "application/json"),
        }
        """The pages for whoever watches us, by their paths."""

    def _targets(self) -> bytes:
        """Return the engines that answer now, as Prometheus wants to be told of them."""
        awake = [self._keeper.of(name).node for name, now in self._keeper.seen().items() if now.phase is Phase.READY]
        return json.dumps(target_groups(self._fleet.spec, self._fleet.world.engines, awake)).encode()
