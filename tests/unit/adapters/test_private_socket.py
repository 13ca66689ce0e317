"""Commands beside a service: through it, or alone where there is none; never beside one that is merely slow."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer

import pytest
from click.testing import CliRunner

from provisioner.adapters.web.private_socket import SOCKET, PrivateService, ServiceGone
from provisioner.cli.app import root
from provisioner.errors import NotReadyError, RefusedError
from provisioner.fleet import Fleet
from provisioner.remote import power_over, service_of
from provisioner.serving.door import only_one, private_socket
from provisioner.settings import Settings
from tests.fleets import FLEET, fleet_from


@contextmanager
def answering(folder: Path, status: int, **value: object) -> Iterator[list[str]]:
    """Have a service answer everything like that; yield what it was told to do."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with UnixStreamServer(str(folder / SOCKET), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def beside(tmp_path: Path) -> Fleet:
    """The fleet of a command whose state folder is that of a service."""
    fleet_from(tmp_path)
    return Fleet.load(tmp_path / "fleet.yml", settings=Settings(tmp_path / "fleet.yml", tmp_path))


def named(fleet: Fleet) -> str:
    return str(fleet.spec.path.resolve())


def test_a_service_of_the_same_fleet_file_is_the_one_to_ask(beside: Fleet) -> None:
    with answering(beside.settings.state_folder, 200, fleet_file=named(beside), draining=False, pid=7):
        found = service_of(beside)
    assert found is not None
    assert found[1] == "7"


def test_a_service_of_another_fleet_file_is_none_of_ours(beside: Fleet) -> None:
    with answering(beside.settings.state_folder, 200, fleet_file="/another/fleet.yml", draining=False, pid=7):
        assert power_over(beside) is beside


def test_a_service_that_is_in_trouble_is_there_all_the_same(beside: Fleet) -> None:
    with (
        answering(beside.settings.state_folder, 500, detail="it broke"),
        pytest.raises(NotReadyError, match="it answers 500"),
    ):
        power_over(beside)


def test_a_service_that_says_that_it_ends_is_waited_for(beside: Fleet) -> None:
    with (
        answering(beside.settings.state_folder, 200, fleet_file=named(beside), draining=True, pid=7),
        pytest.raises(NotReadyError, match="it is ending") as caught,
    ):
        power_over(beside)
    assert caught.value.retryable


def test_a_service_that_listens_no_more_and_lives_still_serves_somebody(beside: Fleet) -> None:
    folder = beside.settings.state_folder
    with only_one(folder), private_socket(folder) as opened:
        opened.close()
        with pytest.raises(NotReadyError, match="beginning or ending"):
            power_over(beside)
    assert power_over(beside) is beside


def test_a_command_acts_itself_where_the_service_was_killed(beside: Fleet) -> None:
    folder = beside.settings.state_folder
    with only_one(folder):
        pass
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / SOCKET))
    assert not PrivateService(folder).has_process()
    assert power_over(beside) is beside


def test_a_socket_that_was_left_by_a_killed_service_has_nobody_behind_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET))
    with pytest.raises(ServiceGone) as gone:
        PrivateService(tmp_path).ask("GET", "/api/service")
    assert not gone.value.was_there


def test_a_service_that_does_not_answer_in_time_is_there_all_the_same(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / SOCKET))
        busy.listen(1)
        with pytest.raises(ServiceGone) as gone:
            PrivateService(tmp_path).ask("GET", "/api/service", seconds=0.05)
    assert gone.value.was_there


def test_a_wake_of_a_model_is_one_wake_of_the_node_that_a_command_alone_would_wake(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    fleet_from(tmp_path, "".join(line for line in FLEET.splitlines(keepends=True) if "llm-gpu-02" not in line))
    fleet = Fleet.load(path, settings=Settings(path, tmp_path))
    model = "gemma-2-2b-it.gguf"
    endpoint = {"node": "llm-gpu-01", "url": "http://10.10.90.1:8080/v1", "api": "openai", "model": model}
    report = {"started": True, "seconds": 61.0, "added_seconds": 0.1, "api_calls": 4, "reason": "its VM is off"}
    about = {"fleet_file": str(path.resolve()), "draining": False, "pid": 7, "last_event": 0}
    with answering(tmp_path, 200, endpoint=endpoint, **report, **about) as asked:
        woken = power_over(fleet).wake_report(model=model)
    assert asked == ["/api/nodes/llm-gpu-01/wake"]
    assert (woken.started, woken.seconds, woken.endpoint.node) == (True, 61.0, "llm-gpu-01")


@pytest.mark.parametrize("words", [("--survives-stop",), ("--mode", "small")])
def test_what_would_take_a_node_from_under_its_requests_is_refused_beside_a_service(
    beside: Fleet, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    folder = beside.settings.state_folder
    monkeypatch.setenv("PROVISIONER_FLEET", named(beside))
    monkeypatch.setenv("PROVISIONER_STATE", str(folder))
    with answering(folder, 200, fleet_file=named(beside), draining=False, pid=7):
        error = CliRunner().invoke(root, ["test", "llm-gpu-01", *words]).exception
    assert isinstance(error, RefusedError)
    assert "beside the control service (process 7)" in error.summary
    assert "stop the service" in error.next_step
