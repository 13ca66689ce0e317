"""`top` against fakes that keep state."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import HypervisorName
from provisioner.services.events import ignore
from provisioner.services.provisioning import Provisioning
from provisioner.services.watching import Watching
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")
GIB = 1 << 30


@pytest.fixture
def awake(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> FakeWorld:
    """A world in which the first node runs."""
    provisioning = Provisioning(fleet, world)
    provisioning.apply(provisioning.plan(node), ignore)
    world.cluster.acts.clear()
    world.guests.logins = world.guests.looks = 0
    return world


def test_a_look_shows_card_engine_and_guest(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    ((sample,),) = Watching(fleet, awake).watch([node], 2.0, 1)
    assert (sample.node, sample.state, sample.reason) == ("llm-gpu-01", "serving", "")
    assert sample.running == 0
    assert sample.tokens_per_second is None
    assert sample.numbers.load == 0.1
    assert sample.numbers.memory_used_bytes == GIB // 4
    (gpu,) = sample.gpus
    assert (gpu.name, gpu.memory_bytes, gpu.power_watts) == ("NVIDIA GeForce RTX 3090", 24 * GIB, 26.5)


def test_one_login_serves_every_look_and_each_is_one_round_trip(
    fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
) -> None:
    assert len(list(Watching(fleet, awake).watch([node], 2.0, 5))) == 5
    assert awake.guests.logins == 1
    assert awake.guests.looks == 5


def test_looks_are_an_interval_apart(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    times = [sample.at for (sample,) in Watching(fleet, awake).watch([node], 2.0, 4)]
    assert [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)] == [2.0, 2.0, 2.0]


def test_tokens_are_counted_from_look_to_look(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    samples = Watching(fleet, awake).watch([node], 2.0, 4)
    assert next(samples)[0].tokens_per_second is None
    awake.guests.tokens += 100
    assert next(samples)[0].tokens_per_second == pytest.approx(50.0)
    assert next(samples)[0].tokens_per_second == pytest.approx(0.0)
    awake.guests.tokens = 3  # its engine was started anew
    assert next(samples)[0].tokens_per_second is None


def test_a_node_that_is_off_is_shown_so_and_not_woken(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    awake.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
    awake.cluster.acts.clear()
    asked = len(awake.guests.asked)
    for (sample,) in Watching(fleet, awake).watch([node], 2.0, 3):
        assert (sample.state, sample.gpus) == ("off", ())
    assert awake.cluster.acts == []
    assert len(awake.guests.asked) == asked
    assert awake.guests.logins == 0


def test_a_node_that_goes_off_meanwhile_and_comes_back_is_followed(
    fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
) -> None:
    states = []
    for number, (sample,) in enumerate(Watching(fleet, awake).watch([node], 10.0, 8)):
        states.append(sample.state)
        if number == 1:
            awake.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
        if number == 3:
            awake.cluster.start_vm(PVE1, node.vmid)
    assert states[:2] == ["serving", "serving"]
    assert "off" in states
    assert states[-1] == "serving"
    assert awake.guests.logins == 2


def test_a_node_that_lets_nobody_in_still_shows_its_engine(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    awake.guests.refuses_key = True
    ((sample,),) = Watching(fleet, awake).watch([node], 2.0, 1)
    assert (sample.state, sample.running, sample.gpus) == ("serving", 0, ())
    assert "Authentication failed" in sample.reason


def test_an_adopted_node_shows_its_engine(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    ((sample,),) = Watching(fleet, awake).watch([replace(node, adopt=True)], 2.0, 1)
    assert (sample.state, sample.running) == ("serving", 0)
    assert "adopted" in sample.reason


def test_an_engine_that_does_not_answer_is_silent(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    awake.guests.engine_dead = True
    ((sample,),) = Watching(fleet, awake).watch([node], 2.0, 1)
    assert (sample.state, sample.reason) == ("silent", "connection refused")
    assert len(sample.gpus) == 1


def test_a_node_without_a_card_shows_the_rest(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    ((sample,),) = Watching(fleet, awake).watch([replace(node, gpus=())], 2.0, 1)
    assert (sample.state, sample.gpus, sample.numbers.load) == ("serving", (), 0.1)
    (row,) = sample.rows()
    assert row[-1] == ""
