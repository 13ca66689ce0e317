"""A simulated engine's socket: whatever happens while it opens, it can be closed."""

from __future__ import annotations

import asyncio
import socket

import pytest

from provisioner.lab.guests.simulated_engine import SimulatedEngine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("turns", range(8))
def test_power_lost_while_it_opens_leaves_no_listener(turns: int) -> None:
    port = free_port()

    async def lose_power() -> None:
        engine = SimulatedEngine(host="127.0.0.1", port=port, model="tiny")
        opening = asyncio.create_task(engine.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await engine.close()
        await asyncio.gather(opening, return_exceptions=True)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(lose_power())
