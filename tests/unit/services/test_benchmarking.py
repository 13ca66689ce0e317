"""`bench` against a model that takes its time."""

from __future__ import annotations

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import HypervisorName
from provisioner.errors import EngineError, NotReadyError
from provisioner.services.benchmarking import Benchmarking
from provisioner.services.events import ignore
from provisioner.services.provisioning import Provisioning
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")


@pytest.fixture
def awake(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> FakeWorld:
    """A world in which the first node runs."""
    provisioning = Provisioning(fleet, world)
    provisioning.apply(provisioning.plan(node), ignore)
    world.cluster.acts.clear()
    return world


def test_first_token_and_rate_are_those_of_the_model(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    report = Benchmarking(fleet, awake).bench(node, (1,), 30.0, ignore)
    (level,) = report.levels
    assert level.first_token_p50 == pytest.approx(0.5)
    assert level.rate_p50 == pytest.approx(10.0)
    assert level.total_rate == pytest.approx(level.tokens / level.seconds)


def test_what_is_under_way_at_the_end_is_cut_off(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    report = Benchmarking(fleet, awake).bench(node, (1,), 20.0, ignore)
    assert awake.streams.hung_up == 1
    assert report.levels[0].seconds == pytest.approx(20.0, abs=0.11)


def test_a_node_too_slow_for_the_time_still_gives_a_figure(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    awake.streams.token_seconds = 5.0
    (level,) = Benchmarking(fleet, awake).bench(node, (1,), 1.0, ignore).levels
    assert level.replies == 1
    assert level.tokens == 8
    assert level.rate_p50 == pytest.approx(0.2)


def test_no_two_prompts_are_alike(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    Benchmarking(fleet, awake).bench(node, (1,), 30.0, ignore)
    prompts = [str(body["messages"]) for body in awake.streams.asked]
    assert len(set(prompts)) == len(prompts) > 2


def test_several_tokens_in_a_piece_are_counted(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    awake.streams.tokens_per_piece = 4
    (level,) = Benchmarking(fleet, awake).bench(node, (1,), 30.0, ignore).levels
    assert level.rate_p50 == pytest.approx(10.0, rel=0.05)
    assert level.total_rate == pytest.approx(10.0, rel=0.1)


def test_an_engine_that_does_not_count_is_counted_by_its_pieces(
    fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
) -> None:
    awake.streams.counts = False
    (level,) = Benchmarking(fleet, awake).bench(node, (1,), 30.0, ignore).levels
    assert level.rate_p50 == pytest.approx(10.0)


def test_figures_are_kept_and_shown_beside_the_next_ones(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    first = Benchmarking(fleet, awake).bench(node, (1,), 5.0, ignore)
    assert first.earlier == (None,)
    second = Benchmarking(fleet, awake).bench(node, (1,), 5.0, ignore)
    assert second.earlier[0] is not None
    assert dict(second.earlier[0].figures) == first.levels[0].as_dict()


def test_a_stream_that_breaks_off_is_an_error(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    awake.streams.breaks_after = 5
    with pytest.raises(EngineError, match="cannot stream a reply: the connection was closed") as caught:
        Benchmarking(fleet, awake).bench(node, (1,), 5.0, ignore)
    assert "provisioner logs llm-gpu-01" in caught.value.next_step
    assert awake.measurements.kept == []


def test_a_node_that_is_off_is_not_woken(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    awake.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
    awake.cluster.acts.clear()
    with pytest.raises(NotReadyError, match="the node is off"):
        Benchmarking(fleet, awake).bench(node, (1,), 5.0, ignore)
    assert awake.cluster.acts == []


def test_an_engine_that_does_not_answer_is_not_measured(fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
    awake.guests.engine_dead = True
    with pytest.raises(NotReadyError, match=r"llama\.cpp does not answer: connection refused"):
        Benchmarking(fleet, awake).bench(node, (1,), 5.0, ignore)
