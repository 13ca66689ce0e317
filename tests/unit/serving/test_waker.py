"""One wake as the service does it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.domain.events import Kind
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.in_flight import InFlight
from provisioner.domain.names import NodeName
from provisioner.domain.serving import Phase
from provisioner.errors import GpuUnusableError, HypervisorError
from provisioner.gateway.wakes import NobodyWantsIt
from provisioner.metrics.tally import Tally
from provisioner.services.events import Event, OnEvent, ignore
from provisioner.services.events import Phase as StepPhase
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from provisioner.services.waking import WakeReport, Waking
from provisioner.serving.waker import NodeWaker
from tests.fakes.hypervisors import refusal
from tests.fakes.world import FakeWorld
from tests.fleets import fleet_from

ONE = NodeName("llm-gpu-01")


class Site:
    """A node that sleeps, and all that wakes it."""

    def __init__(self, folder: Path) -> None:
        fleet = self.fleet = fleet_from(folder)
        self.world = FakeWorld()
        node = fleet.nodes[ONE]
        Provisioning(fleet, self.world).up(node, ignore)
        Sleeping(fleet, self.world).sleep(node, ignore, force=True)
        self.world.cluster.acts.clear()
        self.in_flight = InFlight()
        journal = Journal(self.world.events, self.world.clock)
        self.keeper = Keeper(fleet, self.world, journal)
        self.keeper.look()
        waking = Waking(fleet, self.world)

        def wake(name: NodeName, told: OnEvent, still_wanted: Callable[[], None]) -> WakeReport:
            return waking.wake(fleet.nodes[name], told, still_wanted)

        self.waker = NodeWaker(wake, self.world.clock, self.keeper, journal, self.in_flight)

    def other_takes_the_gpu(self) -> NodeSpec:
        """Have the other node awake, on the same card."""
        other = self.fleet.nodes[NodeName("llm-gpu-02")]
        Provisioning(self.fleet, self.world).up(other, ignore)
        self.world.clock.advance(3600.0)
        self.world.cluster.acts.clear()
        return other

    @property
    def started(self) -> bool:
        return any(act.startswith("start") for act in self.world.cluster.acts)

    def wakes(self) -> list[str]:
        return [each.phase for each in self.world.events.entries if each.kind is Kind.WAKE]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_wake_is_seen_by_all_and_kept(site: Site) -> None:
    site.waker(ONE, lambda: True)
    assert site.started
    assert site.keeper.seen()[ONE].phase is Phase.READY
    assert site.wakes() == ["started", "done"]
    done = site.world.events.entries[-1]
    assert done.facts["started"] is True
    assert done.facts["seconds"] == round(site.waker.reports[ONE].seconds, 3)


def test_a_wake_that_nobody_wants_any_more_starts_nothing(site: Site) -> None:
    with pytest.raises(NobodyWantsIt):
        site.waker(ONE, lambda: False)
    assert not site.started
    assert site.wakes() == ["started", "given up"]
    site.keeper.look_at_doubted()
    assert site.keeper.seen()[ONE].phase is Phase.ASLEEP


def test_a_wake_that_waits_for_its_gpu_waits_no_longer_than_it_is_wanted(site: Site) -> None:
    site.other_takes_the_gpu()
    site.world.guests.running = 1
    wanted = [True]
    site.world.clock.at(30.0, wanted.clear)
    before = site.world.clock.monotonic()
    with pytest.raises(NobodyWantsIt):
        site.waker(ONE, lambda: bool(wanted))
    assert site.world.clock.monotonic() - before < 60
    assert site.world.leases.read().waiters == ()
    assert not site.started


def test_a_gpu_that_becomes_free_when_nobody_wants_it_any_more_starts_nothing(site: Site) -> None:
    other = site.other_takes_the_gpu()
    site.world.guests.running = 1
    wanted = [True]

    def all_leave() -> None:
        wanted.clear()
        site.world.cluster.stop_vm(other.hypervisor, other.vmid)

    site.world.clock.at(30.0, all_leave)
    with pytest.raises(NobodyWantsIt):
        site.waker(ONE, lambda: bool(wanted))
    assert not site.started
    assert site.world.leases.read().waiters == ()


@pytest.mark.parametrize("still_answers", [True, False])
def test_a_node_that_goes_off_under_a_wake_is_not_started_for_nobody(site: Site, still_answers: bool) -> None:
    site.waker(ONE, lambda: True)
    cluster, clock, vmid = site.world.cluster, site.world.clock, site.fleet.nodes[ONE].vmid
    cluster.acts.clear()
    cluster.being_shut_down.add(vmid)
    site.world.guests.engine_dead = not still_answers
    wanted = [True]

    def off() -> None:
        cluster.stop_vm(site.fleet.nodes[ONE].hypervisor, vmid)
        cluster.being_shut_down.clear()

    clock.at(5.0, off)
    clock.at(0.05, wanted.clear)
    with pytest.raises(NobodyWantsIt):
        site.waker(ONE, lambda: bool(wanted))
    assert not site.started


def test_who_asks_during_a_drain_joins_its_end(site: Site) -> None:
    site.in_flight.close(ONE)
    waited: list[bool] = []

    def wanted() -> bool:
        if not waited:
            assert not site.started
            waited.append(True)
            site.in_flight.open(ONE)
        return True

    site.waker(ONE, wanted)
    assert waited
    assert site.started


def test_who_leaves_during_a_drain_starts_nothing(site: Site) -> None:
    site.in_flight.close(ONE)
    with pytest.raises(NobodyWantsIt):
        site.waker(ONE, lambda: False)
    assert not site.started


def test_a_wake_that_fails_says_why_and_leaves_the_node_to_the_next_look(site: Site) -> None:
    site.world.cluster.fails["start_vm"] = refusal("cannot start it: no memory")
    with pytest.raises(HypervisorError, match="no memory"):
        site.waker(ONE, lambda: True)
    assert site.wakes() == ["started", "failed"]
    assert "no memory" in site.world.events.entries[-1].detail
    assert site.keeper.doubts.is_set()
    site.keeper.look_at_doubted()
    assert site.keeper.seen()[ONE].phase is Phase.ASLEEP


@pytest.mark.parametrize("is_by_gpu", [True, False])
def test_a_wake_that_its_card_made_fail_is_counted_as_such(site: Site, is_by_gpu: bool) -> None:
    kind = GpuUnusableError if is_by_gpu else HypervisorError
    site.world.cluster.fails["start_vm"] = kind("cannot start it", subject="vm 5001", next_step="look")
    with pytest.raises(HypervisorError):
        site.waker(ONE, lambda: True)
    tally = Tally()
    tally.see(site.world.events.entries[-1])
    assert tally.read().wakes == {(ONE, "failed_gpu" if is_by_gpu else "failed"): 1}


def test_a_journal_thread_keeps_the_order(site: Site) -> None:
    journal = Journal(site.world.events, site.world.clock)
    heard: list[int] = []
    end: Callable[[], None] = journal.listen(lambda: heard.append(threading.get_ident()))
    before = journal.last_number()
    journal.start()
    tell = journal.telling("n8n")
    for number in range(50):
        tell(Event(ONE, f"step {number}", StepPhase.DONE))
    assert journal.last_number() == before + 50
    journal.close()
    end()
    steps = [each.facts["step"] for each in journal.after(before)]
    assert steps == [f"step {number}" for number in range(50)]
    assert heard
    assert threading.get_ident() not in heard
