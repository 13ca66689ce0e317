"""`wake`, `sleep`, `idle` and `status` against fakes that keep state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import HypervisorName
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import Power
from provisioner.errors import EngineError, HypervisorError, NotReadyError, ProvisionerError, RefusedError
from provisioner.planning.idle import IdleVerdict
from provisioner.services.arbitration import Arbitration
from provisioner.services.events import ignore
from provisioner.services.fleet_view import FleetView, NodeState
from provisioner.services.idling import Idling
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from provisioner.services.waking import Waking
from tests.fakes.guests import BOOT_SECONDS, LOAD_SECONDS
from tests.fakes.hypervisors import refusal
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")


@pytest.fixture
def asleep(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> FakeWorld:
    """A world in which the first node was provisioned and then shut down."""
    provisioning = Provisioning(fleet, world)
    provisioning.apply(provisioning.plan(node), ignore)
    Sleeping(fleet, world).sleep(node, ignore)
    world.cluster.acts.clear()
    return world


@pytest.fixture
def awake(asleep: FakeWorld, fleet: FleetSpec, node: NodeSpec) -> FakeWorld:
    """The same, awake."""
    Waking(fleet, asleep).wake(node, ignore)
    asleep.cluster.acts.clear()
    return asleep


class TestWake:
    """Ready and answering when it returns."""

    def test_a_sleeping_node_answers_right_after_its_engine_is_ready(
        self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld
    ) -> None:
        report = Waking(fleet, asleep).wake(node, ignore)
        assert report.started
        assert report.seconds - (BOOT_SECONDS + LOAD_SECONDS) <= 0.051
        assert asleep.cluster.acts == ["start 5001"]

    def test_why_a_node_was_started_or_not_is_told(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        told: list[str] = []
        report = Waking(fleet, asleep).wake(node, lambda event: told.append(f"{event.step}: {event.detail}"))
        assert report.as_dict()["reason"] == "the VM is off"
        assert "start: the VM is off; Proxmox has accepted the start" in told
        told.clear()
        report = Waking(fleet, asleep).wake(node, lambda event: told.append(f"{event.step}: {event.detail}"))
        assert report.as_dict()["reason"] == "the VM runs already"
        assert "answer: the VM runs already; http://10.10.90.1:8080/v1" in told

    def test_much_memory_for_a_gpu_is_waited_for(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        large = replace(node, memory_bytes=512 * GIB)
        asleep.cluster.starts_hang = True
        with pytest.raises(HypervisorError, match="still runs after 3853 s"):
            Waking(fleet, asleep).wake(large, ignore)
        boot_and_engine = node.patience.boot_seconds + node.patience.engine_seconds
        assert asleep.clock.monotonic() >= boot_and_engine + 2053

    def test_boot_and_engine_get_their_time_from_the_end_of_the_start(
        self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld
    ) -> None:
        asleep.guests.never_boots = True
        boot_and_engine = node.patience.boot_seconds + node.patience.engine_seconds
        with pytest.raises(EngineError, match=f"within {boot_and_engine:g} s"):
            Waking(fleet, asleep).wake(replace(node, memory_bytes=512 * GIB), ignore)
        assert asleep.clock.monotonic() < boot_and_engine + 60

    def test_a_wake_costs_few_api_calls(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        assert Waking(fleet, asleep).wake(node, ignore).calls <= 4

    def test_a_node_that_is_awake_is_only_asked(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        report = Waking(fleet, awake).wake(node, ignore)
        assert not report.started
        assert awake.cluster.acts == []

    def test_a_start_that_fails_says_why_at_once(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        asleep.cluster.files.clear()
        before = asleep.clock.monotonic()
        with pytest.raises(HypervisorError, match="does not exist"):
            Waking(fleet, asleep).wake(node, ignore)
        assert asleep.clock.monotonic() - before < 1

    def test_a_vm_that_goes_off_again_ends_the_wait(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        asleep.guests.engine_dead = True
        asleep.clock.at(10, lambda: asleep.cluster.stop_vm(PVE1, node.vmid))
        with pytest.raises(NotReadyError, match="went off"):
            Waking(fleet, asleep).wake(node, ignore)

    def test_a_node_on_its_way_down_is_started_again(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.guests.engine_dead = True

        def gone() -> None:
            awake.guests.engine_dead = False
            awake.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)

        awake.clock.at(1.0, gone)
        assert Waking(fleet, awake).wake(node, ignore).started
        assert awake.cluster.acts == ["shut down 5001", "start 5001"]

    def test_a_node_on_its_way_down_that_still_answers_is_started_again(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.being_shut_down.add(node.vmid)

        def gone() -> None:
            awake.cluster.being_shut_down.clear()
            awake.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)

        awake.clock.at(8.0, gone)
        told: list[str] = []
        assert Waking(fleet, awake).wake(node, lambda event: told.append(event.detail)).started
        assert awake.cluster.acts == ["shut down 5001", "start 5001"]
        assert "its VM is being shut down, and is started again once it is off" in told

    def test_one_that_does_not_obey_its_shutdown_is_taken_as_it_is(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.being_shut_down.add(node.vmid)
        awake.clock.at(8.0, awake.cluster.being_shut_down.clear)
        assert not Waking(fleet, awake).wake(node, ignore).started
        assert awake.cluster.acts == []

    def test_a_shutdown_without_end_is_named(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.cluster.being_shut_down.add(node.vmid)
        with pytest.raises(NotReadyError, match="has been shutting down for"):
            Waking(fleet, awake).wake(node, ignore)

    def test_an_engine_that_never_answers_is_named(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        asleep.guests.engine_dead = True
        with pytest.raises(EngineError, match="connection refused") as caught:
            Waking(fleet, asleep).wake(node, ignore)
        assert "journalctl -u llm-small" in caught.value.next_step

    def test_a_node_that_was_never_made_is_refused(self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> None:
        with pytest.raises(RefusedError) as caught:
            Waking(fleet, world).wake(node, ignore)
        assert caught.value.next_step == "provisioner up llm-gpu-01"

    @pytest.mark.parametrize(("change", "words"), [({"tags": frozenset()}, "not ours"), ({"lock": "backup"}, "locked")])
    def test_what_must_not_be_touched_is_not_started(
        self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld, change: dict[str, object], words: str
    ) -> None:
        vm = asleep.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, **change)  # type: ignore[arg-type]
        with pytest.raises(RefusedError, match=words):
            Waking(fleet, asleep).wake(node, ignore)
        assert asleep.cluster.acts == []


class TestSleep:
    """Clean, and never under a request."""

    def test_a_quiet_node_is_shut_down(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        assert Sleeping(fleet, awake).sleep(node, ignore).was_running
        assert awake.cluster.acts == ["shut down 5001"]

    def test_a_sleeping_node_is_left_alone(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        assert not Sleeping(fleet, asleep).sleep(node, ignore).was_running
        assert asleep.cluster.acts == []

    def test_a_busy_node_is_refused_with_the_numbers(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.guests.running = 2
        with pytest.raises(RefusedError, match="2 requests running"):
            Sleeping(fleet, awake).sleep(node, ignore)
        assert awake.cluster.acts == []

    def test_unknown_counts_as_busy(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.guests.engine_dead = True
        with pytest.raises(RefusedError, match="does not say whether it is busy"):
            Sleeping(fleet, awake).sleep(node, ignore)

    def test_force_shuts_down_a_busy_node(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.guests.running = 2
        Sleeping(fleet, awake).sleep(node, ignore, force=True)
        assert awake.cluster.acts == ["shut down 5001"]

    def test_only_force_cuts_the_power_of_a_guest_that_hangs(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.ignores_shutdown = True
        with pytest.raises(HypervisorError) as caught:
            Sleeping(fleet, awake).sleep(node, ignore)
        assert "--force" in caught.value.next_step
        assert awake.cluster.acts == []
        Sleeping(fleet, awake).sleep(node, ignore, force=True)
        assert awake.cluster.acts == ["stop 5001"]

    @pytest.mark.parametrize("is_shared", [True, False])
    def test_a_hold_that_comes_while_a_guest_hangs_keeps_its_power_on(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld, is_shared: bool
    ) -> None:
        node = replace(node, may_cut_power=True, gpus=node.gpus if is_shared else ())
        awake.cluster.ignores_shutdown = True
        awake.clock.at(60, lambda: Arbitration(fleet, awake).hold(node, by="anna", seconds=7200))
        with pytest.raises(ProvisionerError):
            Sleeping(fleet, awake).sleep(node, ignore)
        assert awake.cluster.acts == []

    def test_a_guest_that_hangs_and_is_no_longer_ours_keeps_its_power(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.ignores_shutdown = True
        vm = awake.cluster.vms[node.vmid]
        awake.clock.at(60, lambda: setattr(vm, "seen", replace(vm.seen, tags=frozenset())))
        with pytest.raises(RefusedError, match="not ours"):
            Sleeping(fleet, awake).sleep(node, ignore, force=True)
        assert awake.cluster.acts == []

    def test_a_lost_connection_never_cuts_the_power(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.cluster.fails["shut_down_vm"] = refusal("cannot reach Proxmox")
        with pytest.raises(HypervisorError, match="cannot reach Proxmox"):
            Sleeping(fleet, awake).sleep(node, ignore, force=True)
        assert awake.cluster.acts == []

    def test_a_foreign_vm_is_never_shut_down(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        vm = awake.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, tags=frozenset())
        with pytest.raises(RefusedError, match="not ours"):
            Sleeping(fleet, awake).sleep(node, ignore, force=True)
        assert awake.cluster.acts == []


class TestIdlePass:
    """Passes minutes apart, as a timer makes them."""

    def test_a_node_goes_off_once_it_was_quiet_long_enough(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        idling = Idling(fleet, awake)
        verdicts = []
        for _ in range(6):
            verdicts.append(idling.idle([node], ignore)[0].verdict)
            awake.clock.advance(300)
        assert verdicts == [IdleVerdict.STAY] * 4 + [IdleVerdict.SLEEP, IdleVerdict.ASLEEP]

    def test_use_between_two_passes_keeps_it_awake(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        idling = Idling(fleet, awake)
        for _ in range(12):
            awake.guests.tokens += 1
            assert idling.idle([node], ignore)[0].verdict is IdleVerdict.STAY
            awake.clock.advance(900)

    def test_a_wake_begins_a_new_quiet_time(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        idling = Idling(fleet, awake)
        idling.idle([node], ignore)
        awake.clock.advance(1190)
        Sleeping(fleet, awake).sleep(node, ignore)
        Waking(fleet, awake).wake(node, ignore)
        awake.clock.advance(30)
        assert idling.idle([node], ignore)[0].verdict is IdleVerdict.STAY

    def test_a_dry_run_stops_nothing(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        idling = Idling(fleet, awake)
        idling.idle([node], ignore)
        awake.clock.advance(3600)
        assert idling.idle([node], ignore, dry_run=True)[0].verdict is IdleVerdict.SLEEP
        assert awake.cluster.acts == []

    def test_a_node_under_provisioning_is_not_stopped(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        idling = Idling(fleet, awake)
        idling.idle([node], ignore)
        awake.clock.advance(3600)
        with awake.locks.held(node.name):
            (decision,) = idling.idle([node], ignore)
        assert decision.verdict is IdleVerdict.STAY
        assert awake.cluster.acts == []

    def test_it_takes_one_api_call_however_many_nodes_are_off(self, fleet: FleetSpec, asleep: FakeWorld) -> None:
        before = asleep.cluster.calls
        decisions = Idling(fleet, asleep).idle(list(fleet.nodes.values()), ignore)
        assert [decision.verdict for decision in decisions] == [IdleVerdict.ASLEEP, IdleVerdict.ASLEEP]
        assert asleep.cluster.calls - before == 1

    def test_a_running_node_that_stays_takes_no_call_of_its_own_and_one_login(
        self, fleet: FleetSpec, awake: FakeWorld
    ) -> None:
        idling = Idling(fleet, awake)
        assert idling.idle(list(fleet.nodes.values()), ignore)[0].verdict is IdleVerdict.STAY
        before, awake.guests.looks = awake.cluster.calls, 0
        logins = awake.guests.logins
        for _ in range(3):
            awake.clock.advance(60)
            assert idling.idle(list(fleet.nodes.values()), ignore)[0].verdict is IdleVerdict.STAY
        assert awake.cluster.calls - before == 3
        assert (awake.guests.looks, awake.guests.logins) == (3, logins)

    def test_a_cluster_that_does_not_answer_fails_its_nodes_alone(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.fails["snapshot"] = refusal("cannot reach Proxmox")
        decisions = Idling(fleet, awake).idle(list(fleet.nodes.values()), ignore)
        assert {decision.verdict for decision in decisions} == {IdleVerdict.FAILED}
        assert "cannot reach Proxmox" in decisions[0].reason

    def test_nobody_elses_guest_is_asked_how_busy_it_is(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        vm = awake.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, tags=frozenset())
        awake.guests.asked.clear()
        assert Idling(fleet, awake).idle([node], ignore)[0].verdict is IdleVerdict.UNTOUCHED
        assert awake.guests.asked == []

    def test_a_node_that_hangs_at_shutdown_does_not_end_the_pass(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        idling = Idling(fleet, awake)
        idling.idle([node], ignore)
        awake.clock.advance(3600)
        awake.cluster.ignores_shutdown = True
        decisions = idling.idle(list(fleet.nodes.values()), ignore)
        assert decisions[0].verdict is IdleVerdict.FAILED
        assert "got timeout" in decisions[0].reason
        assert "--force" in decisions[0].reason
        assert decisions[1].verdict is IdleVerdict.ASLEEP


class TestStatus:
    """One look, one word per node, with the reason."""

    def states(self, fleet: FleetSpec, world: FakeWorld) -> list[NodeState]:
        return [status.state for status in FleetView(fleet, world).status(list(fleet.nodes.values()))]

    def test_asleep_and_absent(self, fleet: FleetSpec, asleep: FakeWorld) -> None:
        assert self.states(fleet, asleep) == [NodeState.ASLEEP, NodeState.ABSENT]

    def test_serving(self, fleet: FleetSpec, awake: FakeWorld) -> None:
        assert self.states(fleet, awake) == [NodeState.SERVING, NodeState.ABSENT]

    def test_starting(self, fleet: FleetSpec, awake: FakeWorld) -> None:
        awake.guests.engine_dead = True
        assert self.states(fleet, awake)[0] is NodeState.STARTING

    def test_a_foreign_vm(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        vm = asleep.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, tags=frozenset())
        assert self.states(fleet, asleep)[0] is NodeState.FOREIGN

    def test_unknown_is_never_dressed_up_as_off(self, fleet: FleetSpec, node: NodeSpec, asleep: FakeWorld) -> None:
        vm = asleep.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, power=Power.UNKNOWN)
        assert self.states(fleet, asleep)[0] is NodeState.UNKNOWN

    def test_a_cluster_that_does_not_answer_makes_its_nodes_unknown(self, fleet: FleetSpec, asleep: FakeWorld) -> None:
        asleep.cluster.fails["snapshot"] = refusal("cannot reach Proxmox")
        assert self.states(fleet, asleep) == [NodeState.UNKNOWN, NodeState.UNKNOWN]

    def test_it_takes_one_api_call_however_many_nodes(self, fleet: FleetSpec, asleep: FakeWorld) -> None:
        before = asleep.cluster.calls
        self.states(fleet, asleep)
        assert asleep.cluster.calls - before == 1
