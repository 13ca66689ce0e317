"""Idle passes and sleeps against fakes that keep state: signals, gate and drain, rest, awake hours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from threading import Event
from zoneinfo import ZoneInfo

import pytest

from provisioner.domain.awake import AwakeHours, AwakePlan
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.in_flight import InFlight
from provisioner.domain.names import HypervisorName, NodeName
from provisioner.errors import RefusedError
from provisioner.planning.idle import IdleDecision, IdleVerdict
from provisioner.ports.web import NO_HEADERS, Answer, Headers
from provisioner.services.events import ignore
from provisioner.services.idling import Idling, WakeGivenUp
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from provisioner.services.use_looks import UseLooks, _Inside
from provisioner.services.waking import Waking
from tests.fakes.guests import FakeShell
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")
BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = AwakePlan((AwakeHours(frozenset(range(5)), 480, 1080, "Mon-Fri 08:00-18:00"),), "Europe/Berlin", 300.0)


@pytest.fixture
def awake(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> FakeWorld:
    """A world in which the first node serves, and has for an hour."""
    Provisioning(fleet, world).up(node, ignore)
    world.clock.advance(3600)
    world.cluster.acts.clear()
    return world


def passes(idling: Idling, world: FakeWorld, node: NodeSpec, minutes: int) -> list[IdleVerdict]:
    found = []
    for _ in range(minutes):
        found.append(idling.idle([node], ignore)[0].verdict)
        world.clock.advance(60)
    return found


def request(world: FakeWorld, node: NodeSpec) -> None:
    """Have a request come through us, and end."""
    assert world.in_flight.enter(node.name, world.clock.now())
    world.clock.advance(2)
    world.in_flight.leave(node.name, world.clock.now())


class LeftJustBefore:
    """A lock of a guest's connection: whoever comes first to it finds that the guest has been left meanwhile."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._deeds = [leave]

    def __enter__(self) -> None:
        while self._deeds:
            self._deeds.pop()()

    def __exit__(self, *rest: object) -> None: ...


class TestConnections:
    """Those to guests stay open from look to look, and no longer."""

    def test_one_that_is_opened_while_another_is_being_left_is_closed_too(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[object] = []
        monkeypatch.setattr(FakeShell, "__exit__", lambda shell, *rest: closed.append(shell))
        looks, before = UseLooks(fleet, awake), awake.guests.logins
        lock = LeftJustBefore(lambda: looks.leave(node.name))
        looks._guests[node.name] = _Inside(lock)  # type: ignore[arg-type]
        assert looks.guest(node)
        looks.close()
        assert len(closed) == awake.guests.logins - before == 1


class TestLookingAgain:
    """What is decided on one look is done on another."""

    @pytest.mark.parametrize(
        ("section", "shown", "told"),
        [
            ("connections", "session 3\nName=alice\nTTY=pts/0", "alice is logged in (pts/0)"),
            ("locks", "apt-get", "apt-get changes its packages"),
            ("jobs", "llm-job-model.service loaded active running", "a download or installation runs"),
            ("downloads", "/var/lib/llm/huggingface/hub/blobs/0af3.incomplete", "0af3.incomplete grows"),
            ("smi-processes", "4711, 8000, GPU-1, /usr/bin/python3", "python3 (pid 4711), no engine of ours"),
        ],
    )
    def test_a_person_who_says_sleep_is_told_who_uses_the_guest(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld, section: str, shown: str, told: str
    ) -> None:
        awake.guests.shows[section] = shown
        with pytest.raises(RefusedError) as caught:
            Sleeping(fleet, awake).sleep(node, ignore)
        assert told in caught.value.summary
        assert "--force cuts it off" in caught.value.next_step
        assert awake.cluster.acts == []
        Sleeping(fleet, awake).sleep(node, ignore, force=True)
        assert awake.cluster.acts == ["shut down 5001"]

    def test_a_guest_that_lets_nobody_in_is_busy(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.guests.refuses_key = True
        with pytest.raises(RefusedError, match=r"its guest does not say whether it is busy \(Authentication failed"):
            Sleeping(fleet, awake).sleep(node, ignore)

    def test_a_connection_that_died_with_a_reboot_is_made_anew(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        idling = Idling(fleet, awake)
        idling.idle([node], ignore)
        awake.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
        awake.cluster.start_vm(PVE1, node.vmid)
        awake.clock.advance(60)
        assert idling.idle([node], ignore)[0].reason.startswith("up for only")

    def test_looking_neither_counts_as_use_nor_wakes(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        verdicts = passes(Idling(fleet, awake), awake, node, 24)
        assert verdicts == [IdleVerdict.STAY] * 20 + [IdleVerdict.SLEEP] + [IdleVerdict.ASLEEP] * 3
        assert awake.cluster.acts == ["shut down 5001"]


class TestUsedSinceTheLook:
    """A pass waits for all its looks, and one guest that hangs delays them all: what happens meanwhile counts."""

    def decided(self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> tuple[Idling, IdleDecision]:
        """Have a node been quiet for as long as it may since its last request, and judged."""
        idling = Idling(fleet, world)
        request(world, node)
        passes(idling, world, node, 20)
        (decision,) = idling.judge([node])
        return idling, decision

    def test_a_request_that_came_and_ended_keeps_the_node_on(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        idling, decision = self.decided(fleet, node, awake)
        assert decision.verdict is IdleVerdict.SLEEP
        request(awake, node)
        done = idling.carry_out(decision, ignore)
        assert done.verdict is IdleVerdict.STAY
        assert done.reason == "cannot put the node to sleep: quiet for 0 ms of 20 min"
        assert awake.cluster.acts == []

    def test_so_does_work_of_its_engine_that_did_not_come_through_us(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        idling, decision = self.decided(fleet, node, awake)
        awake.guests.tokens += 7
        assert idling.carry_out(decision, ignore).verdict is IdleVerdict.STAY
        assert awake.cluster.acts == []

    def test_so_does_a_start_of_its_vm(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        idling, decision = self.decided(fleet, node, awake)
        awake.cluster.stop_vm(PVE1, node.vmid)
        awake.cluster.start_vm(PVE1, node.vmid)
        awake.clock.advance(60)
        assert idling.carry_out(decision, ignore).reason.startswith("cannot put the node to sleep: up for only")

    def test_one_that_stayed_quiet_goes(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        idling, decision = self.decided(fleet, node, awake)
        awake.clock.advance(80)
        assert idling.carry_out(decision, ignore).verdict is IdleVerdict.SLEEP
        assert awake.cluster.acts == ["shut down 5001"]

    def test_a_person_does_not_wait_for_quiet_time(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        request(awake, node)
        assert Sleeping(fleet, awake).sleep(node, ignore).was_running


class TestGateAndDrain:
    """No request is cut off, and none is let in to a node that goes down."""

    def test_the_gate_is_closed_while_it_goes_down_and_open_afterwards(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        seen: list[bool] = []
        real = awake.cluster.shut_down_vm

        def watched(hypervisor: HypervisorName, vmid: int, *, seconds: float) -> tuple[str, ...]:
            seen.append(awake.in_flight.enter(node.name, awake.clock.now()))
            return real(hypervisor, node.vmid, seconds=seconds)

        awake.cluster.shut_down_vm = watched  # type: ignore[method-assign, assignment]
        Sleeping(fleet, awake).sleep(node, ignore)
        assert seen == [False]
        assert awake.in_flight.of(node.name).is_open

    def test_a_request_that_is_inside_is_waited_for(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.in_flight.enter(node.name, awake.clock.now())
        awake.clock.at(5.0, lambda: awake.in_flight.leave(node.name, awake.clock.now()))
        report = Sleeping(fleet, awake).sleep(node, ignore)
        assert report.was_running
        assert 5.0 <= report.seconds < 6.0

    def test_one_that_takes_too_long_keeps_the_node_and_opens_the_gate(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.in_flight.enter(node.name, awake.clock.now())
        with pytest.raises(RefusedError, match="1 requests through us running after 30 s"):
            Sleeping(fleet, awake).sleep(node, ignore)
        assert awake.in_flight.of(node.name).is_open
        assert awake.cluster.acts == []

    def test_one_that_came_while_the_gate_was_closed_keeps_the_node_on(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.in_flight.enter(node.name, awake.clock.now())

        def leave() -> None:
            assert not awake.in_flight.enter(node.name, awake.clock.now())
            assert awake.in_flight.start_waiting(node.name, awake.clock.now(), most=10)
            awake.in_flight.leave(node.name, awake.clock.now())

        awake.clock.at(1.0, leave)
        with pytest.raises(RefusedError, match="0 requests through us running, 1 waiting"):
            Sleeping(fleet, awake).sleep(node, ignore)
        assert awake.in_flight.of(node.name).is_open

    def test_the_counters_are_those_of_this_process(self, awake: FakeWorld) -> None:
        assert isinstance(awake.in_flight, InFlight)


class TestPower:
    """Cut by policy only."""

    def test_idle_cuts_no_power_unless_the_file_says_so(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.ignores_shutdown = True
        idling = Idling(fleet, awake)
        assert passes(idling, awake, node, 21)[-1] is IdleVerdict.FAILED
        assert awake.cluster.acts == []
        may_cut = replace(node, may_cut_power=True)
        assert idling.idle([may_cut], ignore)[0].verdict is IdleVerdict.SLEEP
        assert awake.cluster.acts == ["stop 5001"]

    @pytest.mark.parametrize(
        ("section", "shown", "told"),
        [
            ("connections", "session 3\nName=alice\nTTY=pts/0", "alice is logged in (pts/0)"),
            ("locks", "apt-get", "apt-get changes its packages"),
        ],
    )
    def test_nor_does_it_where_somebody_uses_the_guest_by_then(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld, section: str, shown: str, told: str
    ) -> None:
        awake.cluster.ignores_shutdown = True
        may_cut = replace(node, may_cut_power=True)
        awake.clock.at(30.0, lambda: awake.guests.shows.update({section: shown}))
        with pytest.raises(RefusedError, match="cannot cut its power: it did not shut down, and") as caught:
            Sleeping(fleet, awake).sleep(may_cut, ignore)
        assert told in caught.value.summary
        assert awake.cluster.acts == []

    def test_a_guest_that_says_nothing_any_more_does_not_keep_its_power(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.ignores_shutdown = True

        def half_down() -> None:
            awake.guests.engine_dead = awake.guests.refuses_key = True

        awake.clock.at(30.0, half_down)
        assert Sleeping(fleet, awake).sleep(replace(node, may_cut_power=True), ignore).was_running
        assert awake.cluster.acts == ["stop 5001"]


class TestAGpuThatDoesNotSurviveAStop:
    """Its node never goes past the second rung."""

    @pytest.fixture
    def fragile(self, fleet: FleetSpec) -> FleetSpec:
        hypervisor = fleet.hypervisors[PVE1]
        gpus = {name: replace(gpu, survives_stop=False) for name, gpu in hypervisor.gpus.items()}
        return replace(fleet, hypervisors={PVE1: replace(hypervisor, gpus=gpus)})

    def test_idle_leaves_it_on(self, fragile: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        idling = Idling(fragile, awake)
        assert set(passes(idling, awake, node, 40)) == {IdleVerdict.STAY}
        (decision,) = idling.idle([node], ignore)
        assert "GPU rtx3090 would not come back from a stop of its VM" in decision.reason
        assert awake.cluster.acts == []

    def test_a_persons_sleep_is_refused_with_the_way_out(
        self, fragile: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        with pytest.raises(RefusedError, match="would not come back") as caught:
            Sleeping(fragile, awake).sleep(node, ignore)
        assert "--force" in caught.value.next_step
        assert awake.cluster.acts == []
        Sleeping(fragile, awake).sleep(node, ignore, force=True)
        assert awake.cluster.acts == ["shut down 5001"]

    def test_finding_out_whether_it_survives_stops_it(
        self, fragile: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        Sleeping(fragile, awake).sleep(node, ignore, lose_gpu=True)
        assert awake.cluster.acts == ["shut down 5001"]

    def test_an_engine_that_can_lets_go_of_its_model_once(
        self, fragile: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        sleeper = SleepyEngine(awake)
        awake.web = sleeper  # type: ignore[assignment]
        awake.engines = {**awake.engines, fragile.mode_of(node).engine: sleepy(fragile, node, awake)}
        idling = Idling(fragile, awake)
        verdicts = passes(idling, awake, node, 40)
        assert verdicts.count(IdleVerdict.REST) == 1
        assert sleeper.told == ["/sleep?level=1&mode=wait"]
        assert "its model is out of memory" in idling.idle([node], ignore)[0].reason
        Waking(fragile, awake).wake(node, ignore)
        assert sleeper.told == ["/sleep?level=1&mode=wait", "/wake_up"]
        assert awake.cluster.acts == []


class SleepyEngine:
    """Answers as vLLM in development mode does about its sleep, and else as the fake guest."""

    def __init__(self, world: FakeWorld) -> None:
        self._guests = world.guests
        self.sleeps = False
        self.told: list[str] = []

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        if url.endswith("/is_sleeping"):
            return Answer(200, json.dumps({"is_sleeping": self.sleeps}))
        return self._guests.get(url, seconds=seconds, headers=headers)

    def post_json(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        return self._guests.post_json(url, body, seconds=seconds, headers=headers)

    def send(self, method: str, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        path = "/" + url.split("/", 3)[3]
        self.told.append(path)
        self.sleeps = path.startswith("/sleep")
        return Answer(200, "")


def sleepy(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> object:
    """llama.cpp with vLLM's words for sleep."""
    vllm = world.engines["vllm"]  # type: ignore[index]
    base = world.engines[fleet.mode_of(node).engine]

    class Sleepy(type(base)):  # type: ignore[misc]
        resting_path = vllm.resting_path
        sleep = staticmethod(vllm.sleep)
        wake = staticmethod(vllm.wake)
        is_resting = staticmethod(vllm.is_resting)

    return Sleepy()


class TestAwakeHours:
    """Mon-Fri 08:00-18:00 in Berlin, woken five minutes before."""

    def at(self, world: FakeWorld, text: str) -> None:
        world.clock.jump(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp() - world.clock.now())

    def asleep(self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> NodeSpec:
        Sleeping(fleet, world).sleep(node, ignore)
        world.cluster.acts.clear()
        return replace(node, awake=OFFICE)

    def test_it_is_woken_before_they_begin_and_sleeps_after_they_end(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        hours = self.asleep(fleet, node, awake)
        idling = Idling(fleet, awake)
        self.at(awake, "2026-11-23 07:50:00")
        assert passes(idling, awake, hours, 7) == [IdleVerdict.ASLEEP] * 5 + [IdleVerdict.WAKE, IdleVerdict.STAY]
        self.at(awake, "2026-11-23 17:30:00")
        verdicts = passes(idling, awake, hours, 40)
        assert verdicts.index(IdleVerdict.SLEEP) in (30, 31)
        assert awake.cluster.acts == ["start 5001", "shut down 5001"]

    def test_who_puts_it_to_sleep_within_them_is_obeyed(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        hours = self.asleep(fleet, node, awake)
        idling = Idling(fleet, awake)
        self.at(awake, "2026-11-23 07:56:00")
        idling.idle([hours], ignore)
        Sleeping(fleet, awake).sleep(hours, ignore)
        awake.clock.advance(60)
        (decision,) = idling.idle([hours], ignore)
        assert (decision.verdict, "somebody put it to sleep" in decision.reason) == (IdleVerdict.ASLEEP, True)
        self.at(awake, "2026-11-24 07:56:00")
        assert idling.idle([hours], ignore)[0].verdict is IdleVerdict.WAKE

    @pytest.mark.parametrize("lock", ["backup", "snapshot", "suspended"])
    def test_nor_does_a_lock_on_its_vm_make_anybody_forget_that(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld, lock: str
    ) -> None:
        hours = self.asleep(fleet, node, awake)
        idling = Idling(fleet, awake)
        self.at(awake, "2026-11-23 07:56:00")
        idling.idle([hours], ignore)
        Sleeping(fleet, awake).sleep(hours, ignore)
        awake.cluster.acts.clear()
        vm = awake.cluster.vms[hours.vmid]
        for held, minutes in ((lock, 2), (None, 20)):
            vm.seen = replace(vm.seen, lock=held)
            assert passes(idling, awake, hours, minutes) == [IdleVerdict.ASLEEP] * minutes
        assert awake.cluster.acts == []

    def test_a_wake_that_fails_is_tried_again_a_while_later(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        hours = self.asleep(fleet, node, awake)
        idling = Idling(fleet, awake)
        awake.cluster.files.clear()
        self.at(awake, "2026-11-23 08:10:00")
        verdicts = passes(idling, awake, hours, 18)
        assert [at for at, verdict in enumerate(verdicts) if verdict is IdleVerdict.FAILED] == [0, 15]

    def test_a_dry_run_says_so_and_wakes_nobody(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        hours = self.asleep(fleet, node, awake)
        self.at(awake, "2026-11-23 07:56:00")
        (decision,) = Idling(fleet, awake).idle([hours], ignore, dry_run=True)
        assert str(decision) == ("llm-gpu-01: wake — its hours Mon-Fri 08:00-18:00 (Europe/Berlin) begin in 4 min")
        assert awake.cluster.acts == []


def test_a_wake_is_measured_and_what_it_cost_is_worth_some_uptime(
    fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
) -> None:
    unsaid = replace(node, min_uptime_seconds=None, idle_after_seconds=1.0)
    Sleeping(fleet, awake).sleep(node, ignore)
    awake.clock.at(300, lambda: setattr(awake.guests, "engine_dead", False))
    awake.guests.engine_dead = True
    Waking(fleet, awake).wake(unsaid, ignore)
    (decision,) = Idling(fleet, awake).idle([unsaid], ignore)
    assert decision.reason == "up for only 5 min of at least 10 min: waking it takes 5 min"


class Beside:
    """Somebody else who wakes nodes, once a test lets it."""

    def __init__(self, fleet: FleetSpec, world: FakeWorld) -> None:
        self.begun, self.may_go_on, self.ended = Event(), Event(), Event()
        self.error: Exception | None = None
        self._wake = lambda node: Waking(fleet, world).wake(node, ignore)
        self._fleet = fleet

    def __call__(self, name: NodeName) -> None:
        self.begun.set()
        assert self.may_go_on.wait(10)
        try:
            if self.error is not None:
                raise self.error
            self._wake(self._fleet.nodes[name])
        finally:
            self.ended.set()


@pytest.fixture
def hours(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> NodeSpec:
    """A node that sleeps within its awake hours."""
    Sleeping(fleet, awake).sleep(node, ignore)
    awake.cluster.acts.clear()
    awake.clock.jump(datetime(2026, 11, 23, 9, 0, tzinfo=BERLIN).timestamp() - awake.clock.now())
    return replace(node, awake=OFFICE)


def test_a_pass_of_the_service_does_not_wait_for_a_wake_and_starts_no_second_one(
    fleet: FleetSpec, hours: NodeSpec, awake: FakeWorld
) -> None:
    beside = Beside(fleet, awake)
    idling = Idling(fleet, awake, wake_beside=beside)
    assert idling.idle([hours], ignore)[0].verdict is IdleVerdict.WAKE
    assert beside.begun.wait(10)
    (second,) = idling.idle([hours], ignore)
    assert (second.verdict, second.reason.endswith("it is being woken")) == (IdleVerdict.STAY, True)
    beside.may_go_on.set()
    assert beside.ended.wait(10)
    assert awake.cluster.acts == ["start 5001"]


@pytest.mark.parametrize(
    ("error", "then"),
    [
        (RefusedError("another has its GPU", subject="it", next_step="wait"), "failed, the next try is in 15 min"),
        # Whoever comes next knows nothing of this try, and makes its own.
        (WakeGivenUp(), "are now"),
    ],
)
def test_what_became_of_a_wake_by_another_is_remembered(
    fleet: FleetSpec, hours: NodeSpec, awake: FakeWorld, error: Exception, then: str
) -> None:
    beside = Beside(fleet, awake)
    beside.error = error
    beside.may_go_on.set()
    before = set(threading.enumerate())
    Idling(fleet, awake, wake_beside=beside).idle([hours], ignore)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert Idling(fleet, awake).idle([hours], ignore, dry_run=True)[0].reason.endswith(then)
    assert awake.cluster.acts == []
