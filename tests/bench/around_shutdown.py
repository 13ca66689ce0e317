"""Requests at random moments around shutdowns, while the service is killed with -9 at random moments too.

Each round orders every node to sleep. Clients ask at offsets drawn over the time that a shutdown takes and what
surrounds it; in some rounds the service is killed, and started again as systemd would. A client whose connection the
kill broke asks once more when the service is there; every other failure is a lost request. The lab counts starts.

    python -m tests.bench.around_shutdown [OFFSETS [SEED]]      as many as wanted, however long it takes
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.bench.harness import Bench, Figures, Result
from tests.bench.serving_site import Powers, Service, serving_site

OFFSETS = 10_000
MOST_SECONDS = 360.0
"""What of it a run of all rows has time for; the whole number is for this module alone."""
NODES, CLIENTS = 8, 4
KILLED_SHARE = 0.5
_BOOT, _SHUTDOWN, _AROUND = 0.05, 0.4, 0.3
_ANSWER_SECONDS = 60.0
_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Round:
    """What chance has drawn: when each client of each node asks, whether for a stream, and when the service dies."""

    seed: int
    asks: tuple[tuple[str, float, bool], ...]
    killed_at: float | None

    @classmethod
    def drawn(cls, seed: int, nodes: list[str], span: float) -> Round:
        """Draw one; times are seconds after the order to sleep, from a little before to a little after `span`."""
        chance = random.Random(seed)

        def moment() -> float:
            return chance.uniform(-_AROUND, span + _AROUND)

        asks = tuple((name, moment(), chance.random() < 0.5) for name in nodes for _ in range(CLIENTS))
        return cls(seed, asks, moment() if chance.random() < KILLED_SHARE else None)


@dataclass
class Tally:
    """What has become of all requests."""

    answered: int = 0
    again: int = 0
    """Of them, after the kill had broken the first try."""
    lost: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """How long whoever was answered waited for the whole answer, in seconds, a second try included."""
    slept: int = 0
    stayed: int = 0
    orders_broken: int = 0
    rounds: int = 0


class Site:
    """Nodes, the service before them, and what was counted."""

    def __init__(self, service: Service, powers: Powers, names: list[str]) -> None:
        self.service = service
        self.powers = powers
        self.names = names
        self.tally = Tally()

    async def span(self, http: aiohttp.ClientSession) -> float:
        """Return how long an undisturbed sleep takes."""
        took = []
        for name in self.names[:3]:
            assert await self._ask(http, name, stream=False) == "", name
            begun = time.monotonic()
            await self._order(http, name)
            took.append(time.monotonic() - begun)
        return sorted(took)[1]

    async def play(self, http: aiohttp.ClientSession, drawn: Round) -> None:
        """Play one round, until every client has its answer."""
        settled = await asyncio.gather(*(self._ask(http, name, stream=False) for name in self.names))
        self.tally.lost += [f"seed {drawn.seed}, before: {why}" for why in settled if why]
        began = asyncio.get_running_loop().time() + _AROUND
        clients = [self._client(http, drawn, began, *ask) for ask in drawn.asks]
        await asyncio.gather(
            *(self._sleep(http, began, name) for name in self.names), self._kill(drawn, began), *clients
        )
        self.tally.rounds += 1

    async def _kill(self, drawn: Round, began: float) -> None:
        if drawn.killed_at is not None:
            await _until(began + drawn.killed_at)
            await self.service.be_killed()

    async def _sleep(self, http: aiohttp.ClientSession, began: float, name: str) -> None:
        await _until(began)
        if not self.service.is_up.is_set():
            # The order cannot be given; it comes a little late.
            await self.service.is_up.wait()
        await self._order(http, name)

    async def _order(self, http: aiohttp.ClientSession, name: str) -> None:
        try:
            async with http.post(f"{self.service.url}/api/nodes/{name}/sleep", json={}) as answer:
                report = await answer.json(content_type=None)
        except (aiohttp.ClientError, ConnectionError):
            self.tally.orders_broken += 1
            return
        if answer.status == 200 and report["was_running"]:
            self.tally.slept += 1
        else:
            assert answer.status in (200, 409), (answer.status, report)
            self.tally.stayed += 1

    async def _client(
        self, http: aiohttp.ClientSession, drawn: Round, began: float, name: str, offset: float, stream: bool
    ) -> None:
        await _until(began + offset)
        service = self.service
        kills, was_up = service.kills, service.is_up.is_set()
        why = await self._ask(http, name, stream=stream)
        if why and (service.kills > kills or not was_up):
            await service.is_up.wait()
            self.tally.again += 1
            why = await self._ask(http, name, stream=stream)
        if why:
            killed = "none" if drawn.killed_at is None else f"{drawn.killed_at:.3f} s"
            kind = "stream" if stream else "chat"
            self.tally.lost.append(f"seed {drawn.seed}, {kind} to {name} at {offset:.3f} s, kill at {killed}: {why}")
        else:
            self.tally.answered += 1
            self.tally.waits.append(asyncio.get_running_loop().time() - (began + offset))

    async def _ask(self, http: aiohttp.ClientSession, name: str, *, stream: bool) -> str:
        """Ask once; return nothing for a whole answer, else what was wrong with it."""
        body = {"model": f"{name}.gguf", "stream": stream, "messages": [{"role": "user", "content": "Say hello."}]}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), http.post(self.service.url + _PATH, json=body) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            return f"{type(error).__name__} {error}"
        if answer.status != 200:
            return f"HTTP {answer.status} {text[:300]}"
        if stream:
            return "" if text.endswith("data: [DONE]\n\n") else f"a stream that ends with {text[-300:]!r}"
        with contextlib.suppress(ValueError, KeyError, IndexError):
            return "" if json.loads(text)["choices"][0]["message"]["content"] else "an empty answer"
        return f"no answer: {text[:300]}"


async def _until(moment: float) -> None:
    await asyncio.sleep(max(moment - asyncio.get_running_loop().time(), 0.0))


async def played(folder: Path, seed: int, offsets: int, seconds: float, say: Callable[[str], None]) -> Site:
    """Play rounds until so many offsets or seconds are used up."""
    names = [f"n{number + 1}" for number in range(NODES)]
    with serving_site(folder, NODES, boot_seconds=_BOOT, shutdown_seconds=_SHUTDOWN) as lab_site:
        service, powers = Service(lab_site), Powers()
        await service.start()
        site = Site(service, powers, names)
        # A connection for each request: one that was kept may break with a kill long before it is used again.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        try:
            async with aiohttp.ClientSession(connector=connector) as http:
                await asyncio.gather(*(site._ask(http, name, stream=False) for name in names))
                powers.watch(lab_site.lab)
                span = await site.span(http)
                site.tally = Tally()
                until = time.monotonic() + seconds
                say(f"a sleep takes {span:.2f} s; {NODES} nodes, {CLIENTS} clients each a round")
                while site.tally.rounds * NODES * CLIENTS < offsets and time.monotonic() < until:
                    await site.play(http, Round.drawn(seed + site.tally.rounds, names, span))
                    if site.tally.rounds % 20 == 0:
                        say(_told(site))
        finally:
            await service.stop()
    return site


def _told(site: Site) -> str:
    tally = site.tally
    asked = tally.rounds * NODES * CLIENTS
    return (
        f"{asked} requests in {tally.rounds} rounds, {site.service.kills} kills -9; {tally.answered} answered, of them "
        f"{tally.again} on the second try; {len(tally.lost)} lost; orders to sleep: {tally.slept} done, {tally.stayed} "
        f"refused as in use, {tally.orders_broken} broken by a kill; {sum(site.powers.starts.values())} starts, "
        f"{sum(site.powers.ends.values())} ends, {len(site.powers.doubles)} double starts"
    )


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    site = asyncio.run(played(bench.folder, bench.seed, OFFSETS, MOST_SECONDS, bench.say))
    yield from rows(site, bench.seed)


def rows(site: Site, seed: int) -> Iterator[Result]:
    """Return what was counted as rows."""
    lost, doubles = len(site.tally.lost), len(site.powers.doubles)
    note = "; ".join([_told(site), *site.tally.lost[:5]])
    figures = Figures.of([float(lost)], seed)
    yield Result("wake.around_shutdown_lost", "requests", "0", figures, met=lost == 0, note=note)
    figures = Figures.of([float(doubles)], seed)
    yield Result("wake.around_shutdown_double_starts", "starts", "0", figures, met=doubles == 0)
    yield Result("wake.around_shutdown_wait", "s", "", Figures.of(site.tally.waits, seed))


def main(offsets: int, seed: int) -> int:
    """Play a number of offsets, whatever time that takes; say what became of them."""
    with tempfile.TemporaryDirectory(prefix="around-shutdown-") as folder:
        began = time.monotonic()
        site = asyncio.run(played(Path(folder), seed, offsets, float("inf"), lambda text: print(text, flush=True)))
    print(f"seeds {seed} to {seed + site.tally.rounds - 1}, {time.monotonic() - began:.0f} s: {_told(site)}")
    waits = Figures.of(site.tally.waits)
    print(f"seconds until the whole answer (p50/p95/p99): {waits}, {max(waits.samples):.1f} at most")
    for each in site.tally.lost:
        print(f"lost: {each}")
    return 1 if site.tally.lost or site.powers.doubles else 0


if __name__ == "__main__":
    arguments = [int(each) for each in sys.argv[1:]]
    sys.exit(main(*(arguments + [OFFSETS, 20261121][len(arguments) :])))
