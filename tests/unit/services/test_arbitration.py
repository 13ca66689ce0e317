"""GPU slots and holds through wake, sleep, idle and destroy, against fakes that keep state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.lease import GpuSlot, LeasePage, LeasePhase, adopted
from provisioner.domain.names import GpuName, HypervisorName, MappingId, NodeName, Vmid
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import (
    GpuTakenError,
    HypervisorError,
    InputError,
    NotReadyError,
    OvertakenError,
    RefusedError,
    UnreachableError,
)
from provisioner.planning.arbiter import Verdict
from provisioner.planning.idle import IdleVerdict
from provisioner.services.arbitration import Arbitration, claim_of
from provisioner.services.events import Event, Phase, ignore
from provisioner.services.fleet_view import FleetView
from provisioner.services.idling import Idling
from provisioner.services.mode_switching import ModeSwitching
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from provisioner.services.slot_taking import IN_FLIGHT_SECONDS, SlotTaking
from provisioner.services.waking import Waking
from tests.fakes.hypervisors import FakeVm, refusal
from tests.fakes.leases import MemoryLeaseBook, MemoryTurn
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")
SLOT = GpuSlot(PVE1, GpuName("rtx3090"))
WINDOWS = Vmid(200)


@pytest.fixture
def other(fleet: FleetSpec) -> NodeSpec:
    """The second node, with the same GPU."""
    return fleet.nodes[NodeName("llm-gpu-02")]


@pytest.fixture
def shared(fleet: FleetSpec, node: NodeSpec, other: NodeSpec, world: FakeWorld) -> FakeWorld:
    """Both nodes were made; the first is awake, and has been for an hour."""
    provisioning = Provisioning(fleet, world)
    for each in (other, node):
        provisioning.up(each, ignore)
        world.clock.advance(3600)
    world.cluster.acts.clear()
    return world


def said(events: list[Event]) -> str:
    return "\n".join(event.detail for event in events)


def second(world: FakeWorld) -> FakeWorld:
    """Another process beside the first, with the same Proxmox, guests and book."""
    process = FakeWorld()
    process.__dict__.update(world.__dict__)
    process.leases = MemoryLeaseBook(world.leases.shared, "2")
    return process


def clients(world: FakeWorld, node: NodeName, *, every: float, each: float) -> None:
    """Have requests come to a node through the gateway for an hour; who is not let in waits."""
    clock, flight = world.clock, world.in_flight

    def leave() -> None:
        flight.leave(node, clock.now())
        world.guests.running = flight.of(node).running

    def come() -> None:
        if world.cluster.vms[Vmid(5001)].seen.power is Power.RUNNING and flight.enter(node, clock.now()):
            world.guests.running = flight.of(node).running
            clock.at(each, leave)
        else:
            flight.start_waiting(node, clock.now(), most=1000)

    come()
    for number in range(1, int(3600 / every)):
        clock.at(number * every, come)


def hanging(world: FakeWorld) -> FakeWorld:
    """The world with a Proxmox whose starts go on until a test says otherwise."""
    world.cluster.starts_hang = True
    return world


class FullDisk(MemoryLeaseBook):
    """A book that cannot be written once, when `at` says of the page before and the one after that it is time."""

    def __init__(self, world: FakeWorld, at: Callable[[LeasePage, LeasePage], bool]) -> None:
        super().__init__(world.leases.shared, world.leases.owner)
        self._at = [at]

    @contextmanager
    def turn(self) -> Iterator[MemoryTurn]:
        with super().turn() as turn:
            before = turn.page
            yield turn
            if self._at and self._at[0](before, turn.page):
                self._at.clear()
                raise InputError("database or disk is full", subject="book", next_step="make room")


class TestDiskFull:
    """What could not be written is no work under way: a service lives on for months."""

    def test_a_node_that_went_off_does_not_pass_for_one_that_is_being_shut_down(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        shared.leases = FullDisk(shared, lambda before, after: SLOT in before.leases and SLOT not in after.leases)
        with pytest.raises(InputError, match="disk is full"):
            Sleeping(fleet, shared).sleep(node, ignore)
        assert Waking(fleet, shared).wake(other, ignore).started

    def test_a_start_whose_end_was_not_written_is_not_waited_for(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        shared.leases = FullDisk(shared, lambda _, after: any(each.issued for each in after.leases.values()))
        with pytest.raises(InputError, match="disk is full"):
            Waking(fleet, shared).wake(node, ignore)
        assert Waking(fleet, shared).wake(node, ignore).started

    def test_one_who_waits_no_longer_keeps_nobody_waiting(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        shared.guests.running = 1
        shared.leases = FullDisk(shared, lambda before, after: len(after.waiters) < len(before.waiters))
        with pytest.raises(InputError, match="disk is full"):
            Waking(fleet, shared).wake(other, ignore)
        assert shared.leases.read().waiters
        shared.guests.running = 0
        Sleeping(fleet, shared).sleep(node, ignore)
        assert Waking(fleet, shared).wake(node, ignore).started

    def test_those_who_wait_beside_it_keep_their_place(
        self, fleet: FleetSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        shared.guests.running = 1
        shared.clock.at(50, shared.leases.renounce)
        shared.clock.at(100, lambda: setattr(shared.guests, "running", 0))
        numbers: list[int] = []
        shared.clock.at(60, lambda: numbers.extend(each.number for each in shared.leases.read().waiters))
        assert Waking(fleet, shared).wake(other, ignore).started
        assert len(numbers) == 1


class TestTaking:
    """One VM has the card; the other gets it by the rule."""

    def test_a_quiet_node_gives_way_and_the_book_says_who_has_the_card(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        events: list[Event] = []
        Waking(fleet, shared).wake(other, events.append)
        assert shared.cluster.acts == ["shut down 5001", "start 5002"]
        assert "llm-gpu-01 is quiet and gives way to llm-gpu-02" in said(events)
        lease = shared.leases.read().leases[SLOT]
        assert (lease.vmid, lease.phase) == (other.vmid, LeasePhase.HELD)
        assert shared.leases.read().waiters == ()

    def test_a_busy_node_is_waited_for(self, fleet: FleetSpec, other: NodeSpec, shared: FakeWorld) -> None:
        shared.guests.running = 2
        shared.clock.at(100, lambda: setattr(shared.guests, "running", 0))
        events: list[Event] = []
        before = shared.clock.monotonic()
        Waking(fleet, shared).wake(other, events.append)
        assert shared.clock.monotonic() - before >= 100
        assert "llm-gpu-01 has rtx3090 on pve1 and is in use: 2 requests running" in said(events)

    def test_one_that_is_never_quiet_is_drained_and_the_waiter_told_at_his_bound(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        shared.guests.running = 1
        before, phases = shared.clock.monotonic(), []
        for at in (10, other.gpu_wait_seconds * 0.6):
            shared.clock.at(at, lambda: phases.append(shared.leases.read().leases[SLOT].phase))
        with pytest.raises(NotReadyError, match="did not get its GPU within 15 min: llm-gpu-01 is drained") as caught:
            Waking(fleet, shared).wake(other, ignore)
        assert caught.value.retryable
        assert shared.clock.monotonic() - before == pytest.approx(other.gpu_wait_seconds, abs=3)
        assert phases == [LeasePhase.HELD, LeasePhase.FREEING]
        page = shared.leases.read()
        assert (page.leases[SLOT].vmid, page.leases[SLOT].phase) == (node.vmid, LeasePhase.HELD)
        assert page.waiters == ()
        assert shared.cluster.acts == []

    def test_one_whose_requests_never_stop_coming_takes_no_more_of_them_once_it_is_to_give_way(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        clock, flight = shared.clock, shared.in_flight
        clients(shared, node.name, every=8, each=20)
        before = clock.monotonic()
        events: list[Event] = []
        Waking(fleet, shared).wake(other, events.append)
        assert shared.cluster.acts == ["shut down 5001", "start 5002"]
        told = [event.phase for event in events if (event.node, event.step) == (node.name, "shut down")]
        assert told == [Phase.STARTED, Phase.DONE], "whoever sends requests learns that it is off"
        # Not before half of its time, and soon after that: the requests inside ended by themselves.
        half = other.gpu_wait_seconds / 2
        assert half <= clock.monotonic() - before < half + 60
        assert flight.of(node.name).waiting > 0, "who came meanwhile waits, and wakes it again"
        assert flight.of(node.name).is_open

    def test_the_gate_of_one_that_does_not_get_quiet_in_time_opens_again(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        assert shared.in_flight.enter(node.name, shared.clock.now())
        seen: list[bool] = []
        for at in (10, other.gpu_wait_seconds * 0.6):
            shared.clock.at(at, lambda: seen.append(shared.in_flight.of(node.name).is_open))
        with pytest.raises(NotReadyError, match="is drained"):
            Waking(fleet, shared).wake(other, ignore)
        assert seen == [True, False]
        assert shared.in_flight.of(node.name).is_open
        assert shared.cluster.acts == []

    def test_one_that_was_drained_in_vain_is_served_while_somebody_works_in_it(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        shared.guests.shows["connections"] = "session 7\nName=alice\nTTY=pts/0\nprogram pts/0 -bash"
        clients(shared, node.name, every=8, each=20)
        with pytest.raises(NotReadyError, match="alice"):
            Waking(fleet, shared).wake(other, ignore)
        assert shared.cluster.acts == []
        assert shared.in_flight.of(node.name).is_open

    def test_a_start_under_way_in_another_process_is_joined(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        theirs = second(shared)
        claim = claim_of(fleet, node)
        granted = SlotTaking(fleet, theirs).take(claim, print)
        started = Arbitration(fleet, theirs)
        shared.clock.at(5, lambda: started.start(shared.cluster, claim, granted.leases).wait())
        shared.cluster.acts.clear()
        report = Waking(fleet, shared).wake(node, ignore)
        assert not report.started
        assert shared.cluster.acts == ["start 5001"]

    def test_a_stranger_with_the_card_is_named_and_then_known(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        seen = VmSeen(WINDOWS, "windows", PVE1, Power.RUNNING)
        cards = (MappingId("rtx3090"),)
        shared.cluster.vms[WINDOWS] = FakeVm(seen, notes="", disk_bytes=GIB, mappings=cards, seed=None)
        taken = GpuTakenError("PCI device '0000:01:00.0' already in use by VMID '200'", subject="x", next_step="y")
        taken.holder = WINDOWS
        shared.cluster.fails["start_vm"] = taken
        with pytest.raises(GpuTakenError):
            Waking(fleet, shared).wake(node, ignore)
        assert shared.leases.read().leases[SLOT].adopted
        with pytest.raises(RefusedError, match=r"windows \(vm 200\) has rtx3090 on pve1, and stays"):
            Waking(fleet, shared).wake(node, ignore)
        status = FleetView(fleet, shared).status([node])[0]
        assert status.claims == "rtx3090 is with windows (vm 200)"
        shared.cluster.stop_vm(PVE1, WINDOWS)
        assert Waking(fleet, shared).wake(node, ignore).started

    def test_a_node_that_is_being_backed_up_is_no_stranger(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        vm = shared.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, lock="backup")
        with pytest.raises(RefusedError, match=r"llm-gpu-01 \(vm 5001\) .* its VM is locked \(backup\)") as caught:
            Waking(fleet, shared).wake(other, ignore)
        assert "wait for the backup" in caught.value.next_step
        assert shared.cluster.acts == []

    def test_a_start_that_failed_leaves_the_card_free(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        shared.cluster.fails["start_vm"] = refusal("no")
        with pytest.raises(HypervisorError, match="no"):
            Waking(fleet, shared).wake(node, ignore)
        assert SLOT not in shared.leases.read().leases

    def test_a_start_whose_answer_got_lost_may_still_arrive(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        shared.cluster.fails["start_vm"] = UnreachableError("no answer", subject="x", next_step="y")
        with pytest.raises(UnreachableError):
            Waking(fleet, shared).wake(node, ignore)
        events: list[Event] = []
        before = shared.clock.monotonic()
        Waking(fleet, second(shared)).wake(other, events.append)
        assert "its start may still arrive at Proxmox" in said(events)
        assert shared.clock.monotonic() - before >= IN_FLIGHT_SECONDS

    def test_a_start_whose_answer_got_lost_may_still_arrive_after_its_sender_was_killed(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        shared.cluster.fails["start_vm"] = UnreachableError("no answer", subject="x", next_step="y")
        killed = second(shared)
        assert SlotTaking(fleet, killed).start_node(node, print) is not None
        shared.leases.shared.dead.add(killed.leases.owner)
        before = shared.clock.monotonic()
        Waking(fleet, shared).wake(other, ignore)
        assert shared.clock.monotonic() - before >= IN_FLIGHT_SECONDS

    def test_a_start_that_was_refused_after_an_answer_got_lost_may_still_arrive(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        start = SlotTaking(fleet, hanging(shared)).start_node(node, print)
        ticket = shared.cluster.hanging[-1]
        ticket.failure, ticket.may_still_arrive = refusal("no"), True
        assert start is not None
        with pytest.raises(HypervisorError, match="no"):
            start.is_done()
        assert shared.leases.read().leases[SLOT].owner == ""

    def test_a_start_that_ran_after_an_answer_got_lost_may_arrive_once_more(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        start = SlotTaking(fleet, hanging(shared)).start_node(node, print)
        ticket = shared.cluster.hanging[-1]
        assert start is not None
        ticket.may_still_arrive = True
        assert not start.is_done()
        ticket.ends, shared.cluster.starts_hang = True, False
        shared.cluster.start_vm(PVE1, node.vmid)
        assert start.is_done()
        Sleeping(fleet, shared).sleep(node, ignore, force=True)
        before = shared.clock.monotonic()
        Waking(fleet, second(shared)).wake(other, ignore)
        assert shared.clock.monotonic() - before >= IN_FLIGHT_SECONDS

    def test_a_hold_comes_in_time_for_one_whose_start_may_arrive_once_more(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        with shared.leases.turn() as turn:
            lease = replace(turn.page.leases[SLOT], phase=LeasePhase.TAKING, issued=True)
            turn.page = replace(turn.page, leases={SLOT: lease})
        arbitration = Arbitration(fleet, shared)

        def held_meanwhile() -> None:
            with arbitration.shutting_down(shared.cluster, claim_of(fleet, node)) as require_still_wanted:
                require_still_wanted()
                arbitration.hold(node, by="anna", seconds=60)
                require_still_wanted()

        with pytest.raises(RefusedError, match="held by anna"):
            held_meanwhile()

    def test_the_book_knows_whether_a_start_is_to_be_sent_again(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        start = SlotTaking(fleet, hanging(shared)).start_node(node, print)
        ticket = shared.cluster.hanging[-1]
        assert start is not None
        issued = [shared.leases.read().leases[SLOT].issued]
        for may_still_arrive in (True, False, True):
            ticket.may_still_arrive = may_still_arrive
            start.is_done()
            issued.append(shared.leases.read().leases[SLOT].issued)
        assert issued == [False, True, False, True]

    def test_a_start_whose_slot_another_has_by_now_is_not_sent_again(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        start = SlotTaking(fleet, hanging(shared)).start_node(node, print)
        shared.cluster.hanging[-1].may_still_arrive = True
        with shared.leases.turn() as turn:
            turn.page = adopted(turn.page, [SLOT], other.vmid, other.name, now=shared.clock.now())
        assert start is not None
        with pytest.raises(OvertakenError, match="by now llm-gpu-02"):
            start.is_done()

    def test_a_wake_that_gives_up_leaves_the_start_to_others(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        shared.cluster.starts_hang = True
        with pytest.raises(HypervisorError, match="still runs"):
            Waking(fleet, shared).wake(node, ignore)
        assert shared.leases.read().leases[SLOT].owner == ""

    def test_a_node_without_a_gpu_asks_nobody(self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld) -> None:
        taken = SlotTaking(fleet, shared).take(claim_of(fleet, replace(node, gpus=())), print)
        assert (taken.verdict, taken.leases) == (Verdict.GRANT, ())

    def test_one_who_is_overtaken_before_his_start_starts_nothing(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        late = SlotTaking(fleet, shared).take(claim_of(fleet, node), print)
        # Somebody starts the other node by hand, in Proxmox; whoever asks next sees it.
        shared.cluster.start_vm(PVE1, other.vmid)
        shared.cluster.acts.clear()
        with pytest.raises(NotReadyError):
            SlotTaking(fleet, second(shared)).take(
                replace(claim_of(fleet, node), vmid=Vmid(5009), wait_seconds=1), print
            )
        with pytest.raises(OvertakenError, match=r"by now llm-gpu-02 \(vm 5002\) has it"):
            Arbitration(fleet, shared).start(shared.cluster, claim_of(fleet, node), late.leases)
        assert shared.cluster.acts == []


class TestHolding:
    """A person's word is above all rules but --force."""

    def test_a_held_node_is_not_put_to_sleep_and_says_by_whom(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Arbitration(fleet, shared).hold(node, by="anna", seconds=7200, why="training")
        with pytest.raises(RefusedError, match=r"it is held by anna for another 2 h \(training\)") as caught:
            Sleeping(fleet, shared).sleep(node, ignore)
        assert "provisioner release llm-gpu-01 --by anna" in caught.value.next_step
        (decision,) = Idling(fleet, shared).idle([node], ignore)
        shared.clock.advance(3600)
        (decision,) = Idling(fleet, shared).idle([node], ignore)
        assert decision.verdict is IdleVerdict.STAY
        assert FleetView(fleet, shared).status([node])[0].claims == "it is held by anna for another 1 h (training)"
        assert shared.cluster.acts == []
        Sleeping(fleet, shared).sleep(node, ignore, force=True)
        assert shared.cluster.acts == ["shut down 5001"]

    def test_a_hold_ends_by_itself(self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld) -> None:
        Arbitration(fleet, shared).hold(node, by="anna", seconds=60)
        shared.clock.advance(60)
        assert Sleeping(fleet, shared).sleep(node, ignore).was_running

    def test_a_held_node_is_not_destroyed(self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld) -> None:
        arbitration = Arbitration(fleet, shared)
        arbitration.hold(node, by="anna", seconds=60)
        with pytest.raises(RefusedError, match="cannot destroy it: it is held by anna"):
            Provisioning(fleet, shared).destroy(node, ignore)
        arbitration.release(node, by="anna")
        Provisioning(fleet, shared).destroy(node, ignore)
        assert SLOT not in shared.leases.read().leases

    def test_a_node_that_is_being_started_is_not_destroyed(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        SlotTaking(fleet, second(shared)).take(claim_of(fleet, node), print)
        with pytest.raises(RefusedError, match=r"it is being started \(process 2\)"):
            Provisioning(fleet, shared).destroy(node, ignore)
        shared.leases.shared.dead.add("2")
        Provisioning(fleet, shared).destroy(node, ignore)

    def test_a_node_that_is_being_started_is_brought_into_no_other_mode(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        Sleeping(fleet, shared).sleep(node, ignore)
        theirs = second(shared)
        assert SlotTaking(fleet, theirs).take(claim_of(fleet, node), print).verdict is Verdict.GRANT
        with pytest.raises(RefusedError, match="cannot switch the mode: it is being started"):
            ModeSwitching(fleet, shared).switch(node, node.mode, ignore)
        shared.leases.shared.dead.add(theirs.leases.owner)
        assert ModeSwitching(fleet, shared).switch(node, node.mode, ignore).did

    def test_a_held_node_gives_no_card_away(
        self, fleet: FleetSpec, node: NodeSpec, other: NodeSpec, shared: FakeWorld
    ) -> None:
        Arbitration(fleet, shared).hold(node, by="anna", seconds=7200)
        with pytest.raises(RefusedError, match="anna holds llm-gpu-01 for another 2 h"):
            Waking(fleet, shared).wake(other, ignore)
        assert shared.cluster.acts == []

    def test_a_hold_comes_in_time_until_the_power_goes(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        arbitration = Arbitration(fleet, shared)
        claim = claim_of(fleet, node)

        def held_meanwhile() -> None:
            with arbitration.shutting_down(shared.cluster, claim) as require_still_wanted:
                arbitration.hold(node, by="anna", seconds=60)
                require_still_wanted()

        with pytest.raises(OvertakenError):
            held_meanwhile()
        assert shared.leases.read().leases[SLOT].phase is LeasePhase.HELD

    def test_a_hold_comes_in_time_for_a_node_without_a_gpu_too(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        arbitration = Arbitration(fleet, shared)
        # A request runs that the drain waits for; meanwhile somebody says that the node is to stay.
        assert shared.in_flight.enter(node.name, shared.clock.now())
        shared.clock.at(5, lambda: arbitration.hold(node, by="anna", seconds=7200))
        shared.clock.at(10, lambda: shared.in_flight.leave(node.name, shared.clock.now()))
        with pytest.raises(RefusedError, match="held by anna"):
            Sleeping(fleet, shared).sleep(replace(node, gpus=()), ignore)
        assert shared.cluster.acts == []

    def test_a_shutdown_that_fails_leaves_the_card_where_it_is(
        self, fleet: FleetSpec, node: NodeSpec, shared: FakeWorld
    ) -> None:
        shared.cluster.fails["shut_down_vm"] = refusal("no")
        with pytest.raises(HypervisorError):
            Sleeping(fleet, shared).sleep(node, ignore)
        assert shared.leases.read().leases[SLOT].phase is LeasePhase.HELD
