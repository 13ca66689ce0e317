"""Keeps a client patient while no engine has answered yet.

A stream soon says that it waits. An answer in one piece cannot: its status
comes first, and is not known yet. After a long while it begins all the same,
with blanks, which mean nothing before a JSON document; what goes wrong then is
told in an answer that does not end, which no client takes for a good one.
Interim answers (100, 102) would leave the status open, and each is taken amiss
by somebody: 102 by Python's own client, 100 by Node's fetch, both by nginx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from provisioner.gateway.client import AT_ONCE, Client
from provisioner.gateway.dialects import Dialect
from provisioner.gateway.limits import Limits


class Pulse:
    """Begins the answer after a while without one, and sends a sign of life from time to time until stopped."""

    def __init__(
        self, client: Client, dialect: Dialect, limits: Limits, words: Callable[[], str], *, is_stream: bool
    ) -> None:
        """Begin to count.

        Args:
            client: who waits.
            dialect: how it takes signs of life.
            limits: when the first is due, and the others.
            words: what is going on; asked for each time.
            is_stream: it waits for one; else for a JSON document.
        """
        self._client = client
        self._dialect = dialect
        self._limits = limits
        self._words = words
        self._is_stream = is_stream
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            limits.first_byte_seconds if is_stream else limits.document_seconds, self._start
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
        kind = self._dialect.stream_type if self._is_stream else "application/json"
        self._client.is_document = not self._is_stream
        await self._client.begin(200, [(b"content-type", kind.encode()), (b"cache-control", b"no-cache"), AT_ONCE])
        while True:
            await self._client.send(self._dialect.heartbeat(self._words()) if self._is_stream else b" ")
            await asyncio.sleep(self._limits.heartbeat_seconds)
