"""The commands that look into guests, on the embedded Proxmox with simulated ones, by the command line."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner, Result

from provisioner.cli.app import root
from provisioner.errors import NotReadyError, ProvisionerError
from tests.lab.support import NODE, Site


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
        assert "Started llama-server.service" in result.stdout
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
