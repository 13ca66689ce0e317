"""The control service before a real guest with a real engine, asked by the clients that people use.

One service and one guest live through the tests, in their order.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from provisioner.demo.lab_process import processes_using
from provisioner.ports.guest_shell import GuestAway
from tests.lab.real_scene import Scene
from tests.lab.serving import Client, RunningService, running_service
from tests.lab.support import NODE

openai = pytest.importorskip("openai", reason="the openai package is not installed")
ollama = pytest.importorskip("ollama", reason="the ollama package is not installed")

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

MODEL = "tiny.gguf"
HELLO = [{"role": "user", "content": "Say hello."}]
SHORT = {"model": MODEL, "stream": True, "messages": HELLO, "max_tokens": 8}
# The model is made of chance, and might have said all that it has to say at once.
TALKATIVE = {"ignore_eos": True}
_BOOT_SECONDS = 300.0
_PATIENCE_SECONDS = 300.0
Line = tuple[float, str]


@pytest.fixture(scope="module")
def setting(real_node: Scene) -> Iterator[Scene]:
    """The node awake, in a fleet whose nodes sleep when they have been quiet for a second."""
    before = real_node.edit(defaults={"idle_after": "1s", "min_uptime": "1s", "shutdown_within": "20s"})
    yield real_node
    real_node.fleet_file.write_text(before)


@pytest.fixture(scope="module")
def service(setting: Scene) -> Iterator[RunningService]:
    with running_service(setting) as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Client:
    return service.client


@pytest.fixture
def gpt(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=client.url + "/v1", api_key="none", max_retries=0, timeout=_BOOT_SECONDS) as made:
        yield made


def phase(client: Client) -> str:
    return str(client.get(f"/api/nodes/{NODE}").value["phase"])


def is_healthy() -> bool:
    try:
        with urllib.request.urlopen("http://127.10.90.1:8080/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError as error:
        # Silence may be a busy machine's; one that goes off hangs up, or is not there.
        return isinstance(getattr(error, "reason", error), TimeoutError)


def until(claim: Callable[[], object], *, seen: Callable[[], object] = lambda: "") -> None:
    """Wait until something is so; `seen` says what was there instead, when it never is."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not claim():
        assert time.monotonic() < deadline, seen()
        time.sleep(0.05)


def asked_with_curl(url: str, body: dict[str, object]) -> Iterator[Line]:
    """Ask as one does at a prompt; yield the lines of the answer, each with the seconds since it was asked for."""
    command = ["curl", "-sSN", "--max-time", str(_BOOT_SECONDS), f"{url}/v1/chat/completions"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                yield time.monotonic() - began, line.strip()
    assert process.returncode == 0


def said(lines: list[Line]) -> str:
    chunks = [json.loads(line[6:]) for _, line in lines if line.startswith("data: {")]
    assert not any("error" in each for each in chunks), chunks
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each["choices"])


class Stream(threading.Thread):
    """A client that reads a stream beside us; once more from the beginning, if its connection breaks.

    `url` is asked where to go before each try, with how many were broken.
    """

    def __init__(self, url: Callable[[int], str], body: dict[str, object], *, tries: int = 1) -> None:
        super().__init__(daemon=True)
        self.lines: list[Line] = []
        self.broken = 0
        self._url = url
        self._body = body
        self._tries = tries
        self.start()

    def run(self) -> None:
        for _ in range(self._tries):
            self.lines.clear()
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._read()
            if self.lines and self.lines[-1][1] == "data: [DONE]":
                return
            self.broken += 1

    def _read(self) -> None:
        began = time.monotonic()
        with closing(Client(self._url(self.broken)).connect(_BOOT_SECONDS)) as connection:
            heads = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(self._body), heads)
            for line in connection.getresponse():
                if line.strip():
                    self.lines.append((time.monotonic() - began, line.decode().strip()))

    @property
    def is_whole(self) -> bool:
        return bool(self.lines) and self.lines[-1][1] == "data: [DONE]" and bool(said(self.lines))

    def finish(self) -> None:
        self.join(_BOOT_SECONDS)
        assert not self.is_alive()


def test_an_idle_pass_shuts_the_guest_down_through_its_own_agent(setting: Scene, client: Client) -> None:
    # Without its power button only the agent is left.
    ignored = "mkdir -p /run/systemd/logind.conf.d && printf '[Login]\\nHandlePowerKey=ignore\\n' >"
    setting.by_agent(f"{ignored} /run/systemd/logind.conf.d/none.conf && systemctl restart systemd-logind")
    setting.forget_requests()
    verdicts: list[dict[str, Any]] = []

    def sleeps() -> bool:
        (decision,) = client.post("/api/idle", {}).value["decisions"]
        verdicts.append(decision)
        # On a busy machine the agent may not answer in time, and there is no button: the next pass tries again.
        assert decision["verdict"] in ("stay", "sleep", "failed"), verdicts
        return decision["verdict"] == "sleep"

    until(sleeps, seen=lambda: verdicts[-3:])
    assert client.get(f"/api/nodes/{NODE}").value["phase"] == "asleep", verdicts
    assert setting.asked("/status/shutdown") == 1
    assert setting.asked("/status/stop") == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_streamed_chat_wakes_the_guest_and_is_kept_alive_meanwhile(setting: Scene, client: Client) -> None:
    if phase(client) != "asleep":
        client.post(f"/api/nodes/{NODE}/sleep", {"force": True})
    setting.forget_requests()
    lines: list[Line] = []
    for at, line in asked_with_curl(client.url, SHORT):
        lines.append((at, line))
        print(f"{at:7.3f} s  {line}")
    assert lines[0][0] < 2.0
    assert lines[0][1].startswith(f": {NODE} is ")
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(lines)]
    assert max(gaps) < 10.0
    assert sum(line.startswith(f": {NODE} is ") for _, line in lines) >= 2
    assert said(lines)
    assert lines[-1][1] == "data: [DONE]"
    assert setting.asked("/status/start") == 1


def test_the_openai_client_chats_streams_and_lists(gpt: openai.OpenAI) -> None:
    chat = gpt.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8)
    assert chat.choices[0].message.content
    stream = gpt.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert [model.id for model in gpt.models.list()] == [MODEL]


def test_the_ollama_client_chats_streams_and_lists(client: Client) -> None:
    few = {"num_predict": 8}
    with ollama.Client(host=client.url + "/ollama") as made:
        assert made.chat(model=MODEL, messages=HELLO, options=few).message.content
        parts = list(made.chat(model=MODEL, messages=HELLO, options=few, stream=True))
        assert "".join(part.message.content or "" for part in parts)
        assert parts[-1].done
        assert [model.model for model in made.list().models] == [MODEL]


def test_an_engine_killed_in_mid_stream_is_named_and_the_next_request_is_held(
    setting: Scene, client: Client, gpt: openai.OpenAI
) -> None:
    stream = gpt.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=200, stream=True, extra_body=TALKATIVE)
    heard = 0

    def listen() -> None:
        nonlocal heard
        for chunk in stream:
            heard += bool(chunk.choices)
            if heard == 3:
                setting.by_agent("systemctl kill --signal=KILL llm-small")

    with pytest.raises(openai.APIError, match=f"cannot finish the answer: {NODE} broke off"):
        listen()
    assert 3 <= heard < 200
    # Its unit starts it again, and who asks meanwhile is held.
    chat = gpt.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8)
    assert chat.choices[0].message.content
    assert phase(client) == "ready"


def test_a_guest_that_is_switched_off_from_inside_is_woken_by_the_next_request(
    setting: Scene, gpt: openai.OpenAI
) -> None:
    setting.forget_requests()
    with contextlib.suppress(AssertionError, GuestAway):
        # It may be gone before the agent can say so.
        setting.by_agent("systemctl poweroff --no-block")
    # What it has begun to answer by then nobody can finish; from here on it is on its way down.
    until(lambda: not is_healthy())
    stream = gpt.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert setting.asked("/status/start") == 1


class TestAGuestThatHangs:
    """Its QEMU is stopped: it neither answers nor goes off, as one whose kernel has locked up."""

    @pytest.fixture
    def halted(self, setting: Scene) -> Iterator[int]:
        (pid,) = [int(line.split(":")[0]) for line in processes_using(setting.folder) if "qemu-system" in line]
        os.kill(pid, signal.SIGSTOP)
        yield pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def test_who_asks_is_held_until_it_goes_on(self, client: Client, halted: int) -> None:
        held = Stream(lambda broken: client.url, SHORT)
        until(lambda: len(held.lines) >= 2)
        (decision,) = client.post("/api/idle", {}).value["decisions"]
        assert decision["verdict"] == "stay"
        os.kill(halted, signal.SIGCONT)
        held.finish()
        assert held.is_whole
        assert held.lines[0][0] < 2.0

    def test_its_power_is_cut_only_by_force_and_who_is_held_wakes_it_again(
        self, setting: Scene, client: Client, halted: int
    ) -> None:
        setting.forget_requests()
        refused = client.post(f"/api/nodes/{NODE}/sleep")
        assert refused.status == 409, refused.value
        assert setting.asked("/status/shutdown") == 0
        held = Stream(lambda broken: client.url, SHORT)
        until(lambda: held.lines)
        forced = client.post(f"/api/nodes/{NODE}/sleep", {"force": True})
        assert (forced.status, forced.value["was_running"]) == (200, True), forced.value
        held.finish()
        assert held.is_whole
        assert [setting.asked(f"/status/{act}") for act in ("shutdown", "stop", "start")] == [1, 1, 1]


def test_a_killed_service_loses_nobody_and_starts_nothing_twice(setting: Scene, service: RunningService) -> None:
    """A client whose connection the kill broke asks once more, as soon as the next service is there."""
    if phase(service.client) != "asleep":
        service.client.post(f"/api/nodes/{NODE}/sleep", {"force": True})
    started = setting.starts()
    urls = [service.client.url]
    is_there = threading.Event()

    def url(broken: int) -> str:
        if broken:
            is_there.wait(_BOOT_SECONDS)
        return urls[-1]

    before = service.client.get("/api/service").value["last_event"]
    streams = [Stream(url, SHORT, tries=2) for _ in range(5)]
    for event in service.client.events(f"?after={before}&node={NODE}"):
        if (event["kind"], event["phase"]) == ("state", "booting"):
            break
    until(lambda: all(each.lines for each in streams))
    service.kill()
    with running_service(setting) as second:
        urls.append(second.client.url)
        is_there.set()
        for each in streams:
            each.finish()
        assert [(each.is_whole, each.broken) for each in streams] == [(True, 1)] * 5
        # The second may have asked before the first's start was to be seen; Proxmox then starts nothing.
        assert setting.starts() == started + 1
        assert second.stop() == 0
