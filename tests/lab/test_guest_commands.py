"""The commands that look into guests, on the embedded Proxmox with simulated ones, by the command line."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner, Result

from provisioner.cli.app import root
from provisioner.domain.names import ModeName
from provisioner.errors import NotReadyError, ProvisionerError
from tests.lab.support import NODE, Site
from tests.lab.test_modes import gaming_vm, with_modes


def run(site: Site, *arguments: str) -> Result:
    """Run a command as `main` does, but for its one catch of errors."""
    return CliRunner().invoke(root, list(arguments), env=site.environment, standalone_mode=False)


def printed(result: Result) -> list[dict[str, object]]:
    assert result.exception is None, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestLogs:
    """`provisioner logs`."""

    def test_it_shows_what_the_engine_says(self, site: Site) -> None:
        site.fleet().up(NODE)
        result = run(site, "logs", NODE)
        assert "Started llm-small.service" in result.stdout
        assert "server is listening" in result.stdout

    def test_programs_get_a_line_of_json_for_each(self, site: Site) -> None:
        site.fleet().up(NODE)
        (line,) = printed(run(site, "logs", NODE, "-n", "1", "--json"))
        assert set(line) == {"time", "source", "text"}

    def test_following_ends_with_what_there_is(self, site: Site) -> None:
        site.fleet().up(NODE)
        assert len(printed(run(site, "logs", NODE, "-f", "-n", "1", "--json"))) == 1


@pytest.mark.parametrize("command", [["logs"], ["forward"], ["bench"]], ids=lambda words: words[0])
def test_a_node_that_is_off_is_not_woken(site: Site, command: list[str]) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    fleet.sleep(NODE, force=True)
    result = run(site, *command, NODE)
    assert isinstance(result.exception, NotReadyError)
    assert result.exception.next_step == f"provisioner wake {NODE}"
    assert fleet.status()[0].state.value == "asleep"


def test_a_tunnel_to_a_guest_without_ssh_says_so(site: Site) -> None:
    site.fleet().up(NODE)
    result = run(site, "forward", NODE, "--port", "0")
    assert isinstance(result.exception, ProvisionerError)
    assert "refused" in result.exception.summary


def test_a_tunnel_brings_the_web_ui_along(site: Site) -> None:
    fleet = site.fleet(lambda text: text.replace("modes: [small]", "modes: [small], web_ui: {version: 0.12.4}"))
    fleet.up(NODE)
    wanted = {each.name: (each.remote_port, each.local_port) for each in fleet.forward(NODE, 18080, also=[9090]).wanted}
    web_ui = fleet.spec.node(NODE).web_ui
    assert web_ui is not None
    assert wanted == {
        "llama.cpp": (8080, 18080),
        "Open WebUI": (web_ui.port, web_ui.port),
        "port 9090": (9090, 9090),
    }


class TestBench:
    """`provisioner bench`."""

    def test_it_measures_each_level_and_remembers(self, site: Site) -> None:
        site.fleet().up(NODE)
        *_, first = printed(run(site, "bench", NODE, "--streams", "1,4", "--seconds", "0.2", "--json"))
        report = first["result"]
        assert isinstance(report, dict)
        assert [level["streams"] for level in report["levels"]] == [1, 4]
        assert all(level["tokens_per_second_total"] > 0 for level in report["levels"])
        assert report["earlier"] == [None, None]
        shown = run(site, "bench", NODE, "--streams", "4", "--seconds", "0.2")
        assert "tokens/s in all" in shown.stdout
        (line,) = [line for line in shown.stdout.splitlines() if line.strip().startswith("4 ")]
        assert line.split()[-1] == f"{report['levels'][1]['tokens_per_second_total']:.1f}"

    @pytest.mark.parametrize("words", [["--streams", "0"], ["--streams", "a"], ["--seconds", "5 parsecs"]], ids=str)
    def test_nonsense_is_wrong_usage(self, site: Site, words: list[str]) -> None:
        result = run(site, "bench", NODE, *words)
        assert isinstance(result.exception, click.UsageError)


def run_to_exit(site: Site, code: int, *arguments: str) -> list[dict[str, dict[str, object]]]:
    """Run a command that ends with an exit code of its own; return its lines of JSON."""
    result = CliRunner().invoke(root, list(arguments), env=site.environment)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def outcome(site: Site, *words: str) -> tuple[dict[str, str], int]:
    """Run `test`; return the status of every check, and the exit code."""
    result = CliRunner().invoke(root, ["test", NODE, "--json", *words], env=site.environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    *_, last = [json.loads(line) for line in result.stdout.splitlines()]
    return {check["id"]: check["status"] for check in last["result"]["checks"]}, result.exit_code


def restarted_with(site: Site, fault: str) -> None:
    """Cut the node's power and give it back, with something wrong with its guest."""
    site.lab.befall("vm_stopped", vmid=5001)
    site.lab.faults.add(guest=fault, vmid=5001)
    site.lab.befall("vm_started", vmid=5001)


class TestOfANode:
    """`provisioner test`."""

    def test_a_node_that_is_well_passes(self, site: Site) -> None:
        site.fleet().up(NODE)
        found, code = outcome(site)
        assert code == 0
        assert set(found.values()) == {"ok"}
        assert {"pci_device", "driver_matches", "vram", "engine_runs", "engine_answers", "engine_on_gpu"} < set(found)

    def test_the_first_token_is_compared_with_earlier_ones(self, site: Site) -> None:
        site.fleet().up(NODE)
        for _ in range(3):
            outcome(site)
        result = run(site, "test", NODE)
        assert "usually" in result.stdout

    def test_a_smoke_test_times_and_remembers_nothing(self, site: Site) -> None:
        site.fleet().up(NODE)
        found, code = outcome(site, "--smoke")
        assert code == 0
        assert "probe" not in found
        assert "0 of 3 earlier ones" in run(site, "test", NODE).stdout

    @pytest.mark.parametrize(
        ("fault", "check"),
        [
            ("engine_on_cpu", "engine_on_gpu"),
            ("gpu_missing", "pci_device"),
            ("gpu_lost", "driver_answers"),
            ("gpu_driver_mismatch", "driver_matches"),
            ("engine_wrong_model", "engine_answers"),
        ],
    )
    def test_what_is_wrong_has_a_name(self, site: Site, fault: str, check: str) -> None:
        site.fleet().up(NODE)
        restarted_with(site, fault)
        found, code = outcome(site)
        assert found[check] == "fail"
        assert code == 1

    def test_a_node_without_a_gpu_passes_without_one(self, site: Site) -> None:
        fleet = site.fleet(lambda text: text.replace("gpus: [rtx3090], ", ""))
        fleet.up(NODE)
        found, code = outcome(site)
        assert code == 0
        assert found["gpu"] == "ok"
        assert "pci_device" not in found

    def test_a_card_that_survives_is_written_down_with_consent(self, site: Site) -> None:
        site.fleet().up(NODE)
        before = site.fleet_file.read_text()
        shown = run(site, "test", NODE, "--survives-stop")
        assert "hypervisors.pve1.gpus.rtx3090.survives_stop: true" in shown.stdout
        assert site.fleet_file.read_text() == before
        run(site, "test", NODE, "--survives-stop", "--write")
        assert "survives_stop: true" in site.fleet_file.read_text()
        assert site.fleet().status()[0].state.value == "serving"

    def test_a_card_that_does_not_survive_fails_the_test(self, site: Site) -> None:
        site.fleet().up(NODE)
        site.lab.faults.add(guest="gpu_lost", vmid=5001)
        result = CliRunner().invoke(root, ["test", NODE, "--survives-stop", "--write"], env=site.environment)
        assert result.exit_code == 1
        assert "GPU is lost" in result.stdout
        assert "survives_stop: false" in site.fleet_file.read_text()

    def test_a_card_that_does_not_even_let_the_vm_start_again_does_not_survive(self, site: Site) -> None:
        site.fleet().up(NODE)
        card = {"happens": "gpu_stuck"}
        site.lab.faults.add(method="POST", path="/5001/status/start", times=1, **card)
        *_, last = run_to_exit(site, 1, "test", NODE, "--survives-stop", "--json")
        assert last["result"]["survives_stop"] is False
        assert "failed to reset PCI device" in last["result"]["reason"]
        assert last["result"]["lines"] == ["hypervisors.pve1.gpus.rtx3090.survives_stop: false"]


class TestTop:
    """`provisioner top`."""

    def test_plain_lines_where_there_is_no_terminal(self, site: Site) -> None:
        site.fleet().up(NODE)
        (line,) = run(site, "top", "--once").stdout.splitlines()
        assert f"{NODE}  serving  0" in line
        assert "0 GeForce RTX 3090  0 %  5.0 of 24.0 GiB  41 °C  26 W" in line

    def test_programs_get_an_object_for_each_node_and_look(self, site: Site) -> None:
        site.fleet().up(NODE)
        (line,) = printed(run(site, "top", NODE, "--once", "--json"))
        sample = line["sample"]
        assert isinstance(sample, dict)
        assert sample["state"] == "serving"
        assert sample["gpus"][0]["memory_bytes"] == 24 << 30

    def test_a_file_is_continued_by_the_next_run(self, site: Site) -> None:
        site.fleet().up(NODE)
        kept = site.folder / "gpu.csv"
        for _ in range(2):
            run(site, "top", "--once", "--csv", str(kept))
        head, *rows = kept.read_text().splitlines()
        assert head.startswith("time,node,state,model,")
        assert [row.split(",")[1:3] for row in rows] == [[NODE, "serving"]] * 2

    def test_a_node_that_is_off_is_shown_so(self, site: Site) -> None:
        fleet = site.fleet()
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        assert f"{NODE}  off" in run(site, "top", "--once").stdout
        assert fleet.status()[0].state.value == "asleep"


class TestOtherEngines:
    """The same commands on a node of several modes, in the one that it is in."""

    @pytest.fixture
    def many(self, site: Site) -> Site:
        fleet = site.fleet(lambda text: with_modes(text, "ml, chat, gaming"))
        fleet.up(NODE)
        return site

    @pytest.mark.parametrize("mode", ["ml", "chat"])
    def test_each_mode_is_tested_measured_and_watched_as_what_it_is(self, many: Site, mode: str) -> None:
        many.fleet().mode(NODE, mode)
        found, code = outcome(many)
        assert code == 0, found
        assert found["engine_on_gpu"] == "ok"
        *_, last = printed(run(many, "bench", NODE, "--streams", "2", "--seconds", "0.1", "--json"))
        assert last["result"]["mode"] == mode
        (line,) = printed(run(many, "top", NODE, "--once", "--json"))
        assert line["sample"]["state"] == "serving"
        assert line["sample"]["model"] == many.fleet().spec.modes[ModeName(mode)].model
        assert f"llm-{mode}.service" in run(many, "logs", NODE).stdout

    def test_a_smoke_test_in_another_mode_brings_the_one_before_back(self, many: Site) -> None:
        result = CliRunner().invoke(root, ["test", NODE, "--smoke", "--mode", "chat", "--json"], env=many.environment)
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout.splitlines()[-1])["result"]
        assert report["mode"] == "chat"
        (status,) = many.fleet().status()
        assert (status.state.value, status.model) == ("serving", "Qwen/Qwen2.5-7B-Instruct-AWQ")

    def test_a_mode_that_the_node_does_not_have_changes_nothing(self, many: Site) -> None:
        result = run(many, "test", NODE, "--mode", "nonsense")
        assert isinstance(result.exception, ProvisionerError)
        assert "ml" in result.exception.next_step
        assert many.fleet().status()[0].state.value == "serving"

    def test_an_ollama_that_loads_into_main_memory_is_no_success(self, many: Site) -> None:
        many.fleet().mode(NODE, "chat")
        restarted_with(many, "engine_on_cpu")
        found, code = outcome(many)
        assert found["engine_on_gpu"] == "fail"
        assert code == 1

    def test_a_node_whose_gpu_was_given_away_is_off(self, many: Site) -> None:
        gaming_vm(many)
        many.fleet().mode(NODE, "gaming")
        assert f"{NODE}  off" in run(many, "top", "--once").stdout
        assert isinstance(run(many, "test", NODE).exception, NotReadyError)
