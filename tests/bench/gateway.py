"""What the gateway costs while all is warm: added time, requests a core, memory, jitter of streams; and others."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping

from tests.bench.gateway_process import TOKEN
from tests.bench.harness import Bench, Figures, Result
from tests.bench.rivals import Place, at_hand
from tests.bench.watching import PeakMemory, cpu_seconds

BODY = (
    b'{"model": "gemma-2-2b-it.gguf", "messages": [{"role": "system", "content": "You are helpful."}, '
    b'{"role": "user", "content": "Say hello in a short sentence please."}], "temperature": 0.7}'
)
STREAM_BODY = BODY[:-1] + b', "stream": true}'
PATH = "/v1/chat/completions"
ROUNDS, WARM = 1500, 200
CONNECTIONS, LOAD_SECONDS = 32, 5.0
STREAMS = 100


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(_process("tests.bench.quick_engine", "0", "1"))
        direct = Place("127.0.0.2", int(_first_line(engine)), engine.pid, engine.pid)
        ours = stack.enter_context(_process("tests.bench.gateway_process", str(bench.folder), str(direct.port), "1"))
        port = int(_first_line(ours).rpartition(":")[2])
        through = {"ours": Place("127.0.0.1", port, ours.pid, ours.pid, TOKEN)}
        through |= at_hand(stack, bench.folder, f"{direct.host}:{direct.port}")
        memory = {name: stack.enter_context(PeakMemory(place.whole)) for name, place in through.items()}
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
        most = {name: Figures.of([each.peak]) for name, each in memory.items()}
        own = most.pop("ours")
        yield Result("gateway.memory", "MiB", "<= 80", own, most, own.p50 <= 80)


def _added(direct: Place, through: Mapping[str, Place]) -> dict[str, Figures]:
    clients = {name: http.client.HTTPConnection(place.host, place.port) for name, place in through.items()}
    clients["direct"] = http.client.HTTPConnection(direct.host, direct.port)
    headers = {name: place.headers for name, place in {"direct": direct, **through}.items()}
    took: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(WARM + ROUNDS):
        for name, client in clients.items():
            begun = time.perf_counter()
            client.request("POST", PATH, BODY, headers[name])
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
    request = _request(place, BODY)

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

    spent = cpu_seconds(place.worker)
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return done / (cpu_seconds(place.worker) - spent)


async def _lateness(place: Place) -> Figures:
    """Return how long words were on their way, in ms."""
    late: list[float] = []
    request = _request(place, STREAM_BODY)

    async def one() -> None:
        reader, writer = await asyncio.open_connection(place.host, place.port)
        writer.write(request)
        late.extend(
            [
                (time.monotonic() - sent) * 1000
                async for line in _lines(reader)
                if line.startswith(b"data: {") and (sent := _sent_at(line)) is not None
            ]
        )
        writer.close()

    await asyncio.gather(*(one() for _ in range(STREAMS)))
    return Figures.of(late)


def _request(place: Place, body: bytes) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in place.headers.items())
    return f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of a chunked answer; proxies cut it into chunks as they like."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.partition(b"\r\n")[0], head
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        *whole, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
        for line in whole:
            yield line


def _sent_at(event: bytes) -> float | None:
    """Return when the engine sent a word; None where a proxy has added an event of its own."""
    choices = json.loads(event[6:])["choices"]
    word = choices[0]["delta"].get("content") if choices else None
    return float(word) if word else None


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
