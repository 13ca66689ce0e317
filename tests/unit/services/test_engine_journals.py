"""Reading engines' journals, and what they show of an engine that does not answer, against fakes that keep state."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import HypervisorName
from provisioner.errors import EngineError, NotReadyError, RefusedError
from provisioner.planning.launches import unit_of
from provisioner.services.engine_evidence import require_on_gpu
from provisioner.services.engine_journals import EngineJournals
from provisioner.services.events import ignore
from provisioner.services.provisioning import Provisioning
from provisioner.services.waking import Waking
from tests.fakes.guests import FakeShell
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")


def entry(number: int, text: str) -> str:
    fields = {"__CURSOR": f"s={number}", "__REALTIME_TIMESTAMP": str(number * 1_000_000), "MESSAGE": text}
    return json.dumps(fields)


@pytest.fixture
def awake(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> FakeWorld:
    """A world in which the first node runs."""
    provisioning = Provisioning(fleet, world)
    provisioning.apply(provisioning.plan(node), ignore)
    return world


class TestLogs:
    """`logs`."""

    def test_the_last_lines_come_oldest_first(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.guests.journal = [entry(1, "loading"), entry(2, "listening")]
        assert [line.text for line in EngineJournals(fleet, awake).lines(node)] == ["loading", "listening"]
        assert awake.guests.followed == []

    def test_following_goes_on_after_the_last_line_that_was_there(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.guests.journal = [entry(7, "listening")]
        awake.guests.news = [entry(8, "slot 0 is busy"), "noise", entry(9, "slot 0 is idle")]
        texts = [line.text for line in EngineJournals(fleet, awake).lines(node, follow=True)]
        assert texts == ["listening", "slot 0 is busy", "slot 0 is idle"]
        (command,) = awake.guests.followed
        assert command[-2:] == ("--after-cursor=s=7", "--lines=all")

    def test_following_what_said_nothing_yet_begins_with_what_comes(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.guests.journal = []
        awake.guests.news = [entry(1, "loading")]
        assert [line.text for line in EngineJournals(fleet, awake).lines(node, count=0, follow=True)] == ["loading"]
        (command,) = awake.guests.followed
        assert command[-1] == "--lines=0"

    def test_a_node_that_is_off_is_not_woken_for_its_log(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
        awake.cluster.acts.clear()
        with pytest.raises(NotReadyError, match="the node is off") as caught:
            list(EngineJournals(fleet, awake).lines(node))
        assert caught.value.next_step == "provisioner wake llm-gpu-01"
        assert awake.cluster.acts == []

    def test_a_node_without_a_vm_is_told_apart(self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> None:
        with pytest.raises(NotReadyError, match="no VM yet"):
            list(EngineJournals(fleet, world).lines(node))

    def test_an_adopted_node_lets_nobody_in(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        with pytest.raises(RefusedError, match="adopted"):
            list(EngineJournals(fleet, awake).lines(replace(node, adopt=True)))


class TestSilence:
    """What is added to the error of an engine that does not answer."""

    def wake(self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> EngineError:
        world.guests.engine_dead = True
        with pytest.raises(EngineError) as caught:
            Waking(fleet, world).wake(node, ignore)
        return caught.value

    def test_the_cause_that_the_journal_shows_is_named(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.guests.journal = ["cudaMalloc failed: out of memory", "llama_model_load: error loading model"]
        error = self.wake(fleet, node, awake)
        assert error.diagnosis == "gpu_out_of_memory"
        assert error.as_dict()["diagnosis"] == "gpu_out_of_memory"
        assert "GPU memory ran out while the model was loaded" in error.summary
        assert "cudaMalloc failed: out of memory" in error.summary
        assert "provisioner fit gemma-2-2b-it.gguf" in error.next_step

    def test_a_journal_that_shows_none_is_quoted(self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld) -> None:
        awake.guests.journal = [f"line {number}" for number in range(100)]
        error = self.wake(fleet, node, awake)
        assert error.diagnosis is None
        assert "diagnosis" not in error.as_dict()
        assert "its log ends:\n  line 92\n" in error.summary
        assert "line 91" not in error.summary

    def test_a_journal_that_cannot_be_read_is_said_to_be_so(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.guests.refuses_key = True
        error = self.wake(fleet, node, awake)
        assert "its log could not be read" in error.summary
        assert "within 1800 s" in error.summary


class TestOnTheGpu:
    """`up` does not take an answer from the CPU where there is a card."""

    def test_an_engine_that_computes_on_its_cpu_is_refused(
        self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld
    ) -> None:
        world.guests.gpu_faults.add("engine_on_cpu")
        provisioning = Provisioning(fleet, world)
        with pytest.raises(EngineError, match="computes on the CPU") as caught:
            provisioning.apply(provisioning.plan(node), ignore)
        assert caught.value.diagnosis == "engine_on_cpu"
        assert "provisioner logs llm-gpu-01" in caught.value.next_step
        world.guests.gpu_faults.clear()
        provisioning.apply(provisioning.plan(node), ignore)

    def test_what_was_seen_is_told(self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> None:
        told: list[str] = []
        provisioning = Provisioning(fleet, world)
        provisioning.apply(provisioning.plan(node), lambda event: told.append(event.detail))
        assert any("llama.cpp holds 5.0 GiB on the card" in detail for detail in told)

    @pytest.mark.parametrize("fault", ["gpu_missing", "gpu_lost", "gpu_driver_mismatch"])
    def test_a_card_that_does_not_answer_is_another_steps_business(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld, fault: str
    ) -> None:
        awake.guests.gpu_faults.add(fault)
        unit, shell = unit_of(fleet, node, awake.engines), FakeShell(awake.guests, node)
        assert require_on_gpu(fleet, node, unit, awake.web, lambda: shell) == ""

    def test_a_guest_that_lets_nobody_in_is_no_failure(
        self, fleet: FleetSpec, node: NodeSpec, awake: FakeWorld
    ) -> None:
        awake.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
        unit, shell = unit_of(fleet, node, awake.engines), FakeShell(awake.guests, node)
        told = require_on_gpu(fleet, node, unit, awake.web, lambda: shell)
        assert told.startswith("whether it computes on the GPU could not be seen: ")
