"""Figures of guests that are awake, against fakes that keep state."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from provisioner.domain.gauge import GaugedCheck, GuestGauge
from provisioner.domain.names import NodeName
from provisioner.services.events import ignore
from provisioner.services.gauging import Gauging
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from provisioner.services.use_looks import UseLooks
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

ONE = NodeName("llm-gpu-01")
GIB = 1 << 30


class Site:
    """A fleet whose first node serves."""

    def __init__(self, folder: Path, text: str = FLEET) -> None:
        self.fleet = fleet_from(folder, text)
        self.world = FakeWorld()
        Provisioning(self.fleet, self.world).up(self.fleet.nodes[ONE], ignore)
        self.world.guests.logins = self.world.guests.looks = 0
        self.keeper = Keeper(self.fleet, self.world, Journal(self.world.events, self.world.clock))
        self.keeper.look()
        self.gauging = Gauging(self.fleet, self.world, self.keeper, UseLooks(self.fleet, self.world))

    def look(self) -> GuestGauge:
        return self.gauging.look(self.keeper.of(ONE).node)

    def gauge(self) -> None:
        """Let a turn go by, with all that it began."""
        self.gauging.gauge()
        self.settle()

    def settle(self) -> None:
        """Wait for the looks that are under way."""
        for thread in threading.enumerate():
            if thread.name.startswith("gauge "):
                thread.join(10)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_look_shows_card_engine_guest_and_disk(site: Site) -> None:
    site.world.guests.running, site.world.guests.tokens = 2, 77.0
    gauge = site.look()
    (card,) = gauge.gpus
    assert (card.memory_bytes, card.power_watts, gauge.watts) == (24 * GIB, 26.5, 26.5)
    assert gauge.engine is not None
    assert (gauge.engine.running, gauge.engine.tokens_made) == (2, 77.0)
    assert (gauge.numbers.load, gauge.numbers.memory_bytes) == (0.1, GIB)
    assert [(room.mounted_at, room.bytes, room.free_bytes) for room in gauge.numbers.disks] == [
        ("/", 10 * GIB, 6 * GIB)
    ]
    assert (gauge.is_on_cpu, gauge.checks, gauge.why_blind) == (False, (), "")


def test_one_connection_serves_all_looks_and_those_of_idle_passes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    looks = UseLooks(site.fleet, site.world)
    gauging = Gauging(site.fleet, site.world, site.keeper, looks)
    node = site.keeper.of(ONE).node
    for _ in range(3):
        gauging.look(node)
        looks.guest(node)
    assert site.world.guests.logins == 1


def test_only_the_first_look_asks_thoroughly(site: Site) -> None:
    for _ in range(4):
        site.look()
    # Those that ask for numbers only are counted by the guest.
    assert site.world.guests.looks == 3


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("gpu_driver_missing", GaugedCheck("driver_installed", True)),
        ("gpu_missing", GaugedCheck("pci_device", True)),
    ],
)
def test_a_card_that_is_not_well_is_told_at_every_look(site: Site, fault: str, check: GaugedCheck) -> None:
    site.world.guests.gpu_faults.add(fault)
    assert check in site.look().checks
    assert check in site.look().checks


def test_an_engine_on_the_cpu_of_a_node_with_a_gpu_is_noticed(site: Site) -> None:
    site.world.guests.gpu_faults.add("engine_on_cpu")
    assert site.look().is_on_cpu is True


def test_a_guest_that_hangs_keeps_the_engines_figures_and_says_why_nobody_sees_inside(site: Site) -> None:
    site.world.guests.hangs = True
    gauge = site.look()
    assert (gauge.gpus, gauge.watts) == ((), None)
    assert "took longer" in gauge.why_blind
    assert gauge.engine is not None


def test_a_guest_that_hangs_is_asked_ever_more_seldom_and_stays_known_as_one(site: Site) -> None:
    site.world.guests.hangs = True
    looked_at = []
    for _ in range(80):
        before = site.gauging.fresh().get(ONE)
        site.gauge()
        after = site.gauging.fresh()[ONE]
        if before is None or after.at != before.at:
            looked_at.append(site.world.clock.monotonic())
        assert after.why_blind
        site.world.clock.advance(15.0)
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(looked_at)]
    assert pauses[:5] == [30, 60, 120, 240, 300]
    site.world.guests.hangs = False
    site.world.clock.advance(301.0)
    site.gauge()
    site.gauge()
    assert (site.gauging.fresh()[ONE].why_blind, site.gauging.fresh()[ONE].watts) == ("", 26.5)


def test_an_engine_that_hangs_keeps_the_cards_figures(site: Site) -> None:
    site.world.guests.engine_dead = True
    gauge = site.look()
    assert gauge.engine is None
    assert gauge.watts == 26.5


def test_who_sleeps_is_not_looked_at_and_has_no_figures(site: Site) -> None:
    site.gauge()
    assert set(site.gauging.fresh()) == {ONE}
    Sleeping(site.fleet, site.world).sleep(site.fleet.nodes[ONE], ignore, force=True)
    site.keeper.look()
    asked = len(site.world.guests.asked)
    site.gauge()
    assert site.gauging.fresh() == {}
    assert len(site.world.guests.asked) == asked


def test_figures_that_are_old_are_those_of_a_guest_that_hangs_and_are_not_told(site: Site) -> None:
    site.gauge()
    site.world.clock.advance(61.0)
    assert site.gauging.fresh() == {}


def test_a_guest_that_is_still_being_asked_is_not_asked_again_and_holds_up_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    looks: list[str] = []

    def slow(node: object) -> GuestGauge:
        looks.append("look")
        began.set()
        assert go_on.wait(10)
        return GuestGauge(0.0)

    monkeypatch.setattr(site.gauging, "look", slow)
    site.gauging.gauge()
    assert began.wait(10)
    site.gauging.gauge()
    assert looks == ["look"]
    go_on.set()
    site.settle()
    site.gauge()
    assert looks == ["look", "look"]


def test_an_adopted_guest_is_not_entered(tmp_path: Path) -> None:
    looks = UseLooks(fleet_from(tmp_path, FLEET.replace("llm-gpu-02: {", "llm-gpu-02: {adopt: true, ")), FakeWorld())
    node = fleet_from(tmp_path, FLEET.replace("llm-gpu-02: {", "llm-gpu-02: {adopt: true, ")).node("llm-gpu-02")
    assert looks.numbers(node, thoroughly=False) == (None, "it is adopted: nobody of us can log in")

    world = FakeWorld()
    fleet = fleet_from(tmp_path, FLEET.replace("llm-gpu-02: {", "llm-gpu-02: {adopt: true, "))
    keeper = Keeper(fleet, world, Journal(world.events, world.clock))
    gauge = Gauging(fleet, world, keeper, UseLooks(fleet, world)).look(node)
    # Nothing is wrong with a guest that we were never to enter.
    assert gauge.why_blind == ""
