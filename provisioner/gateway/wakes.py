"""One wake per node, however many ask; given up when nobody is left who wants it; not repeated at once when it failed.

Wakes block, so each runs in a thread of its own; who waits for one waits on
the event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from provisioner.domain.names import NodeName
from provisioner.errors import ProvisionerError

_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0

StillWanted = Callable[[], bool]
BlockingWake = Callable[[NodeName, StillWanted], None]
"""Returns when the node's model has answered. Asks right before it starts the VM whether that is still wanted, and
raises NobodyWantsIt when not. Raises ProvisionerError."""


class NobodyWantsIt(Exception):
    """The last who wanted a wake has left before anything was started."""


@dataclass(slots=True)
class _Wake:
    """A wake under way. `wanted` is read by its thread."""

    done: asyncio.Future[None]
    wanted: threading.Event = field(default_factory=threading.Event)
    waiters: int = 0


@dataclass(frozen=True, slots=True)
class _Failure:
    error: ProvisionerError
    pause: float
    until: float


class WakeDesk:
    """Where wakes are asked for. Belongs to one event loop."""

    def __init__(self, wake: BlockingWake, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wake = wake
        self._monotonic = monotonic
        self._under_way: dict[NodeName, _Wake] = {}
        self._failures: dict[NodeName, _Failure] = {}

    async def wake(self, node: NodeName, *, at_once: bool = False) -> None:
        """Return when a node's model has answered.

        Args:
            node: which.
            at_once: try though the last wake failed a moment ago; for people.

        Raises:
            ProvisionerError: it did not come.
        """
        while True:
            under_way = self._under_way.get(node)
            if under_way is None:
                failure = self._failures.get(node)
                if failure is not None and not at_once and self._monotonic() < failure.until:
                    raise failure.error.with_traceback(None)
                under_way = self._start(node)
            under_way.waiters += 1
            under_way.wanted.set()
            try:
                await asyncio.shield(under_way.done)
                return
            except NobodyWantsIt:
                # All others had left just before we came, and its thread had noticed.
                continue
            finally:
                under_way.waiters -= 1
                if not under_way.waiters:
                    under_way.wanted.clear()

    def retry_seconds(self, node: NodeName) -> float | None:
        """Return how long a failed wake is not tried again; None when it may be tried."""
        failure = self._failures.get(node)
        left = failure.until - self._monotonic() if failure is not None else 0.0
        return left if left > 0 else None

    def is_under_way(self, node: NodeName) -> bool:
        """A wake of it is running."""
        return node in self._under_way

    def _start(self, node: NodeName) -> _Wake:
        loop = asyncio.get_running_loop()
        wake = self._under_way[node] = _Wake(loop.create_future())
        wake.wanted.set()
        wake.done.add_done_callback(lambda done: done.cancelled() or done.exception())

        def ended(error: BaseException | None) -> None:
            del self._under_way[node]
            if isinstance(error, ProvisionerError):
                before = self._failures.get(node)
                pause = min(before.pause * 2, _LONGEST_PAUSE) if before is not None else _FIRST_PAUSE
                self._failures[node] = _Failure(error, pause, self._monotonic() + pause)
            elif error is None:
                self._failures.pop(node, None)
            if error is None:
                wake.done.set_result(None)
            else:
                wake.done.set_exception(error)

        def run() -> None:
            error: BaseException | None = None
            try:
                self._wake(node, wake.wanted.is_set)
            except BaseException as raised:
                error = raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended, error)

        threading.Thread(target=run, name=f"wake {node}", daemon=True).start()
        return wake
