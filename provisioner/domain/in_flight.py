"""Requests on their way through us, by node: what runs, what waits, and whether the node takes more.

The gateway counts on its event loop; whoever puts nodes to sleep reads from
another thread. Gate and counters share one lock, so that closing the gate and
letting a request in exclude each other: a request is either counted before the
gate closed, and the drain waits for it, or it is not let in and waits for the
node to wake again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.domain.names import NodeName


@dataclass(frozen=True, slots=True)
class NodeTraffic:
    """One node's requests at one moment.

    `running` are with its engine; `waiting` are held until it is ready.
    `last_request_at` is when a request last came or went, in UNIX seconds; None
    for never. `is_open` is False while its gate is closed.
    """

    running: int = 0
    waiting: int = 0
    last_request_at: float | None = None
    is_open: bool = True

    @property
    def is_busy(self) -> bool:
        """Somebody's request is with it or waits for it."""
        return self.running > 0 or self.waiting > 0


NO_TRAFFIC = NodeTraffic()


class _Lane:
    """One node's counters."""

    __slots__ = ("closed", "last", "running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.last: float | None = None
        self.closed = 0
        """How many keep the gate closed."""

    @property
    def is_open(self) -> bool:
        return not self.closed


class InFlight:
    """Gates and counters of all nodes. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[NodeName, _Lane] = {}

    def enter(self, node: NodeName, now: float) -> bool:
        """Count a request as running, unless the gate is closed: then nothing is counted and the answer is False."""
        with self._lock:
            lane = self._lane(node)
            if not lane.is_open:
                return False
            lane.running += 1
            lane.last = now
            return True

    def leave(self, node: NodeName, now: float) -> None:
        """Count a running request as over."""
        with self._lock:
            lane = self._lane(node)
            lane.running -= 1
            lane.last = now

    def start_waiting(self, node: NodeName, now: float, *, most: int) -> bool:
        """Count a request as waiting, unless `most` wait already: then the answer is False."""
        with self._lock:
            lane = self._lane(node)
            if lane.waiting >= most:
                return False
            lane.waiting += 1
            lane.last = now
            return True

    def stop_waiting(self, node: NodeName) -> None:
        """Count a waiting request as served, gone or given up."""
        with self._lock:
            self._lane(node).waiting -= 1

    def close(self, node: NodeName) -> None:
        """Let no request in from now on; those inside go on. Who closes it several times opens it as often."""
        with self._lock:
            self._lane(node).closed += 1

    def open(self, node: NodeName) -> None:
        """Let requests in, unless somebody else keeps the gate closed."""
        with self._lock:
            self._lane(node).closed -= 1

    def of(self, node: NodeName) -> NodeTraffic:
        """Return one node's traffic."""
        with self._lock:
            return _seen(self._lanes[node]) if node in self._lanes else NO_TRAFFIC

    def all(self) -> Mapping[NodeName, NodeTraffic]:
        """Return the traffic of every node that ever had any."""
        with self._lock:
            return {node: _seen(lane) for node, lane in self._lanes.items()}

    def _lane(self, node: NodeName) -> _Lane:
        return self._lanes.setdefault(node, _Lane())


def _seen(lane: _Lane) -> NodeTraffic:
    return NodeTraffic(lane.running, lane.waiting, lane.last, lane.is_open)
