"""The memory of the whole service over a long time of modest use: chats, streams, clients that leave, sleep, wake.

python -m tests.bench.soak [MINUTES [FILE]]      thirty minutes, a line a minute
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp

from tests.bench.harness import Bench, Figures, Result
from tests.bench.serving_site import Service, serving_site

NODES = 4
SECONDS = 60.0
"""For a run of all rows; the long one is for this module alone."""
MOST_GROWTH_MIB = 10.0
_PAUSE = 0.2
_WATCHERS = 3


def rss_mib(pid: int) -> float:
    """Return a process's resident memory."""
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


class Users:
    """Those who use the service, each in a way of its own, again and again."""

    def __init__(self, service: Service, http: aiohttp.ClientSession, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._service = service
        self._http = http
        self._chance = random.Random(seed)
        self._names = [f"n{number + 1}" for number in range(NODES)]

    async def act(self) -> None:
        """Do one thing, drawn by chance."""
        ways = (self._chat, self._stream, self._leave, self._lists, self._intrude, self._babble, self._sleep)
        (way,) = self._chance.choices(ways, weights=(10, 10, 3, 4, 2, 2, 1))
        self.counts[await way(self._chance.choice(self._names))] += 1

    async def watch_events(self) -> None:
        """Follow the events, as a page in a browser does, and come back when cut off."""
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with self._http.get(f"{self._service.url}/api/events?after=0") as answer:
                    async for _ in answer.content:
                        pass

    async def _chat(self, name: str) -> str:
        async with self._http.post(self._url, json=self._body(name)) as answer:
            await answer.read()
        return f"chat {answer.status}"

    async def _stream(self, name: str) -> str:
        async with self._http.post(self._url, json={**self._body(name), "stream": True}) as answer:
            whole = (await answer.read()).endswith(b"data: [DONE]\n\n")
        return "stream" if whole else "stream cut"

    async def _leave(self, name: str) -> str:
        """Ask for a stream and go away at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._chance.random() * 0.05):
                await self._stream(name)
                return "stream"
        return "left"

    async def _lists(self, name: str) -> str:
        for path in ("/v1/models", f"/api/nodes/{name}", "/api/nodes"):
            async with self._http.get(self._service.url + path) as answer:
                await answer.read()
        return f"lists {answer.status}"

    async def _intrude(self, name: str) -> str:
        async with self._http.get(f"{self._service.url}/api/nodes", headers={"Host": "evil.example"}) as answer:
            await answer.read()
        return f"foreign host {answer.status}"

    async def _babble(self, name: str) -> str:
        async with self._http.post(self._url, data=b"{" * 200_000) as answer:
            await answer.read()
        return f"bad body {answer.status}"

    async def _sleep(self, name: str) -> str:
        async with self._http.post(f"{self._service.url}/api/nodes/{name}/sleep", json={}) as answer:
            await answer.read()
        return f"sleep {answer.status}"

    @property
    def _url(self) -> str:
        return f"{self._service.url}/v1/chat/completions"

    @staticmethod
    def _body(name: str) -> dict[str, object]:
        return {"model": f"{name}.gguf", "messages": [{"role": "user", "content": "Say hello. " * 50}]}


async def soaked(
    folder: Path, seed: int, seconds: float, every: float, say: Callable[[str], None]
) -> tuple[list[float], Counter[str]]:
    """Use a service for so long; return its memory at regular times, and what was done how often."""
    seen: list[float] = []
    with serving_site(folder, NODES, boot_seconds=0.5, shutdown_seconds=0.2) as site:
        service = Service(site)
        await service.start()
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                users = Users(service, http, seed)
                watching = [asyncio.create_task(users.watch_events()) for _ in range(_WATCHERS)]
                acting: set[asyncio.Task[None]] = set()
                began = time.monotonic()
                due = began + every
                while (now := time.monotonic()) < began + seconds:
                    acting.add(task := asyncio.create_task(users.act()))
                    task.add_done_callback(acting.discard)
                    await asyncio.sleep(_PAUSE)
                    if now >= due:
                        due += every
                        seen.append(rss_mib(service.pid))
                        say(f"{now - began:5.0f} s  {seen[-1]:6.1f} MiB  {sum(users.counts.values())} acts")
                await asyncio.gather(*acting)
                for each in watching:
                    each.cancel()
                await asyncio.gather(*watching, return_exceptions=True)
        finally:
            await service.stop()
    return seen, users.counts


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    bench.say(f"{SECONDS:g} s of modest use")
    seen, counts = asyncio.run(soaked(bench.folder, bench.seed, SECONDS, SECONDS / 12, lambda text: None))
    growth = _growth(seen)
    note = f"the whole service, last third over the one in the middle by {growth:.1f} MiB; {_told(counts)}"
    yield Result(
        "gateway.service_memory",
        "MiB",
        f"grows by <= {MOST_GROWTH_MIB:g}",
        Figures.of(seen, bench.seed),
        met=growth <= MOST_GROWTH_MIB,
        note=note,
    )


def _growth(seen: list[float]) -> float:
    """Return by how much the last third of readings exceeds the one before it; in the first, caches fill."""
    third = max(len(seen) // 3, 1)
    return sum(seen[-third:]) / third - sum(seen[-2 * third : -third] or seen[:third]) / third


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def main(minutes: float, path: Path | None) -> None:
    """Soak for so many minutes; print a line a minute, into a file too."""

    def say(text: str) -> None:
        print(text, flush=True)
        if path is not None:
            with path.open("a") as file:
                file.write(text + "\n")

    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        seen, counts = asyncio.run(soaked(Path(folder), 20261121, minutes * 60, 60.0, say))
    say(f"first {seen[0]:.1f}, last {seen[-1]:.1f}, most {max(seen):.1f} MiB; last third grew by {_growth(seen):.1f}")
    say(_told(counts))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
