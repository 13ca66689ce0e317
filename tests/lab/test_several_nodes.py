"""One model on two nodes of the embedded Proxmox: they come up, wake, switch and sleep as one; the head answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from provisioner.domain.actions import RunPlaybook
from provisioner.domain.names import NodeName
from provisioner.domain.notes import read_notes
from provisioner.errors import EngineError, NotReadyError, ProvisionerError, RefusedError
from provisioner.fleet import Fleet
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.planning.idle import IdleVerdict
from provisioner.services.events import Event, Phase
from provisioner.services.fleet_view import NodeState
from provisioner.services.provisioning import UpReport
from tests.lab.serving import running_service
from tests.lab.support import Site, site_for

HEAD, OTHER = "llm-gpu-01", "llm-gpu-02"


def equal_cards(site: Site) -> None:
    """Make the server's second card one like the first."""
    cluster = site.lab.lab.cluster
    (node,) = cluster.nodes.values()
    for device in node.devices:
        device.update({"device": "0x2204", "subsystem_device": "0x3095"} if device["device"] == "0x2504" else {})
    mapping = cluster.mappings["rtx3060"]
    theirs = (("subsystem-id=10de:2504", "subsystem-id=10de:3095"), ("id=10de:2504", "id=10de:2204"))
    for old, new in theirs:
        mapping.map[:] = [entry.replace(old, new) for entry in mapping.map]


def with_big(first: str = "[big, ml, bad]") -> Callable[[str], str]:
    """Give two nodes a mode that they serve together, and others that each serves alone."""

    def change(text: str) -> str:
        fleet = yaml.safe_load(text)
        fleet["engines"]["vllm"] = {"version": "0.33.0"}
        together = {"engine": "vllm", "context": 1024, "nodes": [HEAD, OTHER]}
        fleet["modes"] = {
            "big": {**together, "model": "some/big-model"},
            "bad": {**together, "model": "nobody/nothing"},
            "ml": {"engine": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct-AWQ"},
        }
        for gpu in fleet["hypervisors"]["pve1"]["gpus"].values():
            gpu["vram"] = "24GiB"
        for name, modes in ((HEAD, first), (OTHER, first)):
            fleet["nodes"][name]["modes"] = yaml.safe_load(modes)
        return yaml.safe_dump(fleet, sort_keys=False)

    return change


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        site = site_for(lab, tmp_path, images, nodes=2)
        equal_cards(site)
        yield site


def power(site: Site, vmid: int) -> str:
    return str(site.lab.call("GET", f"/nodes/pve1/qemu/{vmid}/status/current")["status"])


def noted_mode(site: Site, vmid: int) -> str | None:
    return read_notes(str(site.lab.call("GET", f"/nodes/pve1/qemu/{vmid}/config")["description"])).mode


def brought_up(site: Site, modes: str = "[big, ml, bad]") -> Fleet:
    fleet = site.fleet(with_big(modes))
    for report in fleet.up_all().values():
        assert isinstance(report, UpReport), report
    return fleet


def test_naming_one_brings_both_up_and_the_head_answers(site: Site) -> None:
    fleet = site.fleet(with_big())
    reports = fleet.up_all([OTHER])
    assert list(reports) == [OTHER, HEAD]
    for report in reports.values():
        assert isinstance(report, UpReport), report
        assert (report.endpoint.node, report.endpoint.model) == (HEAD, "some/big-model")
    assert all(isinstance(each, UpReport) and each.changed == () for each in fleet.up_all().values())


def test_the_plan_says_who_else_is_needed_and_each_ones_part(site: Site) -> None:
    plan = site.fleet(with_big()).plan(OTHER)
    reasons = {step.name: step.reason for step in plan.steps}
    assert f'mode "big" is served by {HEAD}, {OTHER} together, and {HEAD} answers' in reasons["configure"]
    assert "is not encrypted" in reasons["configure"]
    assert reasons["prove"] == f"some/big-model answers a chat at {HEAD}; for that {HEAD} must be up in this mode too"


def test_each_is_told_its_rank_and_its_own_address(site: Site) -> None:
    fleet = site.fleet(with_big())
    addresses = {name: str(fleet.spec.nodes[NodeName(name)].address.ip) for name in (HEAD, OTHER)}
    for name, rank in ((HEAD, "0"), (OTHER, "1")):
        (configure,) = [step for step in fleet.plan(name).steps if step.name == "configure"]
        assert isinstance(configure.action, RunPlaybook)
        launches = cast("list[dict[str, Any]]", configure.action.variables["engine_launches"])
        launch = next(each for each in launches if each["unit"] == "big")
        argv = launch["argv"]
        assert argv[argv.index("--node-rank") + 1] == rank
        assert ("--headless" in argv) == (name == OTHER)
        assert argv[argv.index("--master-addr") + 1] == addresses[HEAD]
        assert launch["environment"]["VLLM_HOST_IP"] == addresses[name]


def test_other_cards_are_refused_with_both(tmp_path: Path) -> None:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        site = site_for(lab, tmp_path, images, nodes=2)
        plan = site.fleet(with_big()).plan(HEAD)
    assert plan.refusal is not None
    assert f"its cards are 10de:2204, and those of {OTHER} are 10de:2504" in plan.refusal.reason


def test_one_alone_gives_up_once_the_other_has_been_missing_for_long(site: Site) -> None:
    fleet = site.fleet(lambda text: with_big()(text).replace("boot_within: 10m", "boot_within: 2s"))
    with pytest.raises(NotReadyError, match=f'mode "big" needs {HEAD} too') as caught:
        fleet.up(OTHER)
    assert caught.value.next_step == f"provisioner up {HEAD} {OTHER}"


def test_they_sleep_and_wake_as_one(site: Site) -> None:
    fleet = brought_up(site)
    with pytest.raises(RefusedError, match=f'{HEAD} serves mode "big" with it') as caught:
        fleet.sleep(OTHER)
    assert f"provisioner sleep {HEAD}" in caught.value.next_step
    fleet.sleep(HEAD)
    assert (power(site, 5001), power(site, 5002)) == ("stopped", "stopped")
    events: list[Event] = []
    endpoint = fleet.wake(OTHER, on_event=events.append)
    assert endpoint.node == HEAD
    assert (power(site, 5001), power(site, 5002)) == ("running", "running")
    done = [(event.node, event.step) for event in events if event.phase is Phase.DONE]
    assert (OTHER, "start") in done
    assert (HEAD, "answer") in done


def test_the_service_names_the_head_alone_as_one_to_ask(site: Site) -> None:
    brought_up(site)
    with running_service(site) as service:
        (found,) = service.client.get("/api/endpoints").value["endpoints"]
    assert (found["node"], found["model"]) == (HEAD, "some/big-model")


def test_one_that_something_else_keeps_on_is_named_when_its_head_goes_to_sleep(site: Site) -> None:
    fleet = brought_up(site)
    fleet.hold(OTHER, by="ann", seconds=600, why="training")
    report = fleet.sleep(HEAD)
    assert (power(site, 5001), power(site, 5002)) == ("stopped", "running")
    (sentence,) = report.stay_on
    assert sentence.startswith(f"{OTHER} stays on: ")
    assert "ann" in sentence


def test_a_model_is_woken_at_its_head(site: Site) -> None:
    fleet = brought_up(site)
    fleet.sleep(HEAD)
    assert fleet.wake(model="some/big-model").node == HEAD
    assert power(site, 5002) == "running"


def test_an_idle_pass_leaves_the_others_to_the_head(site: Site) -> None:
    fleet = brought_up(site)
    verdicts = {decision.node.name: decision for decision in fleet.idle(dry_run=True)}
    assert verdicts[NodeName(OTHER)].verdict is IdleVerdict.STAY
    fleet.sleep(HEAD)
    assert {decision.verdict for decision in fleet.idle(dry_run=True)} == {IdleVerdict.ASLEEP}


def test_the_status_of_both_is_what_the_head_says(site: Site) -> None:
    fleet = brought_up(site)
    states = {status.node.name: status for status in fleet.status()}
    assert {status.state for status in states.values()} == {NodeState.SERVING}
    assert states[NodeName(OTHER)].url == states[NodeName(HEAD)].url
    assert states[NodeName(OTHER)].reason.startswith(f"{HEAD} answers for it")


class TestMode:
    """Into a mode that they serve together, and out of it."""

    def test_all_of_its_nodes_come_into_it(self, site: Site) -> None:
        fleet = brought_up(site, "[ml, big, bad]")
        report = fleet.mode(HEAD, "big")
        assert (report.did, report.previous) == ("engine changed", "ml")
        assert report.endpoint is not None
        assert report.endpoint.model == "some/big-model"
        assert (noted_mode(site, 5001), noted_mode(site, 5002)) == ("big", "big")
        assert fleet.up_all()[HEAD].changed == ()  # type: ignore[union-attr]

    def test_it_is_switched_at_its_head(self, site: Site) -> None:
        fleet = brought_up(site, "[ml, big, bad]")
        with pytest.raises(RefusedError) as caught:
            fleet.mode(OTHER, "big")
        assert caught.value.next_step == f"provisioner mode {HEAD} big"

    def test_one_that_is_off_is_started_for_it(self, site: Site) -> None:
        fleet = brought_up(site, "[ml, big, bad]")
        fleet.sleep(OTHER)
        fleet.mode(HEAD, "big")
        assert power(site, 5002) == "running"

    def test_a_busy_one_stops_it_before_anything_is_changed(self, site: Site) -> None:
        fleet = brought_up(site, "[ml, big, bad]")
        engine = site.lab.lab.backend._running[5002].engine  # type: ignore[attr-defined]
        engine._processing = 1
        with pytest.raises(RefusedError, match="1 requests running"):
            fleet.mode(HEAD, "big")
        assert (noted_mode(site, 5001), noted_mode(site, 5002)) == (None, None)

    def test_none_leaves_while_the_head_serves_with_it(self, site: Site) -> None:
        fleet = brought_up(site)
        with pytest.raises(RefusedError, match=f'{HEAD} serves mode "big" with it'):
            fleet.mode(OTHER, "ml")
        fleet.mode(HEAD, "ml")
        assert fleet.mode(OTHER, "ml").endpoint is not None

    def test_all_go_back_when_it_does_not_answer(self, site: Site) -> None:
        fleet = brought_up(site, "[ml, big, bad]")
        fleet = site.fleet(lambda text: text.replace("engine_within: 5m", "engine_within: 2s"))
        with pytest.raises(EngineError) as caught:
            fleet.mode(HEAD, "bad")
        for name in (HEAD, OTHER):
            assert f'mode "ml" of {name} is back and answers' in caught.value.summary
        assert {status.model for status in fleet.status()} == {"Qwen/Qwen2.5-7B-Instruct-AWQ"}

    def test_a_head_that_is_off_only_notes_it_and_wakes_all_of_them(self, site: Site) -> None:
        fleet = brought_up(site, "[ml, big, bad]")
        fleet.sleep(HEAD)
        with pytest.raises(RefusedError, match=f'{OTHER} serves mode "ml"'):
            fleet.mode(HEAD, "big")
        fleet.sleep(OTHER)
        assert fleet.mode(HEAD, "big").endpoint is None
        assert fleet.wake(HEAD).model == "some/big-model"
        assert power(site, 5002) == "running"

    def test_waking_while_another_is_in_another_mode_says_how_to_bring_all_into_it(self, site: Site) -> None:
        fleet = brought_up(site)
        fleet.mode(HEAD, "ml")
        fleet.mode(OTHER, "ml")
        with pytest.raises(ProvisionerError) as caught:
            fleet.wake(model="some/big-model")
        assert f"provisioner mode {HEAD} big" in caught.value.next_step
