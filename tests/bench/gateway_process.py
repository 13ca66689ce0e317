"""``python -m tests.bench.gateway_process FOLDER ENGINE_PORT NODES``: the gateway alone, as `serve` runs it.

Prints its address, then serves until its input ends. Its nodes are 127.0.0.2 and following, all ready.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn
import uvloop

from provisioner.adapters.storage.ledger import SqliteLedger
from provisioner.domain.callers import Caller, Callers, Scope
from provisioner.domain.in_flight import InFlight
from provisioner.domain.serving import Phase
from provisioner.engines.llama_cpp import LlamaCpp
from provisioner.gateway.app import Gateway
from provisioner.gateway.server_protocol import GuardedHttp
from tests.fakes.serving import FakePower, NoKeys
from tests.fleets import FLEET, fleet_from

TOKEN = "token-of-the-bench-0123456789"


def make(folder: Path, port: int, nodes: int, phase: Phase = Phase.READY) -> tuple[Gateway, SqliteLedger, FakePower]:
    """Return a gateway before engines on 127.0.0.2 and following."""
    head = FLEET[: FLEET.index("nodes:")].replace("gemma-2-2b-it.gguf}", "gemma-2-2b-it.gguf, aliases: [tiny]}")
    names = [f"llm-gpu-{number + 1:02}" for number in range(nodes)]
    lines = [
        f"  {name}: {{hypervisor: pve1, gpus: [rtx3090], modes: [small], gateway: 10.10.0.1, "
        f"connect: {{address: 127.0.0.{number + 2}}}}}\n"
        for number, name in enumerate(names)
    ]
    fleet = fleet_from(folder, head + "nodes:\n" + "".join(lines))
    engine = LlamaCpp()
    engine.port = port
    ledger = SqliteLedger(folder / "state.db")
    power = FakePower(dict.fromkeys(names, phase))
    gateway = Gateway(
        fleet,
        {engine.name: engine},
        power=power,
        flight=InFlight(),
        callers=Callers([(Caller("bench", frozenset({Scope.ROUTE})), TOKEN)]),
        keys=NoKeys(),
        ledger=ledger,
    )
    return gateway, ledger, power


async def serve(folder: Path, port: int, nodes: int) -> None:
    """Serve until the input ends."""
    gateway, ledger, _ = make(folder, port, nodes)
    config = uvicorn.Config(
        gateway,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=0,
        http=GuardedHttp,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        proxy_headers=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    await gateway.start()
    print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.shutdown()
    await gateway.close()
    ledger.close()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
