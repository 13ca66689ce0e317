"""`hold` and `release`: a person keeps a node, with a real book on the disk and no Proxmox at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from provisioner.cli.app import root
from provisioner.errors import InputError, RefusedError
from tests.fleets import FLEET


@pytest.fixture(autouse=True)
def fleet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet file and a state folder of its own."""
    (tmp_path / "fleet.yml").write_text(FLEET)
    monkeypatch.setenv("PROVISIONER_FLEET", str(tmp_path / "fleet.yml"))
    monkeypatch.setenv("PROVISIONER_STATE", str(tmp_path / "state"))


def run(*words: str) -> Result:
    return CliRunner().invoke(root, words)


def test_a_hold_is_kept_until_its_time_and_released_by_its_owner() -> None:
    said = run("hold", "llm-gpu-01", "--for", "2h", "--by", "anna", "--why", "training")
    assert said.exit_code == 0, said.output
    assert said.output.startswith("llm-gpu-01 is held by anna for 2 h, until ")
    assert said.output.endswith(": training\n")
    assert run("release", "llm-gpu-01", "--by", "anna").output == "llm-gpu-01 is no longer held by anna\n"


def test_programs_get_values() -> None:
    made = json.loads(run("hold", "llm-gpu-01", "--for", "90m", "--by", "anna", "--json").output)["result"]
    assert made["until"] - made["since"] == 5400
    run("hold", "llm-gpu-01", "--for", "1h", "--by", "bert")
    left = json.loads(run("release", "llm-gpu-01", "--by", "anna", "--json").output)["result"]
    assert [hold["by"] for hold in left["still_held_by"]] == ["bert"]


def test_by_default_it_is_ones_own() -> None:
    run("hold", "llm-gpu-01", "--for", "1h")
    assert run("release", "llm-gpu-01").exit_code == 0


def test_releasing_what_one_does_not_hold_names_who_does() -> None:
    run("hold", "llm-gpu-01", "--for", "1h", "--by", "anna")
    refused = run("release", "llm-gpu-01", "--by", "bert").exception
    assert isinstance(refused, RefusedError)
    assert refused.summary == "cannot release the node: bert does not hold it, but anna"
    assert refused.next_step == "provisioner release llm-gpu-01 --by anna"


@pytest.mark.parametrize("time", ["2", "two hours", "-1h", ""])
def test_a_wrong_time_is_a_usage_error(time: str) -> None:
    assert run("hold", "llm-gpu-01", "--for", time).exit_code == 2


@pytest.mark.parametrize(("words", "said"), [(("x", "1h"), 'node "x"'), (("llm-gpu-01", "400d"), "at most 720 h")])
def test_what_makes_no_sense_is_an_input_error(words: tuple[str, str], said: str) -> None:
    error = run("hold", words[0], "--for", words[1]).exception
    assert isinstance(error, InputError)
    assert said in str(error)


def test_both_show_an_example() -> None:
    for command in ("hold", "release"):
        assert f"Example: provisioner {command} llm-gpu-01" in run(command, "--help").output
