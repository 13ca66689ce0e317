"""What the gateway costs while all is warm: added time, requests a core, memory, jitter of streams; nginx beside it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.adapters.system_clock import SystemClock
from provisioner.waiting import NotYet, Pace, wait_until
from tests.bench.gateway_process import TOKEN
from tests.bench.harness import Bench, Figures, Result
from tests.bench.watching import PeakMemory, cpu_seconds

BODY = (
    b'{"model": "gemma-2-2b-it.gguf", "messages": [{"role": "system", "content": "You are helpful."}, '
    b'{"role": "user", "content": "Say hello in a short sentence please."}], "temperature": 0.7}'
)
STREAM_BODY = BODY[:-1] + b', "stream": true}'
PATH = "/v1/chat/completions"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
ROUNDS, WARM = 1500, 200
CONNECTIONS, LOAD_SECONDS = 32, 5.0
STREAMS = 100

_NGINX = """\
user root; daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream engine {{ server 127.0.0.2:{engine}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go, and the process that they cost."""

    host: str
    port: int
    pid: int


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(_process("tests.bench.quick_engine", "0", "1"))
        direct = Place("127.0.0.2", int(_first_line(engine)), engine.pid)
        ours = stack.enter_context(_process("tests.bench.gateway_process", str(bench.folder), str(direct.port), "1"))
        through = {"ours": Place("127.0.0.1", int(_first_line(ours).rpartition(":")[2]), ours.pid)}
        if shutil.which("nginx") is not None:
            through["nginx"] = stack.enter_context(_nginx(bench.folder, direct.port))
        memory = stack.enter_context(PeakMemory(ours.pid))
        bench.say(f"one client, {ROUNDS} requests each: {', '.join(through)}")
        added = _added(direct, through)
        yield Result(
            "gateway.added_time",
            "ms",
            "p50 <= 1.5, p99 <= 5",
            added["ours"],
            {name: figures for name, figures in added.items() if name != "ours"},
            added["ours"].p50 <= 1.5 and added["ours"].percentile(99) <= 5,
            "each request sent directly and through, in turn; the difference to the median of the direct ones",
        )
        bench.say(f"{CONNECTIONS} clients for {LOAD_SECONDS:g} s each")
        rates = {name: Figures.of([asyncio.run(_requests_a_core(place))]) for name, place in through.items()}
        own = rates.pop("ours")
        yield Result("gateway.requests_per_core", "requests / CPU s", ">= 2000", own, rates, own.p50 >= 2000)
        bench.say(f"{STREAMS} streams of 50 words a second")
        late = {name: asyncio.run(_lateness(place)) for name, place in {"direct": direct, **through}.items()}
        jitter = late["ours"].percentile(99) - late["direct"].percentile(99)
        yield Result(
            "gateway.stream_jitter",
            "ms",
            "p99 <= 10 more than directly",
            late.pop("ours"),
            late,
            jitter <= 10,
            "from a word's being sent by the engine to its arrival; 100 streams at once",
        )
        yield Result("gateway.memory", "MiB", "<= 80", Figures.of([memory.peak]), met=memory.peak <= 80)


def _added(direct: Place, through: Mapping[str, Place]) -> dict[str, Figures]:
    clients = {name: http.client.HTTPConnection(place.host, place.port) for name, place in through.items()}
    clients["direct"] = http.client.HTTPConnection(direct.host, direct.port)
    took: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(WARM + ROUNDS):
        for name, client in clients.items():
            begun = time.perf_counter()
            client.request("POST", PATH, BODY, HEADERS)
            answer = client.getresponse()
            answer.read()
            assert answer.status == 200, (name, answer.status)
            if number >= WARM:
                took[name].append((time.perf_counter() - begun) * 1000)
    for client in clients.values():
        client.close()
    usual = Figures.of(took.pop("direct")).p50
    return {name: Figures.of([each - usual for each in times]) for name, times in took.items()}


async def _requests_a_core(place: Place) -> float:
    done = 0
    until = time.monotonic() + LOAD_SECONDS
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    request = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY

    async def one() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection(place.host, place.port)
        while time.monotonic() < until:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            done += 1
        writer.close()

    spent = cpu_seconds(place.pid)
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return done / (cpu_seconds(place.pid) - spent)


async def _lateness(place: Place) -> Figures:
    """Return how long words were on their way, in ms."""
    late: list[float] = []
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    request = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(STREAM_BODY)}\r\n\r\n".encode()

    async def one() -> None:
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.write(request + STREAM_BODY)
        while (line := await reader.readline()) and line != b"0\r\n":
            if line.startswith(b"data: "):
                late.append((time.monotonic() - float(line[6:])) * 1000)
        writer.close()

    await asyncio.gather(*(one() for _ in range(STREAMS)))
    return Figures.of(late)


@contextlib.contextmanager
def _process(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield running
    finally:
        assert running.stdin is not None
        running.stdin.close()
        running.wait(20)
        assert running.stdout is not None
        running.stdout.close()


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.contextmanager
def _nginx(folder: Path, engine: int) -> Iterator[Place]:
    port = engine + 1 if engine < 65000 else engine - 1
    settings = folder / "nginx.conf"
    settings.write_text(_NGINX.format(folder=folder, engine=engine, port=port))
    running = subprocess.Popen(["nginx", "-c", str(settings)], stderr=subprocess.DEVNULL)

    def look() -> int | NotYet:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            client.request("POST", PATH, BODY, HEADERS)
            status = client.getresponse().status
            return int(children[0]) if status == 200 and children else NotYet(f"it answers {status}")
        except OSError as error:
            return NotYet(str(error))
        finally:
            client.close()

    try:
        worker = wait_until(look, clock=SystemClock(), seconds=10, pace=Pace(0.05))
        yield Place("127.0.0.1", port, worker)
    finally:
        running.terminate()
        running.wait(10)
