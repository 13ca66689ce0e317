"""The timer by which a guest goes off when nobody needs it: real HTTP, stand-ins for the tools that it asks."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from provisioner.adapters.files.shipped import shipped_folder
from provisioner.engines.registry import ENGINES

VLLM = """# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} %d.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:generation_tokens_total{engine="0",model_name="m"} %d.0
process_cpu_seconds_total %d
"""
LLAMA = """llamacpp:requests_processing %d
llamacpp:requests_deferred 0
llamacpp:n_decode_total %d
llamacpp:predicted_tokens_seconds %d
"""
NEVER = "2318-11-21T10:00:00.123456789+00:00"
PAST = "2026-01-01T00:00:00Z"
LATER = "2126-01-01T00:00:00Z"


@pytest.fixture
def timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, in a guest of stand-ins where nothing happens."""
    for name, folder in {"RUN": "run", "CGROUPS": "groups", "LOCKS": "locks", "SECRETS": "llm"}.items():
        monkeypatch.setenv(f"PROVISIONER_{name}", str(tmp_path / folder))
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    # Who is logged in on the machine that runs the tests is no use of theirs.
    for name in ("loginctl", "systemctl", "ps"):
        tool(tmp_path, name, "true")
    path = shipped_folder("playbooks") / "files/idle_timer.py"
    spec = importlib.util.spec_from_file_location("idle_timer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DOWNLOADS = (str(tmp_path / "models*"),)
    return module


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / "tools" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


class Engine:
    """Tells a text over HTTP."""

    def __init__(self) -> None:
        self.text, self.status, self.url, self.key = "", 200, "", ""
        self.shown: list[str | None] = []


@pytest.fixture
def engine() -> Iterator[Engine]:
    told = Engine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.shown.append(self.headers["Authorization"])
            is_let_in = not told.key or told.shown[-1] == f"Bearer {told.key}"
            self.send_response(told.status if is_let_in else 401)
            self.end_headers()
            self.wfile.write(told.text.encode() if is_let_in else b"")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told.url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        yield told
        server.shutdown()


def quiet(timer: ModuleType, now: float, *urls: str) -> float | None:
    found: float | None = timer.quiet_seconds(now, "provisioner", urls)
    return found


def test_time_passes_while_nothing_moves(timer: ModuleType, engine: Engine) -> None:
    engine.text = VLLM % (0, 100, 5)
    assert quiet(timer, 60, engine.url) == 0
    engine.text = VLLM % (0, 100, 99)
    assert quiet(timer, 120, engine.url) == 60
    assert quiet(timer, 3660, engine.url) == 3600


@pytest.mark.parametrize("then", [VLLM % (1, 100, 5), VLLM % (0, 101, 5)])
def test_a_request_begins_it_anew(timer: ModuleType, engine: Engine, then: str) -> None:
    engine.text = VLLM % (0, 100, 5)
    quiet(timer, 60, engine.url)
    engine.text = then
    assert not quiet(timer, 3600, engine.url)
    engine.text = VLLM % (0, 101, 5)
    assert quiet(timer, 3660, engine.url) in (0, 60)


def test_averages_that_move_by_being_read_are_no_use(timer: ModuleType, engine: Engine) -> None:
    engine.text = LLAMA % (0, 7, 31)
    quiet(timer, 60, engine.url)
    engine.text = LLAMA % (0, 7, 0)
    assert quiet(timer, 120, engine.url) == 60
    engine.text = LLAMA % (0, 8, 0)
    assert quiet(timer, 180, engine.url) == 0


@pytest.mark.parametrize(
    ("models", "is_use"),
    [(None, False), ([{"name": "a", "expires_at": LATER}], False), ([{"name": "a", "expires_at": NEVER}], False),
     ([{"name": "a", "expires_at": PAST}], True)],
)  # fmt: skip
def test_a_model_of_ollama_past_its_time_is_in_use(
    timer: ModuleType, engine: Engine, models: object, is_use: bool
) -> None:
    engine.text = json.dumps({"models": models})
    quiet(timer, 60, engine.url)
    assert quiet(timer, 120, engine.url) == (None if is_use else 60)


def test_a_task_of_exo_is_use(timer: ModuleType, engine: Engine) -> None:
    engine.text = json.dumps({"tasks": {"1": {"ChatCompletion": {"taskStatus": "Running"}}}})
    assert quiet(timer, 60, engine.url) is None
    engine.text = json.dumps({"tasks": {"1": {"ChatCompletion": {"taskStatus": "Complete"}}}})
    assert quiet(timer, 120, engine.url) == 0


def test_an_engine_that_does_not_run_uses_nothing_and_one_that_says_nonsense_does(
    timer: ModuleType, engine: Engine
) -> None:
    assert quiet(timer, 60, "http://127.0.0.1:9/metrics") == 0
    for engine.status, engine.text in ((503, "Loading model"), (401, ""), (200, "{}"), (200, "{broken")):
        assert quiet(timer, 120, engine.url) is None


def test_an_engine_that_asks_for_a_key_gets_the_one_of_its_unit(
    timer: ModuleType, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.text, engine.key = LLAMA % (0, 7, 31), 'k"ey'
    assert quiet(timer, 60, engine.url) is None
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm/a.env").write_text('HF_TOKEN="hf_x"\n\nVLLM_API_KEY="another"\n')
    (tmp_path / "llm/b.env").write_text(f"LLAMA_API_KEY={json.dumps(engine.key)}\n")
    assert quiet(timer, 120, engine.url) == 0
    assert quiet(timer, 3720, engine.url) == 3600
    engine.text = LLAMA % (1, 7, 31)
    assert quiet(timer, 3780, engine.url) is None
    engine.key = "a new one"
    assert quiet(timer, 3840, engine.url) is None
    assert not any("hf_x" in (each or "") for each in engine.shown)
    told = capsys.readouterr().out
    assert "401" in told
    assert 'k"ey' not in told


def test_the_key_of_every_engine_that_asks_for_one_is_found(timer: ModuleType) -> None:
    assert {engine.key_variable for engine in ENGINES.values()} - {""} == timer.KEYS


def test_an_engine_that_asks_for_no_key_is_shown_none(timer: ModuleType, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm/b.env").write_text('LLAMA_API_KEY="secret"\n')
    engine.text = LLAMA % (0, 7, 31)
    assert quiet(timer, 60, engine.url) == 0
    assert engine.shown == [None]


def test_a_look_of_ours_begins_it_anew(timer: ModuleType, tmp_path: Path) -> None:
    quiet(timer, 60)
    assert quiet(timer, 120) == 60
    (tmp_path / "run/looked-at").touch()
    assert quiet(timer, 180) == 0


SESSION = 'case $1 in list-sessions) echo "3 1000 x" ;; *) printf "Name=%s\\nClass=%s\\nState=%s\\nTTY=%s\\n" ;; esac'


@pytest.mark.parametrize(
    ("facts", "is_use"),
    [
        (("alice", "user", "active", "pts/0"), True),
        (("alice", "user", "active", ""), True),
        (("provisioner", "user", "active", "pts/0"), True),
        (("provisioner", "user", "active", ""), False),
        (("alice", "user", "closing", ""), False),
        (("alice", "background", "active", ""), False),
    ],
)
def test_who_is_logged_in_uses_it(
    timer: ModuleType, tmp_path: Path, facts: tuple[str, str, str, str], is_use: bool
) -> None:
    tool(tmp_path, "loginctl", SESSION % facts)
    assert (quiet(timer, 60) is None) is is_use


@pytest.mark.parametrize(
    ("script", "is_use"),
    [
        ('case $1 in --query-gpu=*) echo 0 ;; *) echo "77, /opt/llm/engine" ;; esac', False),
        ('case $1 in --query-gpu=*) echo 0 ;; *) echo "4711, python3" ;; esac', True),
        ('case $1 in --query-gpu=*) printf "0\\n61\\n" ;; esac', True),
        ("exit 9", True),
        ("exec sleep 60", True),
    ],
)
def test_cards_that_compute_or_do_not_answer_are_used(
    timer: ModuleType, tmp_path: Path, script: str, is_use: bool
) -> None:
    unit = tmp_path / "groups/llm-small.service"
    unit.mkdir(parents=True)
    (unit / "cgroup.procs").write_text("77\n")
    tool(tmp_path, "nvidia-smi", script)
    timer.ASK_SECONDS = 0.5
    assert (quiet(timer, 60) is None) is is_use


def test_downloads_and_held_package_databases_are_use(timer: ModuleType, tmp_path: Path) -> None:
    tool(tmp_path, "systemctl", "echo llm-job-model.service loaded active running x")
    assert quiet(timer, 60) is None
    tool(tmp_path, "systemctl", "true")
    database = tmp_path / "lock-frontend"
    database.touch()
    timer.PACKAGE_LOCKS = (str(database),)
    (tmp_path / "locks").write_text(f"1: POSIX  ADVISORY  WRITE 9 08:01:{database.stat().st_ino} 0 EOF\n")
    assert quiet(timer, 120) is None
    (tmp_path / "locks").write_text("")
    assert quiet(timer, 180) == 0


def test_an_engine_that_fetches_its_model_by_itself_is_use(timer: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "models/hub"
    folder.mkdir(parents=True)
    part = folder / "blob.incomplete"
    part.touch()
    assert quiet(timer, 60) is None
    os.utime(part, (1, 1))
    assert quiet(timer, 120) == 0


def test_an_engine_in_a_container_is_no_stranger_on_the_card(timer: ModuleType, tmp_path: Path) -> None:
    tool(tmp_path, "nvidia-smi", 'case $1 in --query-gpu=*) echo 0 ;; *) echo "77, text-generation-server" ;; esac')
    tool(tmp_path, "docker", "exit 1")
    assert quiet(timer, 60) is None
    tool(tmp_path, "docker", 'case "$*" in "ps "*) echo 0af3 ;; "top 0af3 "*) printf "PID\\n77\\n" ;; esac')
    assert quiet(timer, 120) == 0


def test_the_power_goes_only_when_it_is_time(
    timer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, "systemctl", f'[ "$1" != poweroff ] || touch {tmp_path}/off')
    clock: Callable[[float], None] = lambda now: monkeypatch.setattr(timer.time, "clock_gettime", lambda _: now)  # noqa: E731
    for now, is_off in ((60, False), (659, False), (660, True)):
        clock(now)
        assert timer.main(["600", "provisioner"]) == 0
        assert (tmp_path / "off").exists() is is_off


def test_what_the_last_run_left_may_be_broken(timer: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for text in ("", "[]", '{"digest": 1}'):
        (tmp_path / "run/idle-timer.json").write_text(text)
        assert quiet(timer, 600) == 0
