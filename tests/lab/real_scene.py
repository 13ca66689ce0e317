"""A lab with real guests in a process of its own, as tests see it, and the command line that works on it."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.lab.support import NODE

if TYPE_CHECKING:
    from provisioner.adapters.proxmox.session import ProxmoxSession

VMID = 5001


@dataclass(frozen=True)
class Scene:
    """A lab with real guests in a process of its own, and the command line that works on it."""

    folder: Path
    fleet_file: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PROVISIONER_FLEET": str(self.fleet_file),
            "PROVISIONER_STATE": str(self.folder / "client"),
        }

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "provisioner", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def result(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout.splitlines()[-1])["result"]

    def error(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.run(*arguments, "--json", code=1).stdout.splitlines()[-1])
        return answer

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command that goes on; what it prints can be read while it does. It ends with the block."""
        with subprocess.Popen(
            [sys.executable, "-m", "provisioner", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            # One that says nothing must not keep us waiting for ever.
            patience = threading.Timer(120, process.kill)
            patience.start()
            try:
                yield process
            finally:
                patience.cancel()
                process.kill()

    def up_killed_at(self, step: str, phase: str, detail: str = "") -> list[str]:
        """Run `up`, kill -9 it at an event (one whose detail begins so); return the steps that it had begun."""
        begun = []
        with subprocess.Popen(
            [sys.executable, "-m", "provisioner", "up", NODE, "--json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line).get("event")
                assert event is not None, f"up ended before {step}: {line}"
                assert event["phase"] != "failed", event
                begun += [event["step"]] if event["phase"] == "started" else []
                if (event["step"], event["phase"]) == (step, phase) and event["detail"].startswith(detail):
                    os.kill(process.pid, signal.SIGKILL)
                    return begun
        raise AssertionError(f"up never came to {step}: {begun}")

    def edit(self, **sections: Any) -> str:
        """Merge sections into the fleet file; return the text as it was."""
        before = self.fleet_file.read_text()
        fleet = yaml.safe_load(before)
        for name, entries in sections.items():
            fleet[name].update(entries)
        self.fleet_file.write_text(yaml.safe_dump(fleet, sort_keys=False))
        return before

    def by_agent(self, line: str) -> None:
        """Run a line in the node's guest without logging in, as one does at a console."""
        from provisioner.adapters.proxmox.simulated_guests import AgentShell
        from provisioner.adapters.system_clock import SystemClock

        shell = AgentShell(self._session(), SystemClock(), f"nodes/pve1/qemu/{VMID}/agent")
        assert shell.run(["sh", "-c", line], seconds=30).exit_code == 0

    def starts(self) -> int:
        """Return how often the node's VM has been powered on; a start of one that runs already fails, and is none."""
        found = self._session().call("GET", "nodes/pve1/tasks", vmid=VMID, typefilter="qmstart")
        return sum(each.get("status") == "OK" for each in found)

    def _session(self) -> ProxmoxSession:
        from provisioner.adapters.proxmox.session import ProxmoxSession, TokenLogin
        from provisioner.adapters.secrets import read_secret
        from provisioner.fleet import Fleet

        (cluster,) = Fleet.load(self.fleet_file).spec.clusters.values()
        login = TokenLogin(cluster.token_id, read_secret(cluster.token_secret, subject="lab"))
        return ProxmoxSession(cluster.address, login)

    def forget_requests(self) -> None:
        """Have the lab count API requests anew."""
        self._lab("DELETE")

    def asked(self, ending: str) -> int:
        """Return how many requests to change something had paths that end so, since it counts."""
        return sum(each["method"] == "POST" and each["path"].endswith(ending) for each in self._lab("GET"))

    def _lab(self, method: str) -> Any:
        (cluster,) = yaml.safe_load(self.fleet_file.read_text())["clusters"].values()
        context = ssl.create_default_context(cafile=str(self.folder / "state" / "lab-cert.pem"))
        request = urllib.request.Request(f"{cluster['api']}/lab/requests", method=method)
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return json.load(answer)
