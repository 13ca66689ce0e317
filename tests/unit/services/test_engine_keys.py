"""Engines that ask for a key: who sends it, who names it, and where it never stands; against fakes that keep state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec, SecretReference, SecretSource
from provisioner.domain.names import HypervisorName, NodeName
from provisioner.engines.registry import ENGINES
from provisioner.errors import EngineKeyError, InputError
from provisioner.planning.idle import IdleVerdict
from provisioner.services.benchmarking import Benchmarking
from provisioner.services.engine_web import EngineKey, EngineWeb
from provisioner.services.events import ignore
from provisioner.services.fleet_view import FleetView, NodeState
from provisioner.services.idling import Idling
from provisioner.services.node_testing import NodeTesting
from provisioner.services.provisioning import Provisioning, UpReport
from provisioner.services.waking import Waking
from provisioner.services.watching import Watching
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

PVE1 = HypervisorName("pve1")
SECRET = "sk-very-secret"


@pytest.fixture
def fleet(tmp_path: Path) -> FleetSpec:
    """A fleet whose nodes all ask for one key."""
    return fleet_from(tmp_path, FLEET.replace("  idle_after: 20m\n", "  idle_after: 20m\n  api_key: env:LLM_KEY\n"))


@pytest.fixture
def node(fleet: FleetSpec) -> NodeSpec:
    return fleet.nodes[NodeName("llm-gpu-01")]


@pytest.fixture
def world() -> FakeWorld:
    world = FakeWorld()
    world.secrets["env:LLM_KEY"] = SECRET
    return world


@pytest.fixture
def up(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> UpReport:
    """Its first node, brought up."""
    return Provisioning(fleet, world).up(node, ignore)


class TestTheRightKey:
    """Everything that we ask goes through."""

    def test_up_proves_and_says_that_clients_need_a_key_but_not_which(self, up: UpReport) -> None:
        assert up.endpoint.needs_key
        assert up.endpoint.as_dict()["needs_key"] is True
        assert str(up.endpoint).endswith("/v1 (with its API key)")
        assert SECRET not in repr(up) + json.dumps(up.as_dict())

    def test_it_is_laid_down_as_a_secret(self, up: UpReport, node: NodeSpec, world: FakeWorld) -> None:
        (launch,) = world.guests.disks[node.vmid].applied[-1]["engine_launches"]
        assert launch["secrets"] == {"LLAMA_API_KEY": SECRET}
        assert SECRET not in json.dumps({key: value for key, value in launch.items() if key != "secrets"})

    def test_it_is_sent_where_the_engine_asks_for_it_and_nowhere_else(self, up: UpReport, world: FakeWorld) -> None:
        sent = {url.split("/", 3)[3]: key for url, key in world.guests.sent}
        assert sent["v1/models"] == f"Bearer {SECRET}"
        assert sent["health"] == ""

    def test_wake_test_bench_top_and_idle_are_let_in(
        self, fleet: FleetSpec, node: NodeSpec, up: UpReport, world: FakeWorld
    ) -> None:
        world.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
        assert Waking(fleet, world).wake(node, ignore).endpoint.needs_key
        report = NodeTesting(fleet, world).test(replace(node, gpus=()), ignore)
        assert [
            check.found for check in report.checks if check.id == "engine_answers" and check.status.value != "ok"
        ] == []
        assert Benchmarking(fleet, world).bench(node, [1], 1.0, ignore).levels[0].replies > 0
        ((sample,),) = Watching(fleet, world).watch([node], 2.0, 1)
        assert (sample.state, sample.running) == ("serving", 0)
        (decision,) = Idling(fleet, world).idle([node], ignore, dry_run=True)
        assert "key" not in decision.reason

    def test_a_node_without_a_key_asks_for_none(self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> None:
        report = Provisioning(fleet, world).up(replace(node, api_key=None), ignore)
        assert not report.endpoint.needs_key
        assert {key for _, key in world.guests.sent} == {""}


class TestAnotherKey:
    """What is said when the engine was started with another one."""

    @pytest.fixture
    def rotated(self, up: UpReport, world: FakeWorld) -> FakeWorld:
        world.secrets["env:LLM_KEY"] = "sk-another"
        return world

    def test_wake_names_it_and_says_what_lays_a_new_one_down(
        self, fleet: FleetSpec, node: NodeSpec, rotated: FakeWorld
    ) -> None:
        with pytest.raises(EngineKeyError, match="its API key is not the one in env:LLM_KEY") as caught:
            Waking(fleet, rotated).wake(node, ignore)
        assert caught.value.as_dict()["diagnosis"] == "engine_key_refused"
        assert "provisioner up llm-gpu-01" in caught.value.next_step
        assert "sk-" not in str(caught.value) + repr(caught.value) + json.dumps(caught.value.as_dict())

    def test_up_lays_the_new_one_down(self, fleet: FleetSpec, node: NodeSpec, rotated: FakeWorld) -> None:
        assert "configure" in Provisioning(fleet, rotated).up(node, ignore).changed
        Waking(fleet, rotated).wake(node, ignore)

    def test_bench_and_top_name_it(self, fleet: FleetSpec, node: NodeSpec, rotated: FakeWorld) -> None:
        with pytest.raises(EngineKeyError):
            Benchmarking(fleet, rotated).bench(node, [1], 1.0, ignore)
        ((sample,),) = Watching(fleet, rotated).watch([node], 2.0, 1)
        assert (sample.state, "API key" in sample.reason) == ("silent", True)

    def test_test_fails_with_what_helps(self, fleet: FleetSpec, node: NodeSpec, rotated: FakeWorld) -> None:
        (check,) = [
            each for each in NodeTesting(fleet, rotated).test(node, ignore).checks if each.id == "engine_answers"
        ]
        assert "its API key is not the one in env:LLM_KEY" in check.found
        assert "provisioner up llm-gpu-01" in check.next_step

    def test_idle_leaves_on_whom_it_cannot_ask(self, fleet: FleetSpec, node: NodeSpec, rotated: FakeWorld) -> None:
        (decision,) = Idling(fleet, rotated).idle([node], ignore)
        assert (decision.verdict, "API key" in decision.reason) == (IdleVerdict.STAY, True)

    def test_a_key_that_the_fleet_file_does_not_name_is_told_apart(
        self, fleet: FleetSpec, node: NodeSpec, up: UpReport, world: FakeWorld
    ) -> None:
        with pytest.raises(EngineKeyError, match="the fleet file names no API key") as caught:
            Waking(fleet, world).wake(replace(node, api_key=None), ignore)
        assert "write api_key: env:NAME or file:PATH for node llm-gpu-01" in caught.value.next_step


class TestAKeyThatCannotBeRead:
    """It is missed before anything is begun."""

    @pytest.fixture
    def unread(self, world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> FakeWorld:
        def secret(reference: SecretReference, *, subject: str) -> str:
            raise InputError(f"cannot read the secret {reference}", subject=subject, next_step="export it")

        monkeypatch.setattr(world, "secret", secret)
        return world

    def test_up_makes_nothing(self, fleet: FleetSpec, node: NodeSpec, unread: FakeWorld) -> None:
        with pytest.raises(InputError, match="env:LLM_KEY"):
            Provisioning(fleet, unread).up(node, ignore)
        assert unread.cluster.acts == []

    def test_plan_needs_none(self, fleet: FleetSpec, node: NodeSpec, unread: FakeWorld) -> None:
        assert Provisioning(fleet, unread).plan(node).steps

    def test_wake_starts_nothing_and_status_shows_the_node(
        self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld, up: UpReport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        del world.secrets["env:LLM_KEY"]
        (status,) = FleetView(fleet, world).status([node])
        assert (status.state, status.needs_key) == (NodeState.SERVING, True)
        world.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
        world.cluster.acts.clear()
        with pytest.raises(KeyError, match="LLM_KEY"):
            Waking(fleet, world).wake(node, ignore)
        assert world.cluster.acts == []

    @pytest.mark.parametrize("sign", [",", ";"])
    def test_one_that_engines_would_take_for_two_is_refused(self, node: NodeSpec, sign: str) -> None:
        key = EngineKey(node, ENGINES["llama.cpp"], lambda reference: f"qqq{sign}zzz")
        with pytest.raises(InputError, match="comma or a semicolon") as caught:
            key.require()
        assert "qqq" not in str(caught.value)


def test_an_engine_that_asks_for_no_key_of_its_own_is_told_so(node: NodeSpec) -> None:
    reference = SecretReference(SecretSource.ENV, "LLM_KEY")
    key = EngineKey(replace(node, api_key=reference), ENGINES["ollama"], lambda each: SECRET)
    assert not key.is_needed
    assert key.headers("/v1/models") == {}
    with pytest.raises(EngineKeyError, match="something in front of it does"):
        key.refused(401, "/api/ps")
    assert SECRET not in repr(key) + repr(vars(EngineWeb(FakeWorld().web, key)))
