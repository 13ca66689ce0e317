"""The record of requests in a real InfluxDB of version 1, through a service that runs."""

from __future__ import annotations

import json
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import running_service
from tests.lab.support import NODE, Site, site_for
from tests.lab.watching import fetched, running_influxdb, until

pytestmark = pytest.mark.skipif(
    shutil.which("influxd") is None, reason="influxd is not installed (Debian package influxdb)"
)

CHAT = {"model": "tiny.gguf", "messages": [{"role": "user", "content": "Say hello."}]}


@pytest.fixture
def asleep(tmp_path: Path) -> Iterator[Site]:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", boot_seconds=0.1, engine_seconds=0.1) as lab:
        site = site_for(lab, tmp_path, images)
        fleet = site.fleet()
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        yield site


def points(url: str) -> list[dict[str, Any]]:
    """Return every point, its columns by their names."""
    query = urllib.parse.urlencode({"db": "llm", "q": "select * from llm_request"})
    (result,) = json.loads(fetched(f"{url}/query?{query}")[1])["results"]
    return [
        dict(zip(series["columns"], row, strict=True))
        for series in result.get("series", [])
        for row in series["values"]
    ]


def test_each_request_is_a_point_and_none_is_lost_while_the_database_is_not_made_yet(
    asleep: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "influxdb"
    folder.mkdir()
    with running_influxdb(folder) as url:
        asleep.fleet(lambda text: f"{text}service: {{record: {{url: {url}, database: llm}}}}\n")
        with running_service(asleep) as service:
            assert service.client.post("/v1/chat/completions", CHAT).status == 200
            waiting = "provisioner_record_pending 1\n"
            until(lambda: waiting in service.client.get("/metrics").value, "a record that waits")
            made = fetched(f"{url}/query", urllib.parse.urlencode({"q": "CREATE DATABASE llm"}).encode())
            assert made[0] == 200
            assert service.client.post("/v1/chat/completions", CHAT).status == 200
            assert service.client.post("/v1/chat/completions", {**CHAT, "model": "other"}).status == 404
            assert service.stop() == 0
        found = until(lambda: len(points(url)) == 2 and points(url), "two points")
    assert {(each["node"], each["model"], each["success"], each["caller"]) for each in found} == {
        (NODE, "tiny.gguf", True, "local")
    }
    woken, warm = sorted(found, key=lambda each: each["time"])
    assert woken["waited_ms"] > 0
    assert warm["request_time_ms"] > 0
    assert warm["tokens_out"] >= 1
