"""Hours and energy, counted turn by turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from provisioner.domain.gauge import EngineNumbers, GuestGauge
from provisioner.domain.gpu_reading import GpuReading
from provisioner.domain.lease import GpuSlot, LeasePage, adopted
from provisioner.domain.names import GpuName, HypervisorName, NodeName, Vmid
from provisioner.domain.savings import CountedTime
from provisioner.domain.serving import Phase
from provisioner.errors import InputError
from provisioner.services.events import ignore
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from provisioner.services.time_counting import TimeCounting
from tests.fakes.world import FakeWorld
from tests.fleets import fleet_from

ONE, TWO = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")
QUIET = EngineNumbers(0, 0)


class Readings:
    """Figures that a test chooses."""

    def __init__(self) -> None:
        self.gauges: dict[NodeName, GuestGauge] = {}

    def fresh(self) -> Mapping[NodeName, GuestGauge]:
        return self.gauges

    def draws(self, watts: float | None, engine: EngineNumbers | None = QUIET) -> None:
        self.gauges[ONE] = GuestGauge(0.0, gpus=(GpuReading(power_watts=watts),), engine=engine)


class Site:
    """Two nodes of one GPU, of which the first exists."""

    def __init__(self, folder: Path) -> None:
        self.fleet = fleet_from(folder)
        self.world = FakeWorld()
        Provisioning(self.fleet, self.world).up(self.fleet.nodes[ONE], ignore)
        self.keeper = Keeper(self.fleet, self.world, Journal(self.world.events, self.world.clock))
        self.readings = Readings()
        self.counting = self.restarted()

    def restarted(self) -> TimeCounting:
        self.counting = TimeCounting(self.fleet, self.world, self.keeper, self.readings)
        self.counting.turn()
        return self.counting

    def sleep(self) -> None:
        Sleeping(self.fleet, self.world).sleep(self.fleet.nodes[ONE], ignore, force=True)

    def passes(self, seconds: float) -> None:
        self.world.clock.sleep(seconds)
        self.keeper.look()
        self.counting.turn()

    def of(self, node: NodeName = ONE) -> CountedTime:
        return self.counting.totals().get(node, CountedTime())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_node_that_serves_is_awake_and_what_it_draws_is_measured(site: Site) -> None:
    site.readings.draws(100.0)
    site.passes(5.0)
    assert site.keeper.seen()[ONE].phase is Phase.READY
    assert site.of() == CountedTime(
        awake_seconds=5.0, measured_seconds=5.0, measured_joules=500.0, idle_seconds=5.0, idle_joules=500.0
    )


@pytest.mark.parametrize("engine", [EngineNumbers(1, 0), EngineNumbers(0, 2), None])
def test_an_engine_that_works_or_does_not_tell_is_not_idle(site: Site, engine: EngineNumbers | None) -> None:
    site.readings.draws(100.0, engine)
    site.passes(5.0)
    assert (site.of().measured_seconds, site.of().idle_seconds) == (5.0, 0.0)


def test_a_request_a_moment_ago_still_shows_in_what_a_card_draws(site: Site) -> None:
    site.readings.draws(100.0)
    now = site.world.clock.now()
    site.world.in_flight.enter(ONE, now)
    site.world.in_flight.leave(ONE, now)
    site.passes(5.0)
    assert site.of().idle_seconds == 0.0
    site.passes(58.0)
    assert site.of().idle_seconds == 58.0


def test_a_card_that_does_not_tell_its_power_is_awake_and_not_measured(site: Site) -> None:
    site.readings.draws(None)
    site.passes(5.0)
    assert site.of() == CountedTime(awake_seconds=5.0)


def test_a_node_that_is_off_spares_its_gpu_once_however_many_share_it(site: Site) -> None:
    site.sleep()
    Provisioning(site.fleet, site.world).up(site.fleet.nodes[TWO], ignore)
    Sleeping(site.fleet, site.world).sleep(site.fleet.nodes[TWO], ignore, force=True)
    site.restarted()
    site.passes(5.0)
    assert site.of(ONE) == CountedTime(asleep_seconds=5.0, spared_seconds=5.0)
    assert site.of(TWO) == CountedTime(asleep_seconds=5.0, spared_seconds=0.0)


def test_a_gpu_that_another_vm_has_is_not_spared(site: Site) -> None:
    site.sleep()
    site.restarted()
    slot = GpuSlot(HypervisorName("pve1"), GpuName("rtx3090"))
    with site.world.leases.turn() as turn:
        turn.page = adopted(LeasePage(), [slot], Vmid(200), "windows", now=0.0)
    site.passes(5.0)
    assert site.of() == CountedTime(asleep_seconds=5.0, spared_seconds=0.0)


def test_a_pause_of_the_service_itself_is_unknown(site: Site) -> None:
    site.passes(3600.0)
    assert site.of() == CountedTime(unknown_seconds=3600.0)


def test_a_clock_that_jumps_counts_nothing_twice(site: Site) -> None:
    site.passes(5.0)
    site.world.clock.jump(-86400.0)
    site.passes(5.0)
    site.world.clock.jump(10 * 86400.0)
    site.passes(5.0)
    assert site.of().awake_seconds == 15.0


def test_what_was_counted_is_kept_once_a_minute_and_found_by_the_next_service(site: Site) -> None:
    for _ in range(13):
        site.passes(5.0)
    assert site.world.times.total()[ONE].awake_seconds == 60.0
    site.restarted()
    site.passes(5.0)
    assert site.of().awake_seconds == 65.0


def test_the_last_minute_is_kept_when_the_service_ends(site: Site) -> None:
    site.passes(5.0)
    site.counting.keep()
    assert site.world.times.total()[ONE].awake_seconds == 5.0
    site.counting.keep()
    assert site.world.times.total()[ONE].awake_seconds == 5.0


def test_a_disk_that_is_full_loses_nothing_that_can_be_written_later(site: Site) -> None:
    site.world.times.fails = InputError("cannot write", subject="disk", next_step="make room")
    for _ in range(13):
        site.passes(5.0)
    assert site.world.times.total() == {}
    site.world.times.fails = None
    site.counting.keep()
    assert site.world.times.total()[ONE].awake_seconds == 65.0
