"""A real HAProxy before the service: ready nodes directly, and the gateway where somebody must be woken."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from provisioner.domain.service import read_listen_address
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import Answer, Client, running_service
from tests.lab.support import NODE, Site, site_for

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")

TOKEN = "token-of-the-tests-0123456789"
BODY = {"model": "tiny.gguf", "messages": [{"role": "user", "content": "Say hello."}]}


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        return int(opened.getsockname()[1])


@pytest.fixture
def asleep(tmp_path: Path) -> Iterator[Site]:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", boot_seconds=0.3, engine_seconds=0.3) as lab:
        site = site_for(lab, tmp_path, images)
        fleet = site.fleet()
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        yield site


@contextmanager
def running_haproxy(site: Site, port: int) -> Iterator[Client]:
    """Run HAProxy with what we write for it."""
    path = site.folder / "haproxy.cfg"
    path.write_text(site.fleet().export_haproxy(read_listen_address(f"127.0.0.1:{port}")))
    environment = {**site.environment, "T_ME": TOKEN}
    checked = subprocess.run(
        ["haproxy", "-c", "-f", path], env=environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr, checked.stderr
    with subprocess.Popen(["haproxy", "-db", "-f", path], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            client = Client(f"http://127.0.0.1:{port}", TOKEN)
            until(lambda: answers(client))
            yield client
        finally:
            process.terminate()


def answers(client: Client) -> bool:
    try:
        return client.get("/v1/models").status == 200
    except OSError:
        return False


def until(claim: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not claim():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def came_by_the_gateway(answer: Answer) -> bool:
    """Say whether the gateway has put its mark on an answer."""
    return answer.headers.get("x-provisioner-node") == NODE


def test_ready_nodes_are_asked_directly_and_sleeping_ones_woken_by_the_gateway(asleep: Site) -> None:
    ours, theirs = free_port(), free_port()
    service = f"service: {{listen: 127.0.0.1:{ours}, tokens: {{me: {{secret: env:T_ME, may: [admin]}}}}}}\n"
    asleep.fleet(lambda text: text + service)
    secret = {"T_ME": TOKEN}
    with (
        running_service(asleep, listen=f"127.0.0.1:{ours}", token=TOKEN, environment=secret) as running,
        running_haproxy(asleep, theirs) as client,
    ):
        assert Client(client.url, "nobody").post("/v1/chat/completions", BODY).status == 401

        woken = client.post("/v1/chat/completions", BODY)
        assert (woken.status, woken.value["model"], came_by_the_gateway(woken)) == (200, "tiny.gguf", True)

        def is_direct() -> bool:
            answer = client.post("/v1/chat/completions", BODY)
            assert answer.status == 200
            return not came_by_the_gateway(answer)

        until(is_direct)

        # Off it goes, and the very next request finds it gone before HAProxy has looked again.
        assert running.client.post(f"/api/nodes/{NODE}/sleep", {"force": True}).status == 200
        again = client.post("/v1/chat/completions", BODY)
        assert (again.status, again.value["model"], came_by_the_gateway(again)) == (200, "tiny.gguf", True)
        assert client.post("/v1/chat/completions", {**BODY, "model": "nothing"}).status == 404
