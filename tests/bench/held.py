"""Five hundred clients at a stopped node, and what a node that dies or hangs costs those who meet it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp

from provisioner.domain.serving import Phase
from provisioner.gateway.limits import Limits
from tests.bench.harness import Bench, Figures, Result
from tests.gateway.site import NodeAt, Site, a_site, until

CLIENTS, QUEUE = 500, 400
ROUNDS = 20
TWO = {"llm-gpu-01": NodeAt(), "llm-gpu-02": NodeAt()}


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    yield from asyncio.run(_held(bench))
    yield asyncio.run(_released(bench))
    yield asyncio.run(_failover(bench, "dead"))
    yield from asyncio.run(_hung(bench))


async def _held(bench: Bench) -> list[Result]:
    bench.say(f"{CLIENTS} clients at a stopped node, {QUEUE} of whom may wait")
    folder = _folder(bench, "held")
    refused: list[float] = []
    async with a_site(folder, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}, limits=Limits(waiting=QUEUE)) as site:
        site.power.may_answer.clear()
        async with _many(site) as http:

            async def one() -> int:
                async with http.post(**site.ask()) as answer:
                    await answer.read()
                    return answer.status

            clients = [asyncio.create_task(one()) for _ in range(QUEUE)]
            await until(lambda: site.flight.of(site.gateway.table.offers[0].node).waiting == QUEUE, 60)
            for _ in range(CLIENTS - QUEUE):
                begun = time.monotonic()
                clients.append(asyncio.create_task(one()))
                assert await clients[-1] == 429
                refused.append((time.monotonic() - begun) * 1000)
            site.power.may_answer.set()
            statuses = await asyncio.gather(*clients)
        starts = len(site.power.starts)
        lost = sum(status not in (200, 429) for status in statuses)
    whole = starts == 1 and lost == 0 and statuses.count(200) == QUEUE
    note = f"{starts} start, {statuses.count(200)} answered, {statuses.count(429)} told 429 at once, {lost} lost"
    told = Figures.of(refused)
    return [
        Result("wake.held_clients_starts", "starts", "1, 0 lost", Figures.of([float(starts)]), met=whole, note=note),
        Result("wake.held_clients_refused", "ms", "p95 <= 50", told, met=told.percentile(95) <= 50),
    ]


async def _released(bench: Bench) -> Result:
    """Measure the time from a node's being ready to the first byte for the client that is held."""
    bench.say(f"one client held for a node that becomes ready: {ROUNDS} rounds")
    chance = random.Random(bench.seed)
    took: list[float] = []
    async with a_site(_folder(bench, "released"), {"llm-gpu-01": NodeAt(Phase.ASLEEP)}, limits=Limits()) as site:
        for _ in range(ROUNDS):
            site.power.be("llm-gpu-01", Phase.ASLEEP)
            site.power.may_answer.clear()
            client = asyncio.create_task(site.http.post(**site.ask(stream=True)))
            await until(lambda: site.flight.of(site.gateway.table.offers[0].node).waiting == 1)
            await asyncio.sleep(chance.random() * 0.2)
            ready = time.monotonic()
            site.power.may_answer.set()
            async with await client as answer:
                await answer.content.readline()
                took.append((time.monotonic() - ready) * 1000)
                await answer.read()
    figures = Figures.of(took, bench.seed)
    note = "from the moment that the wake says ready; what the wake adds before that is a row of its own"
    return Result(
        "wake.held_clients_first_byte", "ms", "p95 <= 250", figures, met=figures.percentile(95) <= 250, note=note
    )


async def _failover(bench: Bench, how: str) -> Result:
    chance = random.Random(bench.seed)
    bench.say(f"a node that is {how}: {ROUNDS} rounds")
    cost: list[float] = []
    async with a_site(_folder(bench, how), TWO, limits=Limits()) as site:
        for _ in range(ROUNDS):
            usual = await _ask(site)
            await asyncio.sleep(chance.random() * 0.2)
            engine = site.engines["llm-gpu-01"]
            await engine.stop()
            cost.append(await _ask(site) - usual)
            await engine.start()
            await until(lambda: not site.gateway.parts.health.trouble(site.gateway.table.offers[0].node), 20)
    return _row("failover.dead", 50.0, cost, bench)


async def _hung(bench: Bench) -> list[Result]:
    chance = random.Random(bench.seed)
    bench.say(f"a node that hangs: {ROUNDS} rounds")
    first: list[float] = []
    later: list[float] = []
    async with a_site(_folder(bench, "hung"), TWO, limits=Limits()) as site:
        for _ in range(ROUNDS):
            usual = await _ask(site)
            await asyncio.sleep(chance.random() * 0.2)
            engine = site.engines["llm-gpu-01"]
            engine.is_hung = True
            first.append(await _ask(site) - usual)
            later += [await _ask(site) - usual for _ in range(3)]
            engine.is_hung = False
            await until(lambda: not site.gateway.parts.health.trouble(site.gateway.table.offers[0].node), 20)
    return [_row("failover.hung_first", 1500.0, first, bench), _row("failover.hung_later", 20.0, later, bench)]


def _row(name: str, most: float, cost: list[float], bench: Bench) -> Result:
    figures = Figures.of(cost, bench.seed)
    return Result(name, "ms", f"p95 <= {most:g}", figures, met=figures.percentile(95) <= most)


async def _ask(site: Site) -> float:
    begun = time.monotonic()
    async with site.http.post(**site.ask()) as answer:
        await answer.read()
        assert answer.status == 200, answer.status
    return (time.monotonic() - begun) * 1000


@contextlib.asynccontextmanager
async def _many(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=site.http.headers) as http:
        yield http


def _folder(bench: Bench, name: str) -> Path:
    folder = bench.folder / name
    folder.mkdir()
    return folder
