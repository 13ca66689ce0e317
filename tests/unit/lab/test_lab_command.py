"""`provisioner lab` as a process: what it prints and writes, and what a kill leaves."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from provisioner.cli.lab import lab as command
from provisioner.errors import InputError
from provisioner.lab.command import Wishes, serve


class LabCommand:
    """The command in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        program = "from provisioner.cli.lab import lab; lab()"
        places = ["--listen", "127.0.0.1:0", "--state-dir", str(folder / "state"), "--json"]
        outputs = ["--tokens-out", str(folder / "tokens.json"), "--fleet-out", str(folder / "fleet.yml")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *places, *outputs, *options], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.line: dict[str, Any] = json.loads(self.process.stdout.readline())

    def ask(self, method: str, path: str, **params: object) -> Any:
        token = json.loads((self.folder / "tokens.json").read_text())["provisioner@pve!fleet"]
        request = urllib.request.Request(
            f"{self.line['url']}/api2/json{path}",
            json.dumps(params).encode() if params or method != "GET" else None,
            {"Authorization": f"PVEAPIToken=provisioner@pve!fleet={token}", "Content-Type": "application/json"},
            method=method,
        )
        context = ssl.create_default_context(cafile=str(self.folder / "state" / "lab-cert.pem"))
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return json.load(answer)["data"]

    def wait(self, upid: str) -> str:
        while True:
            status = self.ask("GET", f"/nodes/pve1/tasks/{upid}/status")
            if status["status"] == "stopped":
                return str(status["exitstatus"])

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def test_state_survives_a_kill_and_the_fingerprint_stays(tmp_path: Path) -> None:
    first = LabCommand(tmp_path)
    assert first.line["pid"] == first.process.pid
    assert first.wait(first.ask("POST", "/nodes/pve1/qemu", vmid=5001, memory="512", scsi0="local-lvm:1")) == "OK"
    assert first.wait(first.ask("POST", "/nodes/pve1/qemu/5001/status/start")) == "OK"
    config = first.ask("GET", "/nodes/pve1/qemu/5001/config")
    assert first.end(signal.SIGKILL) == -signal.SIGKILL

    second = LabCommand(tmp_path)
    assert second.line["fingerprint"] == first.line["fingerprint"]
    assert second.ask("GET", "/nodes/pve1/qemu/5001/config") == config
    assert second.ask("GET", "/nodes/pve1/qemu/5001/status/current")["status"] == "running"
    assert second.end(signal.SIGTERM) == 0


def test_what_it_writes_is_private_and_fits(tmp_path: Path) -> None:
    running = LabCommand(tmp_path, "--pve", "8.4", "--stop-guests")
    assert running.ask("GET", "/version")["release"] == "8.4"
    assert running.end(signal.SIGINT) == 0
    for name in ("tokens.json", "fleet.secret"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    fleet = (tmp_path / "fleet.yml").read_text()
    assert running.line["fingerprint"] in fleet
    assert f"file:{tmp_path / 'fleet.secret'}" in fleet


def test_the_heavy_imports_wait_for_the_command() -> None:
    program = "import sys, provisioner.cli.lab; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_command_explains_itself() -> None:
    assert command.help
    assert command.epilog is not None
    assert "Example" in command.epilog


def test_a_taken_port_is_an_input_error_with_a_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError) as error:
            serve(Wishes(listen=listen, state_dir=tmp_path))
    assert error.value.summary.startswith(f"cannot listen on {listen}")


def test_a_fault_plan_from_a_file_strikes(tmp_path: Path) -> None:
    plan = tmp_path / "faults.yml"
    plan.write_text("seed: 7\nrules:\n  - {path: ^/version$, says: overloaded, times: 1}\n")
    running = LabCommand(tmp_path, "--faults", str(plan))
    with pytest.raises(urllib.error.HTTPError) as error:
        running.ask("GET", "/version")
    error.value.close()
    assert error.value.code == 503
    assert running.ask("GET", "/version")["release"] == "9.1"
    assert running.end(signal.SIGTERM) == 0


def test_a_wrong_fault_plan_is_refused_before_anything_listens(tmp_path: Path) -> None:
    plan = tmp_path / "faults.yml"
    plan.write_text("- {path: /version, delay: 1}\n- {task: qmstart, delay: soon}\n")
    with pytest.raises(InputError) as error:
        serve(Wishes(listen="127.0.0.1:0", state_dir=tmp_path / "state", faults_file=plan))
    assert "rule 2 has delay: 'soon'" in error.value.summary
    assert not (tmp_path / "state").exists()
