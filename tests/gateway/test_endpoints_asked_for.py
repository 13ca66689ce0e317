"""Who asks the API for an endpoint waits in the gateway's queue: bounded, not for ever, and for nobody who has left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp

from provisioner.api.app import Api
from provisioner.api.control import AboutUs, Acts, Control
from provisioner.domain.callers import Callers
from provisioner.domain.in_flight import InFlight
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.routing_policy import Away
from provisioner.domain.serving import Phase
from provisioner.gateway.limits import Limits
from provisioner.planning.routing import Ask, Candidate
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.proving import Endpoint
from tests.fakes.clock import FakeClock
from tests.fakes.event_log import MemoryEventLog
from tests.fakes.serving import FakeLedger, FakePower
from tests.fleets import FLEET, fleet_from
from tests.gateway.site import a_server, until

NODE, OTHER = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")


@dataclass
class Nodes:
    """One node that serves what is asked for, and another that stands in; both as a control loop has seen them."""

    power: FakePower
    flight: InFlight
    away: Away = Away.WAIT

    def candidates(self, model: str) -> tuple[list[Candidate], Ask]:
        found = [
            Candidate(now, ModeName("ml"), model, stands_in=name == OTHER, traffic=self.flight.of(name))
            for name, now in self.power.seen().items()
        ]
        return found, Ask(model, self.away)

    def endpoint(self, node: NodeName) -> Endpoint:
        return Endpoint(node, "http://10.0.0.1:8080/v1", "openai", "m")


@dataclass
class Site:
    """What a test holds."""

    url: str
    power: FakePower
    flight: InFlight
    nodes: Nodes
    http: aiohttp.ClientSession

    def ask(self) -> Any:
        return self.http.post(self.url + "/api/route", json={"model": "m"})


@contextlib.asynccontextmanager
async def a_site(folder: Path, limits: Limits, other: Phase = Phase.ABSENT) -> AsyncIterator[Site]:
    power, flight, clock = FakePower({NODE: Phase.ASLEEP, OTHER: other}), InFlight(), FakeClock()
    nodes = Nodes(power, flight)
    control = Control(
        fleet_from(folder, FLEET),
        cast(Keeper, nodes),
        Journal(MemoryEventLog(), clock),
        cast(Acts, nodes),
        power.desk,
        {},
        flight,
        AboutUs("1", "fleet.yml", 1, 0.0),
        FakeLedger(),
        limits=limits,
    )
    connector = aiohttp.TCPConnector(limit=0)
    async with a_server(Api(control, Callers(), "1")) as url, aiohttp.ClientSession(connector=connector) as http:
        try:
            yield Site(url, power, flight, nodes, http)
        finally:
            power.may_start.set()
            power.may_answer.set()
            await until(lambda: not power.desk.is_under_way(NODE))


def test_beyond_the_bound_they_are_told_so_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path, Limits(waiting=2)) as site:
            site.power.may_answer.clear()
            held = [asyncio.create_task(site.ask()) for _ in range(2)]
            await until(lambda: site.flight.of(NODE).waiting == 2)
            async with asyncio.timeout(5), site.ask() as refused:
                assert (refused.status, refused.content_type) == (429, "application/problem+json")
                assert int(refused.headers["Retry-After"]) >= 1
                document = await refused.json(content_type=None)
                assert document["type"] == "urn:provisioner:problem:queue-full"
                assert document["detail"] == "cannot wait for llm-gpu-01: 2 wait for it already"
            site.power.may_answer.set()
            assert [(await each).status for each in held] == [200, 200]
            assert (site.power.starts, site.flight.of(NODE).waiting) == ([NODE], 0)

    asyncio.run(scenario())


def test_a_node_that_does_not_come_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path, Limits(hold_seconds=0.1)) as site:
            site.power.may_answer.clear()
            async with asyncio.timeout(5), site.ask() as answer:
                assert answer.status == 504
                assert "still not ready" in (await answer.json(content_type=None))["detail"]
            assert site.flight.of(NODE).waiting == 0

    asyncio.run(scenario())


def test_when_the_last_has_left_nothing_is_started(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path, Limits()) as site:
            site.power.may_start.clear()
            asked = [asyncio.create_task(site.ask()) for _ in range(3)]
            await until(lambda: site.flight.of(NODE).waiting == 3)
            for each in asked:
                each.cancel()
            await until(lambda: site.flight.of(NODE).waiting == 0)
            site.power.may_start.set()
            await until(lambda: not site.power.desk.is_under_way(NODE))
            assert (site.power.starts, site.power.nodes[NODE].phase) == ([], Phase.ASLEEP)

    asyncio.run(scenario())


def test_who_is_answered_by_another_meanwhile_leaves_one_wake_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path, Limits(), other=Phase.READY) as site:
            site.nodes.away = Away.FALLBACK_AND_WAKE
            site.power.may_answer.clear()
            before = len(asyncio.all_tasks())
            for _ in range(20):
                async with site.ask() as answer:
                    assert (await answer.json())["node"] == OTHER
            assert len(asyncio.all_tasks()) - before < 10
            site.power.may_answer.set()
            await until(lambda: site.power.nodes[NODE].phase is Phase.READY)
            assert site.power.starts == [NODE]

    asyncio.run(scenario())
