"""Registration from `up` to `destroy` by commands: a file that Prometheus reads, and an n8n that is away."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from provisioner.cli.app import root
from provisioner.errors import ProvisionerError
from tests.lab.serving import running_service
from tests.lab.support import NODE, Site


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    return tmp_path / "prometheus" / "gpu-nodes.json"


@pytest.fixture
def told(site: Site, targets: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose Prometheus is a file, and whose n8n is away."""
    # Port 9 is that of a service that nobody runs.
    n8n = "n8n: {url: http://127.0.0.1:9, api_key: env:N8N_API_KEY, webhook_key: env:N8N_HOOK}"
    entries = f"orchestrators: {{prometheus: {{targets_file: {targets}}}, {n8n}}}\n"
    site.fleet_file.write_text(site.fleet_file.read_text() + entries)
    for name in ("PROVISIONER_FLEET", "PROVISIONER_STATE"):
        monkeypatch.setenv(name, site.environment[name])
    monkeypatch.setenv("N8N_API_KEY", "key-0123456789")
    monkeypatch.setenv("N8N_HOOK", "hook-0123456789")
    return site


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(root, words)
    assert done.exit_code == code, (done.output, done.exception)
    return done


def results(*words: str, code: int) -> dict[str, Any]:
    lines = [json.loads(line) for line in run(*words, "--json", code=code).stdout.splitlines()]
    return {each["result"]["orchestrator"]: each["result"] for each in lines if "result" in each}


def test_up_registers_and_an_orchestrator_that_is_away_stops_nothing(told: Site, targets: Path) -> None:
    said = run("up", NODE).output
    assert f"{NODE} serves" in said
    assert "registered at Prometheus" in said
    assert "not registered at n8n: cannot reach n8n: connection refused" in said
    assert [each["labels"]["gpu_node"] for each in json.loads(targets.read_text())] == [NODE]
    status = run("status").output
    assert f"{NODE} not registered at n8n since " in status
    assert "(1 try): cannot reach n8n: connection refused" in status
    kept = {each["orchestrator"]: each for each in json.loads(run("status", "--json").stdout)["orchestrators"]}
    assert kept["prometheus"]["nodes"] == [NODE]
    assert (kept["n8n"]["nodes"], kept["n8n"]["tries"]) == ([], 1)

    shown = results("register", "--dry-run", code=1)
    assert (shown["prometheus"]["complete"], shown["n8n"]["complete"]) == (True, False)
    assert shown["n8n"]["error"]["summary"] == "cannot reach n8n: connection refused"
    again = results("register", NODE, code=1)
    assert (again["prometheus"]["complete"], again["prometheus"]["changed"]) == (True, False)
    targets.write_text("[]")
    assert "outdated" in run("register", "--dry-run", code=1).output
    assert results("register", code=1)["prometheus"]["changed"]

    gone = run("destroy", NODE, "--confirm", NODE).output
    assert "withdrawn at Prometheus" in gone
    assert "not withdrawn at n8n" in gone
    assert json.loads(targets.read_text()) == []


def test_the_service_says_on_its_page_and_in_its_api_who_could_not_be_told(told: Site) -> None:
    told.fleet().up(NODE)
    with running_service(told) as running:

        def tried_again() -> bool:
            (known,) = [
                each
                for each in running.client.get("/api/orchestrators").value["orchestrators"]
                if each["orchestrator"] == "n8n"
            ]
            assert known["trouble"].startswith(f"{NODE} not registered at n8n since ")
            return bool(known["tries"] > 1)

        deadline = time.monotonic() + 60
        while not tried_again():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "cannot reach n8n: connection refused" in str(running.client.get("/").value)


def test_what_cannot_be_registered_is_refused_before_anybody_is_told(told: Site, targets: Path) -> None:
    with pytest.raises(ProvisionerError, match="it has no VM yet"):
        CliRunner().invoke(root, ["register", NODE], catch_exceptions=False)
    run("register", "--dry-run", "--force", code=2)
    assert not targets.exists()


def test_without_orchestrators_it_says_how_to_name_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROVISIONER_FLEET", "PROVISIONER_STATE"):
        monkeypatch.setenv(name, site.environment[name])
    with pytest.raises(ProvisionerError, match="names no orchestrator"):
        CliRunner().invoke(root, ["register"], catch_exceptions=False)
    # For those who import them by hand, no orchestrator need be named.
    folder = site.folder / "flows"
    assert "next: import them" in run("export", "n8n", str(folder)).output
    assert len([json.loads(path.read_text()) for path in folder.iterdir()]) == 4
