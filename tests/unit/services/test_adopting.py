"""A VM that somebody else made: woken, slept and watched, never made, changed or deleted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import HypervisorName
from provisioner.domain.snapshot import Power
from provisioner.errors import RefusedError
from provisioner.planning.idle import IdleVerdict
from provisioner.services.events import ignore
from provisioner.services.fleet_view import FleetView, NodeState
from provisioner.services.idling import Idling
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from provisioner.services.waking import Waking
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")


@pytest.fixture
def adopted(node: NodeSpec) -> NodeSpec:
    return replace(node, adopt=True)


@pytest.fixture
def theirs(fleet: FleetSpec, node: NodeSpec, adopted: NodeSpec, world: FakeWorld) -> FakeWorld:
    """A world with somebody's VM that serves the model; nothing on it is ours."""
    provisioning = Provisioning(fleet, world)
    provisioning.apply(provisioning.plan(node), ignore)
    vm = world.cluster.vms[node.vmid]
    vm.seen = replace(vm.seen, name="my-llm", tags=frozenset({"family"}))
    vm.notes = "Ada's machine"
    world.cluster.acts.clear()
    return world


@pytest.fixture
def fleet(fleet: FleetSpec, node: NodeSpec) -> FleetSpec:
    return replace(fleet, nodes={**fleet.nodes, node.name: replace(node, adopt=True)})


def test_up_proves_it_and_changes_nothing(fleet: FleetSpec, adopted: NodeSpec, theirs: FakeWorld) -> None:
    provisioning = Provisioning(fleet, theirs)
    plan = provisioning.plan(adopted)
    assert "nothing is created, changed or configured" in str(plan)
    assert [step.name for step in plan.steps] == ["prove"]
    assert not plan.has_changes
    report = provisioning.apply(plan, ignore)
    assert report.reply == "hello"
    assert report.changed == ()
    assert "adopted" in report.remark
    assert theirs.cluster.acts == []
    assert theirs.cluster.vms[adopted.vmid].notes == "Ada's machine"


def test_up_starts_it_when_it_is_off(fleet: FleetSpec, adopted: NodeSpec, theirs: FakeWorld) -> None:
    theirs.cluster.shut_down_vm(PVE1, adopted.vmid, seconds=60)
    theirs.cluster.acts.clear()
    provisioning = Provisioning(fleet, theirs)
    assert provisioning.apply(provisioning.plan(adopted), ignore).changed == ("start",)
    assert theirs.cluster.acts == ["start 5001"]


def test_a_missing_vm_is_refused_not_made(fleet: FleetSpec, adopted: NodeSpec, world: FakeWorld) -> None:
    provisioning = Provisioning(fleet, world)
    with pytest.raises(RefusedError, match="there is no VM 5001 to adopt"):
        provisioning.apply(provisioning.plan(adopted), ignore)
    assert world.cluster.acts == []


def test_it_sleeps_wakes_goes_idle_and_is_watched(fleet: FleetSpec, adopted: NodeSpec, theirs: FakeWorld) -> None:
    sleeping, view = Sleeping(fleet, theirs), FleetView(fleet, theirs)
    assert view.status([adopted])[0].state is NodeState.SERVING
    assert sleeping.sleep(adopted, ignore).was_running
    assert view.status([adopted])[0].state is NodeState.ASLEEP
    assert Waking(fleet, theirs).wake(adopted, ignore).started
    idling = Idling(fleet, theirs)
    idling.idle([adopted], ignore)
    theirs.clock.advance(3600)
    assert idling.idle([adopted], ignore)[0].verdict is IdleVerdict.SLEEP
    assert theirs.cluster.acts == ["shut down 5001", "start 5001", "shut down 5001"]


def test_it_is_never_destroyed(fleet: FleetSpec, adopted: NodeSpec, theirs: FakeWorld) -> None:
    with pytest.raises(RefusedError, match="adopted") as caught:
        Provisioning(fleet, theirs).destroy(adopted, ignore)
    assert "take llm-gpu-01 out of the fleet file" in caught.value.next_step
    assert theirs.cluster.vms[adopted.vmid].seen.power is Power.RUNNING
    assert theirs.cluster.acts == []


def test_a_container_with_that_number_is_nobodys_node(fleet: FleetSpec, adopted: NodeSpec, theirs: FakeWorld) -> None:
    vm = theirs.cluster.vms[adopted.vmid]
    vm.seen = replace(vm.seen, is_container=True)
    with pytest.raises(RefusedError, match="it is a container"):
        Waking(fleet, theirs).wake(adopted, ignore)


def test_one_on_another_server_is_not_touched(fleet: FleetSpec, adopted: NodeSpec, theirs: FakeWorld) -> None:
    vm = theirs.cluster.vms[adopted.vmid]
    vm.seen = replace(vm.seen, hypervisor=HypervisorName("pve2"))
    for act in (Waking(fleet, theirs).wake, Sleeping(fleet, theirs).sleep):
        with pytest.raises(RefusedError, match="its VM is on pve2, not on pve1"):
            act(adopted, ignore)
    provisioning = Provisioning(fleet, theirs)
    with pytest.raises(RefusedError, match="its VM is on pve2, not on pve1"):
        provisioning.apply(provisioning.plan(adopted), ignore)
    assert theirs.cluster.acts == []
