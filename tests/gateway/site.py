"""A gateway on a real port before small engines on real ports, all on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import uvicorn

from provisioner.domain.callers import Caller, Callers, Scope
from provisioner.domain.in_flight import InFlight
from provisioner.domain.serving import Phase
from provisioner.engines.llama_cpp import LlamaCpp
from provisioner.engines.ollama import Ollama
from provisioner.gateway.app import Gateway
from provisioner.gateway.limits import Limits
from provisioner.gateway.server_protocol import GuardedHttp
from provisioner.serving.power import KeysOfFleet
from tests.fakes.serving import FakeLedger, FakePower
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, SUM, fleet_from
from tests.gateway.engines import Engine

TOKEN = "token-of-the-tests-0123456789"
CALLERS = Callers(
    [
        (Caller("tests", frozenset({Scope.ROUTE})), TOKEN),
        (Caller("watcher", frozenset({Scope.READ})), "token-that-may-only-look"),
    ]
)
# What a gateway at home has, with the waits that tests have time for.
QUICK = Limits(first_byte_seconds=0.2, heartbeat_seconds=0.1, suspect_seconds=0.1, probe_seconds=0.3)


@dataclass(frozen=True, slots=True)
class NodeAt:
    """A node of a test's fleet: what it may serve, and how it is when the test begins."""

    phase: Phase = Phase.READY
    modes: str = "small"
    gpu: bool = True
    extra: str = ""


# SMALL and BIG stand for what a test adds to those modes.
MODES = """\
modes:
  small: {engine: llama.cpp, model: gemma-2-2b-it.gguf, aliases: [gpt-4o-mini, tiny]SMALL}
  big: {engine: llama.cpp, model: big.ggufBIG}
  chat: {engine: ollama, models: ["llama3.1:8b", "mistral:latest"]}
models:
  gemma-2-2b-it.gguf: {source: gemma.gguf, sha256: SUM}
  big.gguf: {source: big.gguf, sha256: SUM}
engines:
  llama.cpp: {source: llama.tar.gz, sha256: SUM}
  ollama: {source: ollama.tar.zst, sha256: SUM}
nodes:
"""


@dataclass(slots=True)
class Site:
    """What a test holds."""

    url: str
    gateway: Gateway
    power: FakePower
    flight: InFlight
    ledger: FakeLedger
    engines: Mapping[str, Engine]
    http: aiohttp.ClientSession
    limits: Limits

    def ask(self, model: str = "tiny", path: str = "/v1/chat/completions", **more: object) -> dict[str, object]:
        """Return a chat request."""
        messages = [{"role": "user", "content": "Say hello."}]
        return {"url": self.url + path, "json": {"model": model, "messages": messages, **more}}


@contextlib.asynccontextmanager
async def a_site(
    folder: Path,
    nodes: Mapping[str, NodeAt] | None = None,
    *,
    limits: Limits = QUICK,
    callers: Callers = CALLERS,
    key: str = "",
    small: str = "",
    big: str = "",
) -> AsyncIterator[Site]:
    """Run a gateway and an engine for each node; those of sleeping nodes answer too, once somebody sends to them.

    `key` is what every node's `api_key` says, whether its engine asks for one or not.
    """
    nodes = nodes or {"llm-gpu-01": NodeAt()}
    engines: dict[str, Engine] = {}
    ports: dict[str, int] = {"ollama": 0, "llama.cpp": 0}
    for number, (name, node) in enumerate(nodes.items()):
        kind = "ollama" if node.modes.startswith("chat") else "llama.cpp"
        engine = Engine(f"127.0.0.{number + 2}", ports[kind])
        await engine.start()
        engines[name], ports[kind] = engine, engine.port
    llama, ollama = LlamaCpp(), Ollama()
    llama.port, ollama.port = ports["llama.cpp"] or 1, ports["ollama"] or 1
    text = _fleet_text(nodes, small, big)
    if key:
        text = text.replace("defaults:\n", "defaults:\n  api_key: env:LLM_KEY\n", 1)
    fleet = fleet_from(folder, text)
    world = FakeWorld()
    world.engines, world.secrets["env:LLM_KEY"] = {llama.name: llama, ollama.name: ollama}, key
    power = FakePower({name: node.phase for name, node in nodes.items()})
    flight, ledger = InFlight(), FakeLedger()
    gateway = Gateway(
        fleet,
        world.engines,
        power=power,
        flight=flight,
        callers=callers,
        keys=KeysOfFleet(fleet, world),
        ledger=ledger,
        limits=limits,
    )
    async with a_server(gateway) as url, aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        await gateway.start()
        try:
            yield Site(url, gateway, power, flight, ledger, engines, http, limits)
        finally:
            power.may_start.set()
            power.may_answer.set()
            await gateway.close()
            for engine in engines.values():
                await engine.stop()


@contextlib.asynccontextmanager
async def a_server(app: object) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port of loopback, as the product does."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=0,
        http=GuardedHttp,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        await server.shutdown()


async def until(claim: object, seconds: float = 5.0) -> None:
    """Wait until a claim holds."""
    async with asyncio.timeout(seconds):
        while not claim():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def _fleet_text(nodes: Mapping[str, NodeAt], small: str, big: str) -> str:
    head = FLEET[: FLEET.index("engines:")]
    lines = [
        f"  {name}: {{hypervisor: pve1, modes: [{node.modes}], gateway: 10.10.0.1, "
        f"{'gpus: [rtx3090], ' if node.gpu else ''}connect: {{address: 127.0.0.{number + 2}}}{node.extra}, "
        f"vmid: {5001 + number}, address: 10.10.90.{number + 1}/16}}\n"
        for number, (name, node) in enumerate(nodes.items())
    ]
    modes = MODES.replace("SMALL", small).replace("BIG", big).replace("SUM", SUM)
    return head + modes + "".join(lines)
