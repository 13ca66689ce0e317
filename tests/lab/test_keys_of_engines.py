"""A node whose engine asks for a key, on the embedded Proxmox with simulated guests: real HTTP from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from provisioner.errors import EngineKeyError
from provisioner.fleet import Fleet
from provisioner.services.fleet_view import NodeState
from tests.lab.support import NODE, Site

SECRET = "sk-very-secret"


def locked(text: str) -> str:
    """Have every node ask for a key."""
    return text.replace("defaults:\n", "defaults:\n  api_key: env:LLM_KEY\n", 1)


@pytest.fixture
def fleet(site: Site, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A node that asks for a key, brought up."""
    monkeypatch.setenv("LLM_KEY", SECRET)
    fleet = site.fleet(locked)
    assert fleet.up(NODE).endpoint.needs_key
    return fleet


def status_without_key(url: str, key: str = "") -> int:
    asked = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_the_engine_keeps_out_who_has_no_key_and_we_are_let_in(fleet: Fleet) -> None:
    fleet.sleep(NODE, force=True)
    endpoint = fleet.wake(NODE)
    assert (status_without_key(endpoint.url), status_without_key(endpoint.url, SECRET)) == (401, 200)
    report = fleet.bench(NODE, streams=(1,), seconds=0.1)
    assert report.levels[0].replies >= 1
    assert [(each.name, each.needs_key) for each in fleet.forward(NODE, also=[9090]).wanted] == [
        ("llama.cpp", True),
        ("port 9090", False),
    ]
    (decision,) = fleet.idle(dry_run=True)
    assert "key" not in decision.reason
    assert fleet.up(NODE).changed == ()


def test_another_key_is_named_and_laid_down_by_up(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_KEY", "sk-another")
    with pytest.raises(EngineKeyError, match="not the one in env:LLM_KEY"):
        fleet.wake(NODE)
    (status,) = fleet.status()
    assert status.state is NodeState.SERVING
    assert fleet.up(NODE).changed == ("configure",)
    assert status_without_key(fleet.wake(NODE).url, "sk-another") == 200


def test_commands_say_that_a_key_is_needed_and_never_which(fleet: Fleet, site: Site) -> None:
    environment = {**site.environment, "LLM_KEY": SECRET}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "provisioner", *words], capture_output=True, text=True, env=environment, timeout=60
        )
        assert SECRET not in done.stdout + done.stderr
        return done.stdout

    assert "(with its API key)" in run("wake", NODE)
    assert json.loads(run("wake", NODE, "--json").splitlines()[-1])["result"]["endpoint"]["needs_key"] is True
    run("plan", NODE)
    run("status", "--json")
