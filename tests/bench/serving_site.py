"""A lab with simulated guests, nodes of one model each, and the real service as a process that is killed at will.

Services are forked from a process that has everything imported: as real as any other, and there at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.forks import FORKS
from tests.lab.support import BLOCK, Site, site_for

_START_SECONDS = 60.0
_FIRST_VMID = 6001


def be_a_service(environment: dict[str, str], listen: str, words: Path) -> None:
    """Be ``provisioner serve``."""
    from provisioner.cli import app

    os.environ.update(environment)
    command = ["provisioner", "serve", "--listen", listen]
    with words.open("a") as file, redirect_stdout(file), redirect_stderr(file), patch("sys.argv", command):
        app.main()


class Service:
    """The service as its supervisor sees it: killed, it is started again at once, on the same port."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.port = _free_port()
        self.kills = 0
        self.is_up = asyncio.Event()
        self._process: BaseProcess | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    async def start(self) -> None:
        """Return when it answers."""
        self._process = FORKS.Process(
            target=be_a_service,
            args=(self.site.environment, f"127.0.0.1:{self.port}", self.site.folder / "service.log"),
            daemon=True,
        )
        await asyncio.to_thread(self._process.start)
        until = time.monotonic() + _START_SECONDS
        while not await self._answers():
            assert time.monotonic() < until, (self.site.folder / "service.log").read_text()[-2000:]
            await asyncio.sleep(0.02)
        self.is_up.set()

    async def be_killed(self) -> None:
        """Kill it with -9, and start the next."""
        assert self._process is not None
        self.is_up.clear()
        self.kills += 1
        self._process.kill()
        await asyncio.to_thread(self._process.join)
        await self.start()

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.join, _START_SECONDS)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        with contextlib.suppress(OSError):
            writer.write(b"GET /api/service HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
            writer.close()
            return b" 200 " in line
        return False


@dataclass
class Powers:
    """Counts how often VMs were started and went off. A start of one that is on, or on its way, is a double start."""

    starts: Counter[int] = field(default_factory=Counter)
    ends: Counter[int] = field(default_factory=Counter)
    doubles: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, lab: RunningLab) -> None:
        """Begin to count, with every VM running."""
        note = lab.lab.journal.note

        def note_and_count(method: str, path: str, *rest: Any) -> None:
            note(method, path, *rest)
            if method == "POST" and path.endswith("/status/start"):
                vmid = int(path.split("/")[-3])
                with self._lock:
                    self.starts[vmid] += 1
                    if self.starts[vmid] > self.ends[vmid]:
                        self.doubles.append(vmid)

        async def ended(vmid: int) -> None:
            with self._lock:
                self.ends[vmid] += 1

        lab.lab.journal.note = note_and_count  # type: ignore[method-assign]
        lab.lab.backend.on_exit(ended)


@contextmanager
def serving_site(folder: Path, nodes: int, **lab_options: float) -> Iterator[Site]:
    """Start a lab and bring up nodes ``n1``, ``n2`` and following; node ``n1`` alone serves model ``n1.gguf``."""
    with served_folder(folder) as images, RunningLab(folder / "lab", **lab_options) as lab:  # type: ignore[arg-type]
        site = site_for(lab, folder, images)
        fleet = yaml.safe_load(site.fleet_file.read_text())
        model = fleet["models"]["tiny.gguf"]
        names = [f"n{number + 1}" for number in range(nodes)]
        fleet["models"] = {f"{name}.gguf": model for name in names}
        fleet["modes"] = {f"mode-{name}": {"engine": "llama.cpp", "model": f"{name}.gguf"} for name in names}
        gpus = list(next(iter(fleet["hypervisors"].values())).get("gpus", {}))
        fleet["nodes"] = {
            name: {
                "vmid": _FIRST_VMID + number,
                "hypervisor": "pve1",
                "modes": [f"mode-{name}"],
                "address": f"10.{BLOCK}.{10 + number}/16",
                "gateway": f"10.{BLOCK.partition('.')[0]}.0.1",
                "connect": {"address": f"127.{BLOCK}.{10 + number}"},
                # As many as there are cards have one: their slots are leased, and a lease outlives its owner's death.
                **({"gpus": [gpus[number]]} if number < len(gpus) else {}),
            }
            for number, name in enumerate(names)
        }
        site.fleet_file.write_text(yaml.safe_dump(fleet, sort_keys=False))
        done = subprocess.run(
            [sys.executable, "-m", "provisioner", "up", "--json"],
            env=site.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, json.dumps([done.stdout[-1500:], done.stderr[-1500:]])
        yield site


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        return int(opened.getsockname()[1])
