"""What serving a request needs, as one value, and what all requests share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from provisioner.domain.in_flight import InFlight
from provisioner.domain.names import NodeName
from provisioner.errors import ProvisionerError
from provisioner.gateway.client import TooMuch
from provisioner.gateway.dialects import Fault
from provisioner.gateway.health import Health
from provisioner.gateway.limits import Limits
from provisioner.gateway.power import Power
from provisioner.gateway.upstream import Engines
from provisioner.ports.engine_keys import EngineKeys
from provisioner.ports.ledger import Ledger

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Parts:
    """The gateway's tools.

    `held` is the size of all bodies that are read or kept for another try, and of answers that are translated whole.
    """

    power: Power
    flight: InFlight
    engines: Engines
    health: Health
    keys: EngineKeys
    ledger: Ledger
    limits: Limits
    now: Callable[[], float]
    held: int = 0
    _beside: dict[NodeName, asyncio.Task[None]] = field(default_factory=dict)

    def retry_seconds(self, node: NodeName) -> float | None:
        """Return how long a failed wake is not tried again."""
        return self.power.retry_seconds(node)

    def wake_beside(self, node: NodeName) -> None:
        """Have a node woken that the next requests want; who asked is answered by another meanwhile."""
        if node in self._beside:
            return
        task = self._beside[node] = asyncio.create_task(self._wake(node))
        task.add_done_callback(lambda _: self._beside.pop(node, None))

    async def close(self) -> None:
        """Give up what is woken beside requests."""
        tasks = tuple(self._beside.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wake(self, node: NodeName) -> None:
        try:
            await self.power.wake(node)
        except ProvisionerError as error:
            # Those who wait for it are told; this one was answered by the fallback.
            _log.warning("%s: %s", error.subject, error.summary)


class Room:
    """What one body, or an answer, takes of `held` while it is being read."""

    __slots__ = ("_parts", "_taken")

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._taken = 0

    def take(self, size: int) -> None:
        """Count a piece. Raises TooMuch."""
        parts = self._parts
        if parts.held + size > parts.limits.held_bytes:
            summary = "cannot take more requests: those that wait fill the memory that they may"
            raise TooMuch(Fault(429, "too_much_waiting", summary, "ask again later", 10.0))
        parts.held += size
        self._taken += size

    def leave(self) -> None:
        """Count it no longer."""
        self._parts.held -= self._taken
        self._taken = 0
