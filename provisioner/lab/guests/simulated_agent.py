"""The guest agent of a simulated guest, with the handful of programs that such a guest has."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner.lab.guests.base import AgentRefused
from provisioner.lab.guests.simulated_disk import CLOUD_INIT_OFF, SimulatedDisk
from provisioner.lab.guests.simulated_gpu import ENGINE_PID, tells_of_gpus
from provisioner.lab.guests.simulated_journal import Entry, journalctl
from provisioner.lab.guests.simulated_models import models_answer, tells_of_models
from provisioner.lab.guests.simulated_units import lay_down, systemctl

_HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
_GROUP = "/system.slice/engine.service"
_PROCESSES = f"/sys/fs/cgroup{_GROUP}/cgroup.procs"
_CLOUD_INIT_RESULT = "/run/cloud-init/result.json"


@dataclass(frozen=True, slots=True)
class _Finished:
    """A program that has run."""

    code: int
    out: str = ""
    error: str = ""


class SimulatedAgent:
    """Answers agent commands for one running guest."""

    def __init__(
        self,
        *,
        hostname: str,
        address: str | None,
        prefix: int,
        mac: str,
        disk: SimulatedDisk,
        disk_path: Path | None,
        configured: Callable[[], None],
        journal: Callable[[], Sequence[Entry]] = tuple,
        faults: frozenset[str] = frozenset(),
        gpus: Callable[[Sequence[str]], str] = lambda words: "=== end 0\n",
    ) -> None:
        self._hostname = hostname
        self._address = address
        self._prefix = prefix
        self._mac = mac
        self._disk = disk
        self._disk_path = disk_path
        self._configured = configured
        self._journal = journal
        self._faults = faults
        self._gpus = gpus
        self._programs: dict[int, _Finished] = {}
        self._next_pid = 1000
        self._open_files: dict[int, bytes] = {}
        self._next_handle = 1000

    def note_stored(self, models: list[str]) -> None:
        """Write to the disk which models Ollama has stored."""
        self._disk.stored = models
        self._save()

    def answer(self, command: str, arguments: Mapping[str, object]) -> object:
        """Return what the agent says. Raises AgentRefused."""
        match command:
            case "guest-ping" | "guest-sync":
                return {}
            case "guest-network-get-interfaces":
                return self._interfaces()
            case "guest-get-osinfo":
                return {
                    "id": "ubuntu",
                    "name": "Ubuntu",
                    "pretty-name": "Ubuntu 24.04.3 LTS",
                    "version": "24.04.3 LTS (Noble Numbat)",
                    "version-id": "24.04",
                    "kernel-release": "6.8.0-85-generic",
                    "kernel-version": "#85-Ubuntu SMP PREEMPT_DYNAMIC",
                    "machine": "x86_64",
                }
            case "guest-get-host-name":
                return {"host-name": self._hostname}
            case "guest-get-time":
                return time.time_ns()
            case "guest-get-timezone":
                return {"offset": 0, "zone": "UTC"}
            case "guest-info":
                return {"version": "8.2.2", "supported_commands": []}
            case "guest-get-users" | "guest-get-fsinfo" | "guest-get-vcpus":
                return []
            case "guest-fsfreeze-status":
                return "thawed"
            case "guest-fsfreeze-freeze" | "guest-fsfreeze-thaw":
                return 1
            case "guest-fstrim":
                return {"paths": []}
            case "guest-file-open":
                return self._open(str(arguments["path"]))
            case "guest-file-seek":
                handle = int(str(arguments["handle"]))
                self._open_files[handle] = self._contents(handle)[int(str(arguments["offset"])) :]
                return {"position": int(str(arguments["offset"])), "eof": False}
            case "guest-file-read":
                return self._read(int(str(arguments["handle"])), int(str(arguments.get("count", 4096))))
            case "guest-file-close":
                self._contents(int(str(arguments["handle"])))
                del self._open_files[int(str(arguments["handle"]))]
                return {}
            case "guest-exec":
                return self._execute(arguments)
            case "guest-exec-status":
                return self._status(arguments)
        raise AgentRefused(f"The command {command} has not been found")

    def _interfaces(self) -> list[dict[str, object]]:
        loopback: dict[str, object] = {
            "name": "lo",
            "hardware-address": "00:00:00:00:00:00",
            "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}],
        }
        addresses = []
        if self._address is not None:
            addresses = [{"ip-address-type": "ipv4", "ip-address": self._address, "prefix": self._prefix}]
        return [loopback, {"name": "eth0", "hardware-address": self._mac.lower(), "ip-addresses": addresses}]

    def _open(self, path: str) -> int:
        there = dict.fromkeys(self._disk.files, b"")
        if CLOUD_INIT_OFF not in self._disk.files:
            there[_CLOUD_INIT_RESULT] = json.dumps({"v1": {"datasource": "DataSourceNoCloud", "errors": []}}).encode()
        if self._disk.host_key is not None:
            there[_HOST_KEY] = f"{self._disk.host_key}\n".encode()
        if path not in there:
            raise AgentRefused(f"failed to open file '{path}' (mode: 'rb'): No such file or directory")
        self._next_handle += 1
        self._open_files[self._next_handle] = there[path]
        return self._next_handle

    def _contents(self, handle: int) -> bytes:
        if handle not in self._open_files:
            raise AgentRefused(f"handle '{handle}' has not been found")
        return self._open_files[handle]

    def _read(self, handle: int, count: int) -> dict[str, object]:
        content = self._contents(handle)
        part, self._open_files[handle] = content[:count], content[count:]
        return {"count": len(part), "buf-b64": base64.b64encode(part).decode(), "eof": len(content) <= count}

    def _execute(self, arguments: Mapping[str, object]) -> dict[str, int]:
        rest = arguments.get("arg")
        words = (
            [str(arguments["path"]), *(str(word) for word in rest)]
            if isinstance(rest, list)
            else [str(arguments["path"])]
        )
        given = base64.b64decode(str(arguments.get("input-data", ""))).decode("utf-8", "replace")
        self._next_pid += 1
        self._programs[self._next_pid] = self._run(words, given)
        return {"pid": self._next_pid}

    def _status(self, arguments: Mapping[str, object]) -> dict[str, object]:
        program = self._programs.get(int(str(arguments.get("pid", 0))))
        if program is None:
            raise AgentRefused(f"Invalid parameter 'pid': PID {arguments.get('pid')} does not exist")
        status: dict[str, object] = {"exited": True, "exitcode": program.code}
        for key, text in (("out-data", program.out), ("err-data", program.error)):
            if text:
                status[key] = base64.b64encode(text.encode()).decode()
        return status

    def _run(self, words: Sequence[str], given: str) -> _Finished:
        program = words[0].rpartition("/")[2]
        match program:
            case "cloud-init":
                return self._cloud_init(words[1:])
            case "provisioner-simulated-configure":
                return self._configure(given)
            case "systemctl":
                return self._systemctl(words[1:])
            case "journalctl":
                return _Finished(0, journalctl(words[1:], self._journal()))
            case "python3" if tells_of_models(words):
                said = models_answer(words, self._disk)
                self._save()
                return _Finished(0, said)
            case "sh" if tells_of_gpus(words):
                return _Finished(0, self._gpus(words))
            case "cat" if words[1:] == [_PROCESSES]:
                return _Finished(0, f"{ENGINE_PID}\n")
            case "cat" if words[1:] == ["/proc/loadavg"]:
                return _Finished(0, "0.10 0.20 0.30 1/100 1234\n")
            case "hostname":
                return _Finished(0, f"{self._hostname}\n")
            case "true":
                return _Finished(0)
            case "test" if words[1:2] == ["-e"]:
                return _Finished(0 if words[2:] and words[2] in self._disk.files else 1)
            case "touch":
                self._disk.files = sorted({*self._disk.files, *words[1:]})
                self._save()
                return _Finished(0)
        return _Finished(127, error=f"{words[0]}: command not found\n")

    def _cloud_init(self, words: Sequence[str]) -> _Finished:
        if not words or words[0] != "status":
            return _Finished(2, error="usage: cloud-init status [--wait] [--format json]\n")
        status = "disabled" if CLOUD_INIT_OFF in self._disk.files else "done"
        if "json" in words:
            shown: dict[str, object] = {
                "status": status,
                "extended_status": status,
                "boot_status_code": "disabled-by-marker-file" if status == "disabled" else "enabled-by-generator",
                "detail": "",
                "errors": [],
                "recoverable_errors": {},
                "datasource": "" if status == "disabled" else "nocloud",
            }
            return _Finished(0, json.dumps(shown) + "\n")
        return _Finished(0, f"status: {status}\n")

    def _configure(self, given: str) -> _Finished:
        """Install an engine on the disk; the same wish a second time changes nothing."""
        try:
            wanted = json.loads(given)
        except ValueError:
            return _Finished(2, error="the input is no JSON\n")
        if not isinstance(wanted, dict):
            return _Finished(2, error="the input is no JSON object\n")
        before = self._disk.engine
        changed = lay_down(self._disk, wanted)
        if changed:
            self._save()
        if self._disk.engine is not before:
            self._configured()
        return _Finished(0, json.dumps({"changed": int(changed)}) + "\n")

    def _save(self) -> None:
        if self._disk_path is not None:
            self._disk.write(self._disk_path)

    def _systemctl(self, words: Sequence[str]) -> _Finished:
        before = self._disk.engine
        said = systemctl(self._disk, words, self._faults)
        self._save()
        if self._disk.engine is not before:
            self._configured()
        group = f"ControlGroup={_GROUP}\n" if words[:1] == ["show"] else ""
        return _Finished(said.code, said.out + group, said.error)
