"""Keeps a stream's client patient while no engine has answered yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from provisioner.gateway.client import Client
from provisioner.gateway.dialects import Dialect
from provisioner.gateway.limits import Limits


class Pulse:
    """Begins the answer after a while without one, and sends a sign of life from time to time until stopped."""

    def __init__(self, client: Client, dialect: Dialect, limits: Limits, words: Callable[[], str]) -> None:
        """Begin to count.

        Args:
            client: who waits.
            dialect: how it takes signs of life.
            limits: when the first is due, and the others.
            words: what is going on; asked for each time.
        """
        self._client = client
        self._dialect = dialect
        self._limits = limits
        self._words = words
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            limits.first_byte_seconds, self._start
        )

    async def stop(self) -> None:
        """Send no more; whole ones only have been sent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # Not awaited itself: its being cancelled must not be taken for ours, nor ours for its.
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _start(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        await self._client.begin(
            200, [(b"content-type", self._dialect.stream_type.encode()), (b"cache-control", b"no-cache")]
        )
        while True:
            await self._client.send(self._dialect.heartbeat(self._words()))
            await asyncio.sleep(self._limits.heartbeat_seconds)
