"""The gateway inside the service: chats that wake a node, and a service that is killed while they are held."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from provisioner.adapters.storage.ledger import SqliteLedger
from provisioner.domain.ledger import Outcome
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import Client, running_service
from tests.lab.support import NODE, Site, site_for
from tests.lab.test_modes import with_modes

MODEL = "tiny.gguf"


@pytest.fixture
def asleep(tmp_path: Path) -> Iterator[Site]:
    """A lab whose one node sleeps and takes a while to wake."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", boot_seconds=1, engine_seconds=1) as lab:
        site = site_for(lab, tmp_path, images)
        fleet = site.fleet()
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        lab.forget_requests()
        yield site


def starts(site: Site) -> int:
    return sum(each["path"].endswith("/status/start") for each in site.lab.requests())


def chat(client: Client, *, stream: bool) -> tuple[list[tuple[float, bytes]], int]:
    """Return each line of an answer with when it came, and the status."""
    body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "Say hello."}]}
    begun = time.monotonic()
    with closing(client.connect()) as connection:
        heads = client.heads({"Content-Type": "application/json"})
        connection.request("POST", "/v1/chat/completions", json.dumps(body), heads)
        answer = connection.getresponse()
        return [(time.monotonic() - begun, line.strip()) for line in answer if line.strip()], answer.status


def words(lines: list[tuple[float, bytes]]) -> str:
    chunks = [json.loads(line[6:]) for _, line in lines if line.startswith(b"data: {")]
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks)


def test_a_streamed_chat_wakes_a_node_and_is_told_so_meanwhile(asleep: Site) -> None:
    with running_service(asleep) as running:
        lines, status = chat(running.client, stream=True)
        assert status == 200
        assert lines[0][0] < 2.0
        assert lines[0][1].startswith(f": {NODE} is ".encode())
        assert words(lines) == "a small light woke in the rack and said that it was ready to think about"
        assert lines[-1][1] == b"data: [DONE]"
        assert starts(asleep) == 1
        seen = running.client.get(f"/api/nodes/{NODE}").value
        assert (seen["phase"], seen["traffic"]["running"]) == ("ready", 0)
        assert running.stop() == 0
    (entry,) = SqliteLedger(asleep.settings.state_folder / "provisioner.sqlite").last(5)
    assert (entry.outcome, entry.node, entry.woke, entry.caller) == (Outcome.ANSWERED, NODE, True, "local")


def test_many_who_wait_share_one_start(asleep: Site) -> None:
    with running_service(asleep) as running:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(chat(running.client, stream=False)[1])) for _ in range(20)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert statuses == [200] * 20
    assert starts(asleep) == 1


def test_awake_hours_and_a_request_share_one_start(asleep: Site) -> None:
    days = 'awake: [{days: Mon-Sun, from: "00:00", to: "24:00"}], time_zone: UTC, pre_wake: 5m'
    asleep.fleet(lambda text: text.replace(f"  {NODE}: {{", f"  {NODE}: {{{days}, "))
    with running_service(asleep) as running:
        assert running.client.get(f"/api/nodes/{NODE}").value["phase"] == "asleep"
        (decision,) = running.client.post("/api/idle", {}).value["decisions"]
        assert (decision["verdict"], "its hours" in decision["reason"]) == ("wake", True)
        for event in running.client.events(f"?after=0&node={NODE}"):
            if (event["kind"], event["phase"]) == ("state", "booting"):
                break
        lines, status = chat(running.client, stream=True)
        assert (status, lines[-1][1]) == (200, b"data: [DONE]")
        (decision,) = running.client.post("/api/idle", {}).value["decisions"]
        assert decision["verdict"] == "stay"
        last = running.client.get("/api/service").value["last_event"]
        wakes = []
        for event in running.client.events(f"?after=0&node={NODE}"):
            wakes += [event["phase"]] if event["kind"] == "wake" else []
            if wakes[-1:] == ["done"] or event["number"] >= last:
                break
        assert wakes == ["started", "done"]
    assert starts(asleep) == 1


def test_a_killed_service_is_continued_by_the_next_one(asleep: Site) -> None:
    """A client whose connection the kill broke asks once more, and is answered; nothing was started twice."""
    outcomes: list[int | str] = []

    with running_service(asleep) as first:

        def ask() -> None:
            with suppress(OSError, http.client.HTTPException):
                lines, status = chat(first.client, stream=True)
                if lines and lines[-1][1] == b"data: [DONE]":
                    outcomes.append(status)
                    return
            outcomes.append("broken")

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for each in threads:
            each.start()
        for event in first.client.events(f"?after=0&node={NODE}"):
            if (event["kind"], event["phase"]) == ("state", "booting"):
                break
        first.kill()
        for each in threads:
            each.join()
    assert outcomes == ["broken"] * 5
    with running_service(asleep) as second:
        lines, status = chat(second.client, stream=True)
        assert (status, words(lines)[:7]) == (200, "a small")
        numbers = [each["number"] for each, _ in zip(second.client.events("?after=0"), range(6), strict=False)]
        assert numbers == sorted(set(numbers))
    assert starts(asleep) == 1


def test_a_stop_lets_held_requests_finish(asleep: Site) -> None:
    with running_service(asleep) as running:
        answers: list[tuple[list[tuple[float, bytes]], int]] = []
        asking = threading.Thread(target=lambda: answers.append(chat(running.client, stream=True)))
        asking.start()
        for event in running.client.events(f"?after=0&node={NODE}"):
            if (event["kind"], event["phase"]) == ("state", "booting"):
                break
        assert running.stop() == 0
        asking.join()
    ((lines, status),) = answers
    assert (status, lines[-1][1]) == (200, b"data: [DONE]")


def test_a_service_that_begins_sends_nobody_to_a_node_on_its_way_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before it was killed in the midst of a sleep; its guest still answers, and will be gone in a moment."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        site = site_for(lab, tmp_path, images)
        site.fleet().up(NODE)
        lab.forget_requests()
        goes_off, told = lab.lab.backend.powerdown, []

        async def takes_its_time(vmid: int) -> None:
            told.append(vmid)

        monkeypatch.setattr(lab.lab.backend, "powerdown", takes_its_time)
        with running_service(site) as first:

            def sleep() -> None:
                with suppress(OSError, http.client.HTTPException):
                    first.client.post(f"/api/nodes/{NODE}/sleep", {})

            threading.Thread(target=sleep).start()
            until(lambda: bool(told))
            first.kill()
        with running_service(site) as second:
            assert second.client.get(f"/api/nodes/{NODE}").value["phase"] == "draining"
            answers: list[tuple[list[tuple[float, bytes]], int]] = []
            asking = threading.Thread(target=lambda: answers.append(chat(second.client, stream=True)))
            asking.start()
            until(lambda: second.client.get(f"/api/nodes/{NODE}").value["traffic"]["waiting"] == 1)
            lab.run(goes_off(told[0]))
            asking.join()
            ((lines, status),) = answers
            assert (status, lines[-1][1]) == (200, b"data: [DONE]")
            assert starts(site) == 1


def test_the_ollama_client_wakes_an_ollama_and_reads_over_the_wait(tmp_path: Path) -> None:
    ollama = pytest.importorskip("ollama", reason="the ollama package is not installed")
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", boot_seconds=2) as lab:
        site = site_for(lab, tmp_path, images)
        fleet = site.fleet(lambda text: with_modes(text, "chat"))
        fleet.up(NODE)
        fleet.sleep(NODE, force=True)
        lab.forget_requests()
        with running_service(site) as running, ollama.Client(host=running.client.url + "/ollama") as client:
            assert [model.model for model in client.list().models] == ["llama3.1:8b", "mistral:7b"]
            assert client.ps().models == []
            question = [{"role": "user", "content": "Say hello."}]
            parts = list(client.chat(model="mistral:7b", messages=question, stream=True))
            assert parts[-1].done
            assert "".join(part.message.content or "" for part in parts)
            assert [model.model for model in client.ps().models] == ["llama3.1:8b", "mistral:7b"]
        assert starts(site) == 1


def until(claim: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < end
        time.sleep(0.01)
