"""``python -m tests.page.painted_process FOLDER NODES``: painted pages on a port, changed line by line.

Prints its address, then reads commands as JSON: ``["be", NODE, PHASE, REASON]``, ``["all", PHASE]``; answers each with
the moment of it (UNIX seconds). Ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.serving import NodeNow, Phase
from provisioner.gateway.server_protocol import GuardedHttp
from tests.page.painted import Painted, paint_a_day


def change(site: Painted, what: list[str]) -> None:
    """Do what a command says, as the control loop would: first seen, then told."""
    nodes = site.names if what[0] == "all" else [NodeName(what[1])]
    phase, reason = (Phase(what[1]), "told so") if what[0] == "all" else (Phase(what[2]), what[3])
    for node in nodes:
        site.keeper.now[node] = NodeNow(node, phase, reason, ModeName("ml"), time.time())
        site.journal.add(NewEntry(Kind.STATE, node, phase.value, reason))


async def serve(folder: Path, nodes: int) -> None:
    """Serve until the input ends."""
    site = Painted(folder, nodes, clock=SystemClock())
    paint_a_day(site)
    config = uvicorn.Config(
        site.app,  # type: ignore[arg-type]
        host="127.0.0.1",
        port=0,
        lifespan="off",
        ws="none",
        http=GuardedHttp,
        log_config=None,
        access_log=False,
        loop="uvloop",
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    _, port = server.servers[0].sockets[0].getsockname()[:2]
    _say({"url": f"http://127.0.0.1:{port}"})
    while line := await asyncio.to_thread(sys.stdin.readline):
        at = time.time()
        change(site, json.loads(line))
        _say({"at": at})
    site.control.is_draining = True
    server.should_exit = True
    server.force_exit = True
    await serving


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
