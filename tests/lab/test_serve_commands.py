"""Commands beside a running service: they go through it, and do without it where it is gone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from provisioner.cli.app import root
from provisioner.errors import ProvisionerError
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import RunningService, running_service
from tests.lab.support import NODE, Site, site_for


@pytest.fixture(scope="module")
def asleep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("commands")
    with served_folder(folder) as images, RunningLab(folder / "lab") as lab:
        site = site_for(lab, folder, images)
        fleet = site.fleet()
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        yield site


@pytest.fixture(scope="module")
def service(asleep: Site) -> Iterator[RunningService]:
    with running_service(asleep) as running:
        yield running


@pytest.fixture(autouse=True)
def _environment(asleep: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROVISIONER_FLEET", "PROVISIONER_STATE"):
        monkeypatch.setenv(name, asleep.environment[name])


def run(*words: str) -> tuple[list[dict[str, Any]], BaseException | None]:
    """Return the lines that a command printed for programs, and what it raised."""
    done = CliRunner().invoke(root, [*words, "--json"])
    return [json.loads(line) for line in done.stdout.splitlines()], done.exception


def asked(running: RunningService, kind: str) -> list[str]:
    """Return the phases of what the service did."""
    running.client.headers = {}
    last = running.client.get("/api/service").value["last_event"]
    phases = []
    for event in running.client.events("?after=0"):
        if event["kind"] == kind:
            phases.append(event["phase"])
        if event["number"] >= last:
            return phases
    return phases


def test_a_wake_goes_through_the_service_and_shows_its_steps(service: RunningService, asleep: Site) -> None:
    asleep.lab.forget_requests()
    lines, error = run("wake", NODE)
    assert error is None
    assert asked(service, "wake")[:3] == ["asked", "started", "done"]
    steps = [(line["event"]["step"], line["event"]["phase"]) for line in lines if "event" in line]
    assert steps == [("start", "started"), ("start", "done"), ("answer", "started"), ("answer", "done")]
    result = lines[-1]["result"]
    assert (result["started"], result["endpoint"]["node"], result["api_calls"] > 0) == (True, NODE, True)
    lines, error = run("wake", "--model", "tiny.gguf")
    assert (error, lines[-1]["result"]["started"]) == (None, False)
    run("sleep", NODE)
    lines, error = run("wake", "--model", "tiny.gguf")
    assert (error, lines[-1]["result"]["started"]) == (None, True)


def test_what_the_service_refuses_reads_as_if_the_command_had(service: RunningService) -> None:
    run("wake", NODE)
    service.client.post(f"/api/nodes/{NODE}/hold", {"duration": "1h"})
    _, error = run("sleep", NODE)
    service.client.post(f"/api/nodes/{NODE}/release")
    assert isinstance(error, ProvisionerError)
    assert (type(error).__name__, error.retryable) == ("RefusedError", True)
    assert error.subject == f'node "{NODE}" (vm 5001 on pve1)'
    assert "it is held by local" in error.summary


def test_idle_and_sleep_go_through_the_service(service: RunningService) -> None:
    run("wake", NODE)
    lines, error = run("idle", "--dry-run")
    assert (error, [each["node"] for each in lines[-1]["result"]]) == (None, [NODE])
    lines, error = run("sleep", NODE)
    assert (error, lines[-1]["result"]["was_running"]) == (None, True)
    assert asked(service, "sleep")[-2:] == ["started", "done"]
    assert service.client.get(f"/api/nodes/{NODE}").value["phase"] == "asleep"


def test_a_node_that_nobody_knows_costs_no_question(service: RunningService) -> None:
    _, error = run("wake", "nobody")
    assert type(error).__name__ == "UnknownNameError"


def test_status_watches_with_the_eyes_of_the_service_and_is_told_at_once(asleep: Site, service: RunningService) -> None:
    run("sleep", NODE)
    command = [sys.executable, "-m", "provisioner", "status", "--watch", "--interval", "60s"]
    with subprocess.Popen(command, env=asleep.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert f"{NODE} asleep: " in process.stdout.readline()
            run("wake", NODE)
            # It looks once a minute: what comes sooner was told.
            assert any(f"{NODE} ready" in line for line in process.stdout)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_where_the_service_was_killed_commands_act_themselves(asleep: Site, service: RunningService) -> None:
    service.kill()
    assert (asleep.settings.state_folder / "serve.sock").exists()
    lines, error = run("wake", NODE)
    assert (error, lines[-1]["result"]["endpoint"]["node"]) == (None, NODE)
    lines, error = run("idle")
    assert (error, lines[-1]["result"][0]["verdict"]) == (None, "stay")
    lines, error = run("sleep", NODE)
    assert (error, lines[-1]["result"]["was_running"]) == (None, True)
    with running_service(asleep) as next_one:
        assert next_one.client.get(f"/api/nodes/{NODE}").value["phase"] == "asleep"
        lines, error = run("wake", NODE)
        assert error is None
        assert asked(next_one, "wake")[-1] == "done"


def test_status_watches_by_itself_where_no_service_runs(site: Site) -> None:
    command = [sys.executable, "-m", "provisioner", "status", "--watch", "--interval", "1s", "--json"]
    with subprocess.Popen(command, env=site.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline())["nodes"] for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert [(each["node"], each["state"]) for each in second] == [(each["node"], "absent") for each in first]
