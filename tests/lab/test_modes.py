"""Modes on the embedded Proxmox with simulated guests: switching, going back, giving a GPU away and taking it back."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from provisioner.cli.app import root
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.notes import read_notes
from provisioner.errors import EngineError, HypervisorError, InputError, RefusedError
from provisioner.fleet import Fleet
from provisioner.services.events import Event, Phase
from provisioner.services.fleet_view import NodeState
from tests.fleets import SUM
from tests.lab.support import NODE, Site

ENGINES = f"""\
  vllm: {{version: 0.33.0}}
  ollama: {{source: https://example.org/ollama-linux-amd64.tar.zst, sha256: {SUM}}}
"""
MODES = """\
  ml: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct-AWQ, context: 8192}
  r1: {engine: vllm, model: deepseek-ai/DeepSeek-R1-Distill-Qwen-7B, context: 4096}
  chat: {engine: ollama, models: ["llama3.1:8b", "mistral:7b"], pinned: ["llama3.1:8b"]}
  talk: {engine: ollama, model: "mistral:7b"}
  later: {engine: ollama, model: "phi3:mini", pull: demand}
  nowhere: {engine: ollama, model: "nobody/nothing"}
  broken: {engine: vllm, model: nobody/nothing}
  gaming: {release_gpu_to: 200}
"""
GAMING = 200


def with_modes(text: str, modes: str = "ml, r1, chat, talk, broken, gaming", allowed: str = "") -> str:
    """Add engines and modes to the lab's fleet file."""
    text = text.replace("engines:\n", f"engines:\n{ENGINES}").replace("modes:\n", f"modes:\n{MODES}", 1)
    text = text.replace("release_gpu_to: 200", f"release_gpu_to: 200{allowed}")
    return text.replace("modes: [small]", f"modes: [{modes}]")


@pytest.fixture
def fleet(site: Site) -> Fleet:
    """A fleet whose one node has many modes, brought up in the first."""
    fleet = site.fleet(with_modes)
    fleet.up(NODE)
    return fleet


def gaming_vm(site: Site, **changes: str) -> None:
    """Somebody else's VM that is made to hold the same card."""
    settings = {"name": "windows", "memory": "1024", "cores": "1", "hostpci0": "mapping=rtx3090,pcie=1"}
    settings |= {"scsi0": "local-lvm:1", "boot": "order=scsi0"} | changes
    site.lab.finish(site.lab.call("POST", f"/nodes/{_hypervisor(site)}/qemu", vmid=GAMING, machine="q35", **settings))


def _hypervisor(site: Site) -> str:
    return next(iter(site.lab.lab.cluster.nodes))


def power(site: Site, vmid: int) -> str:
    return str(site.lab.call("GET", f"/nodes/{_hypervisor(site)}/qemu/{vmid}/status/current")["status"])


def notes(site: Site, vmid: int = 5001) -> str:
    return str(site.lab.call("GET", f"/nodes/{_hypervisor(site)}/qemu/{vmid}/config")["description"])


def serves(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/models", timeout=5) as answer:
        return [model["id"] for model in json.load(answer)["data"]]


def loaded(url: str) -> set[str]:
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/api/ps", timeout=5) as answer:
        return {model["name"] for model in json.load(answer)["models"]}


def steps(fleet: Fleet, act: Callable[[Callable[[Event], None]], object]) -> list[str]:
    """Return the steps that an act takes."""
    seen: list[Event] = []
    act(seen.append)
    return [event.step for event in seen if event.phase is Phase.DONE]


class TestRunning:
    """Switching while the node is on."""

    def test_all_modes_are_laid_down_and_the_first_one_answers(self, site: Site) -> None:
        fleet = site.fleet(with_modes)
        plan = fleet.plan(NODE)
        assert [step.name for step in plan.steps if step.name.startswith("configure ")] == [
            "configure ollama",
            "configure vllm",
        ]
        report = fleet.up(NODE)
        assert report.endpoint.model == "Qwen/Qwen2.5-7B-Instruct-AWQ"
        assert fleet.up(NODE).changed == ()

    def test_another_model_of_the_same_engine_answers_and_is_noted(self, fleet: Fleet, site: Site) -> None:
        report = fleet.mode(NODE, "r1")
        assert (report.did, report.previous, report.mode) == ("engine changed", "ml", "r1")
        assert report.endpoint is not None
        assert serves(report.endpoint.url) == ["deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"]
        assert read_notes(notes(site)).mode == "r1"
        assert "serving deepseek-ai/DeepSeek-R1-Distill-Qwen-7B at" in notes(site)

    def test_another_engine_answers_and_nothing_is_installed(self, fleet: Fleet) -> None:
        assert steps(fleet, lambda on_event: fleet.mode(NODE, "chat", on_event=on_event)) == ["switch"]
        (status,) = fleet.status()
        assert (status.state, status.model) == (NodeState.SERVING, "llama3.1:8b")

    def test_models_of_one_server_change_without_a_restart(self, fleet: Fleet, site: Site) -> None:
        chat = fleet.mode(NODE, "chat").endpoint
        assert chat is not None
        assert loaded(chat.url) == {"llama3.1:8b"}
        started = site.lab.lab.backend._running[5001].engine  # type: ignore[attr-defined]
        report = fleet.mode(NODE, "talk", force=True)
        assert report.did == "models changed"
        assert site.lab.lab.backend._running[5001].engine is started  # type: ignore[attr-defined]
        assert loaded(chat.url) == {"mistral:7b"}

    def test_the_same_mode_is_only_proved(self, fleet: Fleet) -> None:
        assert fleet.mode(NODE, "ml").did == "in place"

    def test_up_brings_the_noted_mode_and_changes_nothing(self, fleet: Fleet) -> None:
        fleet.mode(NODE, "r1")
        report = fleet.up(NODE)
        assert report.endpoint.model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
        assert report.changed == ()

    def test_the_time_it_took_is_remembered(self, fleet: Fleet, site: Site) -> None:
        first = fleet.mode(NODE, "r1")
        fleet.mode(NODE, "ml")
        again = site.fleet().mode(NODE, "r1")
        assert first.last_seconds is None
        assert again.last_seconds == pytest.approx(first.seconds)

    def test_a_mode_of_no_one_is_refused_with_those_there_are(self, fleet: Fleet) -> None:
        with pytest.raises(InputError, match='no mode "gamign"') as caught:
            fleet.mode(NODE, "gamign")
        assert "ml, r1, chat" in caught.value.next_step

    def test_a_mode_that_was_never_laid_down_stops_nothing(self, site: Site) -> None:
        site.fleet(lambda text: with_modes(text, "ml, chat")).up(NODE)
        fleet = site.fleet(lambda text: text.replace("modes: [ml, chat]", "modes: [ml, chat, r1]"))
        with pytest.raises(RefusedError, match=r"llm-r1\.service is not laid down"):
            fleet.mode(NODE, "r1")
        (status,) = fleet.status()
        assert status.state is NodeState.SERVING

    def test_no_request_gets_in_between_the_look_and_the_switch(self, fleet: Fleet) -> None:
        flight, name = fleet.world.in_flight, NodeName(NODE)
        entered: list[bool] = []

        def tell(event: Event) -> None:
            if (event.step, event.phase) == ("switch", Phase.STARTED):
                entered.append(flight.enter(name, 0.0))

        fleet.mode(NODE, "r1", on_event=tell)
        assert entered == [False]
        assert flight.of(name).is_open

    def test_while_it_is_busy_it_is_refused_unless_forced(self, fleet: Fleet, site: Site) -> None:
        engine = site.lab.lab.backend._running[5001].engine  # type: ignore[attr-defined]
        engine._processing = 2
        with pytest.raises(RefusedError, match="1 requests running, 1 waiting"):
            fleet.mode(NODE, "r1")
        assert read_notes(notes(site)).mode is None
        assert fleet.mode(NODE, "r1", force=True).mode == "r1"


class TestRollback:
    """A mode that does not answer."""

    def test_the_mode_before_is_back_and_the_error_says_both(self, fleet: Fleet, site: Site) -> None:
        with pytest.raises(EngineError) as caught:
            fleet.mode(NODE, "broken")
        error = caught.value
        assert 'cannot switch to mode "broken"' in error.summary
        assert "llm-broken.service starts and dies" in error.summary
        assert "not a valid model identifier" in error.summary
        assert 'mode "ml" is back and answers' in error.summary
        (status,) = fleet.status()
        assert (status.state, status.model) == (NodeState.SERVING, "Qwen/Qwen2.5-7B-Instruct-AWQ")
        assert read_notes(notes(site)).mode is None

    def test_it_does_not_wait_for_all_the_patience_there_is(self, fleet: Fleet) -> None:
        begun = time.monotonic()
        with pytest.raises(EngineError):
            fleet.mode(NODE, "broken")
        assert time.monotonic() - begun < 30

    def test_where_the_mode_before_does_not_come_back_either_that_is_said(self, site: Site) -> None:
        fleet = site.fleet(lambda text: with_modes(text, "ml, broken"))
        fleet.up(NODE)
        unit = site.lab.lab.backend._running[5001].agent._disk.units  # type: ignore[attr-defined]
        unit["llm-ml.service"]["model"] = "nobody/else"
        with pytest.raises(EngineError, match='mode "ml" did not come back either') as caught:
            fleet.mode(NODE, "broken")
        assert caught.value.next_step.endswith(f"provisioner mode {NODE} ml")

    def test_after_a_restart_the_mode_before_still_runs(self, fleet: Fleet) -> None:
        with pytest.raises(EngineError):
            fleet.mode(NODE, "broken")
        fleet.sleep(NODE)
        assert fleet.wake(NODE).model == "Qwen/Qwen2.5-7B-Instruct-AWQ"

    def test_a_silent_fall_back_to_the_processor_is_a_failure(self, site: Site) -> None:
        site.lab.lab.faults.add(guest="engine_on_cpu", vmid=5001)
        fleet = site.fleet(lambda text: with_modes(text, "chat"))
        with pytest.raises(EngineError, match="serves it on the CPU, without a word"):
            fleet.up(NODE)


class TestPulling:
    """Models of an engine with a store of its own."""

    def test_up_fetches_all_models_of_its_modes_and_only_once(self, site: Site) -> None:
        fleet = site.fleet(lambda text: with_modes(text, "chat, talk, later"))
        seen: list[Event] = []
        report = fleet.up(NODE, seen.append)
        assert "pull" in report.changed
        progress = [event.detail for event in seen if event.step == "pull" and event.phase is Phase.PROGRESS]
        assert "llama3.1:8b: 4.58 of 4.58 GiB" in progress
        assert set(serves(report.endpoint.url)) == {"llama3.1:8b", "mistral:7b"}
        assert fleet.up(NODE).changed == ()

    def test_on_demand_it_is_fetched_when_the_mode_is_first_wanted(self, site: Site) -> None:
        fleet = site.fleet(lambda text: with_modes(text, "talk, later"))
        url = fleet.up(NODE).endpoint.url
        assert serves(url) == ["mistral:7b"]
        report = fleet.mode(NODE, "later", force=True)
        assert report.endpoint is not None
        assert report.endpoint.model == "phi3:mini"
        assert set(serves(url)) == {"mistral:7b", "phi3:mini"}

    def test_a_model_that_does_not_exist_is_told_though_the_status_was_200(self, site: Site) -> None:
        with pytest.raises(EngineError, match="pull model manifest: file does not exist") as caught:
            site.fleet(lambda text: with_modes(text, "nowhere")).up(NODE)
        assert caught.value.next_step == "write a model's name as its library has it, such as llama3.1:8b"

    def test_a_mode_whose_model_does_not_exist_is_rolled_back(self, site: Site) -> None:
        site.fleet(lambda text: with_modes(text, "talk")).up(NODE)
        fleet = site.fleet(lambda text: text.replace("modes: [talk]", "modes: [talk, nowhere]"))
        with pytest.raises(EngineError, match='mode "talk" is back and answers'):
            fleet.mode(NODE, "nowhere", force=True)


class TestAsleep:
    """Choosing a mode while the node is off."""

    def test_only_the_note_changes_and_the_next_wake_brings_the_mode(self, fleet: Fleet, site: Site) -> None:
        fleet.sleep(NODE)
        report = fleet.mode(NODE, "chat")
        assert (report.did, report.endpoint) == ("noted", None)
        assert power(site, 5001) == "stopped"
        assert read_notes(notes(site)).mode_waits
        assert fleet.status()[0].model == "llama3.1:8b"
        endpoint = fleet.wake(NODE)
        assert endpoint.model == "llama3.1:8b"
        assert not read_notes(notes(site)).mode_waits

    def test_the_mode_stays_over_the_next_night(self, fleet: Fleet) -> None:
        fleet.sleep(NODE)
        fleet.mode(NODE, "r1")
        fleet.wake(NODE)
        fleet.sleep(NODE)
        assert fleet.wake(NODE).model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"

    def test_up_tells_the_guest_too(self, fleet: Fleet, site: Site) -> None:
        fleet.sleep(NODE)
        fleet.mode(NODE, "r1")
        assert fleet.up(NODE).endpoint.model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
        assert not read_notes(notes(site)).mode_waits

    def test_a_model_is_looked_for_in_the_mode_that_is_noted(self, fleet: Fleet) -> None:
        assert fleet.wake(model="Qwen/Qwen2.5-7B-Instruct-AWQ").node == NODE
        with pytest.raises(RefusedError, match="in another mode") as caught:
            fleet.wake(model="mistral:7b")
        assert caught.value.next_step == f"provisioner mode {NODE} chat"


class TestGivingAway:
    """`release_gpu_to`."""

    def test_the_node_sleeps_and_the_other_vm_runs(self, fleet: Fleet, site: Site) -> None:
        gaming_vm(site)
        report = fleet.mode(NODE, "gaming")
        assert (report.did, report.endpoint) == ("GPUs released", None)
        assert (power(site, 5001), power(site, GAMING)) == ("stopped", "running")
        (status,) = fleet.status()
        assert "given to VM 200" in status.reason

    def test_its_gate_opens_once_its_notes_say_so(
        self, fleet: Fleet, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gaming_vm(site)
        gate, noted = fleet.world.in_flight, []
        opens = gate.open

        def opened(node: NodeName) -> None:
            opens(node)
            if gate.of(node).is_open:
                noted.append(fleet.status()[0].reason)

        monkeypatch.setattr(gate, "open", opened)
        fleet.mode(NODE, "gaming")
        assert ["given to VM 200" in each for each in noted] == [True]

    def test_nobody_wakes_the_node_meanwhile(self, fleet: Fleet, site: Site) -> None:
        gaming_vm(site)
        fleet.mode(NODE, "gaming")
        for act in (lambda: fleet.wake(NODE), lambda: fleet.up(NODE)):
            with pytest.raises(RefusedError, match="given to VM 200") as caught:
                act()
            assert caught.value.next_step == f"provisioner mode {NODE} ml takes them back"
        assert [decision.verdict.value for decision in fleet.idle()] == ["asleep"]

    def test_back_again_needs_the_owners_word(self, fleet: Fleet, site: Site) -> None:
        gaming_vm(site)
        fleet.mode(NODE, "gaming")
        with pytest.raises(RefusedError, match='VM 200 "windows" runs with its GPUs') as caught:
            fleet.mode(NODE, "ml")
        assert "may_shut_down: true" in caught.value.next_step
        assert (power(site, 5001), power(site, GAMING)) == ("stopped", "running")

    def test_with_it_that_vm_is_shut_down_and_the_node_answers(self, site: Site) -> None:
        fleet = site.fleet(lambda text: with_modes(text, allowed=", may_shut_down: true"))
        fleet.up(NODE)
        gaming_vm(site)
        fleet.mode(NODE, "gaming")
        report = fleet.mode(NODE, "r1")
        assert report.did == "GPUs taken back"
        assert report.endpoint is not None
        assert report.endpoint.model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
        assert (power(site, 5001), power(site, GAMING)) == ("running", "stopped")
        kinds = [task["type"] for task in site.lab.call("GET", f"/nodes/{_hypervisor(site)}/tasks", vmid=GAMING)]
        assert "qmstop" not in kinds

    def test_once_its_owner_has_shut_it_down_no_word_is_needed(self, fleet: Fleet, site: Site) -> None:
        gaming_vm(site)
        fleet.mode(NODE, "gaming")
        site.lab.finish(site.lab.call("POST", f"/nodes/{_hypervisor(site)}/qemu/{GAMING}/status/stop"))
        assert fleet.mode(NODE, "ml").endpoint is not None

    def test_a_vm_that_is_not_made_for_the_card_is_not_started(self, fleet: Fleet, site: Site) -> None:
        gaming_vm(site, hostpci0="mapping=v100,pcie=1")
        with pytest.raises(RefusedError, match="not made to hold its GPUs"):
            fleet.mode(NODE, "gaming")
        assert (power(site, 5001), power(site, GAMING)) == ("running", "stopped")

    def test_a_vm_that_does_not_exist_is_named(self, fleet: Fleet) -> None:
        with pytest.raises(RefusedError, match="there is no VM 200"):
            fleet.mode(NODE, "gaming")

    def test_when_that_vm_does_not_start_the_node_may_wake_again(self, site: Site) -> None:
        fleet = site.fleet(with_modes)
        fleet.up(NODE)
        gaming_vm(site)
        site.lab.lab.faults.add(task="qmstart", vmid=GAMING, fails="start failed: QEMU exited with code 1")
        with pytest.raises(HypervisorError):
            fleet.mode(NODE, "gaming")
        assert read_notes(notes(site)).mode == ModeName("ml")
        assert fleet.wake(NODE).model == "Qwen/Qwen2.5-7B-Instruct-AWQ"


def test_the_command_prints_what_it_did(fleet: Fleet, site: Site) -> None:
    said = CliRunner().invoke(root, ["mode", NODE, "r1"], env=site.environment, standalone_mode=False)
    assert said.exception is None, said.exception
    assert f"{NODE} is in mode r1 after" in said.stdout
    said = CliRunner().invoke(root, ["mode", NODE, "ml", "--json"], env=site.environment, standalone_mode=False)
    result = json.loads(said.stdout.splitlines()[-1])["result"]
    assert (result["mode"], result["did"], result["endpoint"]["node"]) == ("ml", "engine changed", NodeName(NODE))
