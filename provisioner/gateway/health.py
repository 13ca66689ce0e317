"""Knows which nodes that pass for ready do not answer: by the requests that fail there, and by looking itself.

Nodes in use are looked at every second, others every ten; one that is in
trouble is looked at in quick succession until it is well. These looks read a
health page only: they are no activity and wake nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from provisioner.domain.in_flight import InFlight
from provisioner.domain.names import NodeName
from provisioner.gateway.limits import Limits
from provisioner.gateway.upstream import EngineAway, Engines, Target
from provisioner.planning.breaker import Breaker

_IN_USE_SECONDS = 1.0
_AT_REST_SECONDS = 10.0
_IN_TROUBLE_SECONDS = 0.25
_LONGEST_IN_TROUBLE = 5.0
_IN_USE_FOR = 60.0


class Health:
    """The breakers of all nodes and the looks that open and close them. Belongs to one event loop."""

    def __init__(
        self,
        engines: Engines,
        flight: InFlight,
        limits: Limits,
        *,
        where: Callable[[NodeName], tuple[Target, str] | None],
        ready: Callable[[], Iterable[NodeName]],
        doubt: Callable[[NodeName], None],
        now: Callable[[], float],
    ) -> None:
        """Begin with everybody well.

        Args:
            engines: connections.
            flight: who is in use.
            limits: how long a look may take.
            where: the engine and health page of a node in its present mode; None where it has none.
            ready: who passes for ready, and is worth a look.
            doubt: told of nodes that pass for ready and do not answer.
            now: UNIX seconds.
        """
        self._engines = engines
        self._flight = flight
        self._limits = limits
        self._where = where
        self._ready = ready
        self._doubt = doubt
        self._now = now
        self._breakers: dict[NodeName, Breaker] = {}
        self._looks: dict[NodeName, asyncio.Task[bool]] = {}
        self._menders: dict[NodeName, asyncio.Task[None]] = {}
        self._looked: dict[NodeName, float] = {}
        self._watcher: asyncio.Task[None] | None = None

    def trouble(self, node: NodeName) -> str:
        """Return why a node is avoided; empty when it is not."""
        breaker = self._breakers.get(node)
        return breaker.trouble if breaker is not None else ""

    def succeeded(self, node: NodeName) -> None:
        """A request was answered there."""
        breaker = self._breakers.get(node)
        if breaker is not None and (breaker.trouble or breaker.failures):
            breaker.succeeded()

    def failed(self, node: NodeName, why: str) -> None:
        """A request failed there: avoid it until a look says that it is well."""
        self._breaker(node).failed(why, time.monotonic())
        self._mend(node)

    def forgive(self, node: NodeName) -> None:
        """It was woken, and its model has answered."""
        self._breakers.pop(node, None)

    async def look(self, node: NodeName) -> bool:
        """Ask a node's engine whether it is well; who asks while somebody does shares the answer."""
        look = self._looks.get(node)
        if look is None:
            look = self._looks[node] = asyncio.create_task(self._look(node))
            look.add_done_callback(lambda _: self._looks.pop(node, None))
        return await asyncio.shield(look)

    def start(self) -> None:
        """Begin to watch."""
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop watching."""
        tasks = [*self._menders.values(), *self._looks.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, node: NodeName) -> bool:
        found = self._where(node)
        if found is None:
            return True
        target, page = found
        self._looked[node] = time.monotonic()
        why = ""
        try:
            async with asyncio.timeout(self._limits.probe_seconds):
                status = await self._engines.status(target, page)
            why = "" if status == 200 else f"{page} answers {status}"
        except TimeoutError:
            why = f"{page} does not answer within {self._limits.probe_seconds:g} s"
        except EngineAway as away:
            why = str(away)
        if why:
            self._breaker(node).unhealthy(why)
            self._mend(node)
        elif node in self._breakers:
            self._breakers[node].healthy(time.monotonic())
        return not why

    def _breaker(self, node: NodeName) -> Breaker:
        return self._breakers.setdefault(node, Breaker())

    def _mend(self, node: NodeName) -> None:
        if node not in self._menders:
            task = self._menders[node] = asyncio.create_task(self._until_well(node))
            task.add_done_callback(lambda _: self._menders.pop(node, None))
            self._doubt(node)

    async def _until_well(self, node: NodeName) -> None:
        pause = _IN_TROUBLE_SECONDS
        while self.trouble(node) and node in self._ready():
            await self.look(node)
            if self.trouble(node):
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_IN_TROUBLE)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_IN_USE_SECONDS)
            due = [node for node in self._ready() if self._is_due(node)]
            if due:
                with suppress(EngineAway):
                    await asyncio.gather(*(self.look(node) for node in due))

    def _is_due(self, node: NodeName) -> bool:
        last = self._flight.of(node).last_request_at
        in_use = last is not None and self._now() - last < _IN_USE_FOR
        pause = _IN_USE_SECONDS if in_use else _AT_REST_SECONDS
        return node not in self._menders and time.monotonic() - self._looked.get(node, 0.0) >= pause * 0.9
