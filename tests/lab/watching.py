"""A real Prometheus and a real InfluxDB on ports of their own, for as long as a test needs them."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from provisioner.waiting import Pace

_SECONDS = 60.0
_Found = TypeVar("_Found")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        return int(opened.getsockname()[1])


def until(found: Callable[[], _Found], what: str, seconds: float = _SECONDS) -> _Found:
    """Ask until there is something."""
    deadline = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(Pace().first)


def fetched(url: str, data: bytes | None = None) -> tuple[int, str]:
    """Return status and text; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except (urllib.error.URLError, OSError):
        return 0, ""


@contextmanager
def running(command: list[str | Path], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; it is gone afterwards."""
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True)
class Prometheus:
    """One that answers."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression gives now."""
        status, text = fetched(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        assert status == 200, f"{expression}: {text}"
        found: list[dict[str, Any]] = json.loads(text)["data"]["result"]
        return found

    def targets(self) -> dict[str, list[dict[str, Any]]]:
        """Return what it scrapes, by job."""
        found: dict[str, list[dict[str, Any]]] = {}
        for each in json.loads(fetched(f"{self.url}/api/v1/targets?state=active")[1])["data"]["activeTargets"]:
            found.setdefault(each["labels"]["job"], []).append(each)
        return found


@contextmanager
def running_prometheus(folder: Path, configuration: Path) -> Iterator[Prometheus]:
    """Run the Debian package's."""
    url = f"http://127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        "prometheus",
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with running(command, folder):
        until(lambda: fetched(f"{url}/-/ready")[0] == 200, "Prometheus")
        yield Prometheus(url)


@contextmanager
def running_influxdb(folder: Path) -> Iterator[str]:
    """Run the Debian package's, version 1; return where it answers."""
    url = f"http://127.0.0.1:{free_port()}"
    configuration = folder / "influxdb.conf"
    configuration.write_text(
        f"""\
reporting-disabled = true
bind-address = "127.0.0.1:{free_port()}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
[http]
bind-address = "{url.removeprefix("http://")}"
"""
    )
    with running(["influxd", "-config", configuration], folder):
        until(lambda: fetched(f"{url}/ping")[0] == 204, "InfluxDB")
        yield url
