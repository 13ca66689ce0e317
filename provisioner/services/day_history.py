"""The last day of the fleet, kept in memory: read from journal and ledger once, then only what is new of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from provisioner.domain.day import NodeDay
from provisioner.domain.events import Entry, Kind
from provisioner.domain.ledger import Timing
from provisioner.domain.names import NodeName
from provisioner.planning.request_charts import Step, steps
from provisioner.planning.timeline import Unwatched, node_day, unwatched
from provisioner.ports.clock import Clock
from provisioner.services.journaling import Journal

DAY_SECONDS = 86400.0
_PORTION = 2000
# More requests in a day than a home makes; of more, the newest are shown.
_MOST_TIMINGS = 50_000
# Kept beyond the day: a request that takes long is written down long after it came.
_LONGEST_REQUEST_SECONDS = 3600.0
_FORGET_EVERY_SECONDS = 600.0
_TOLD = (Kind.STATE, Kind.WAKE, Kind.SLEEP, Kind.MODE)


class RequestTimes(Protocol):
    """The record of requests, as far as a day needs it."""

    def timings(self, *, after: int, since: float, most: int) -> tuple[Timing, ...]:
        """Return the newest timings with a greater number that came at or after a moment, oldest first."""
        ...


@dataclass(slots=True)
class _Gaps:
    """What `unwatched` needs of all entries: the service's own, each with the one before it."""

    kept: deque[Entry]
    last: Entry | None = None

    def add(self, entry: Entry) -> None:
        if entry.kind is Kind.SERVICE:
            if self.last is not None and (not self.kept or self.kept[-1] is not self.last):
                self.kept.append(self.last)
            self.kept.append(entry)
        self.last = entry


class DayHistory:
    """Answers what nodes were over the last day. Safe to use from several threads; blocks while it reads."""

    def __init__(self, journal: Journal, ledger: RequestTimes, clock: Clock) -> None:
        self._journal = journal
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._number: int | None = None
        self._by_node: dict[NodeName, list[Entry]] = {}
        self._gaps = _Gaps(deque())
        self._timings: deque[Timing] = deque(maxlen=_MOST_TIMINGS)
        self._timed = 0
        self._forgot = 0.0

    def now(self) -> float:
        """Return the moment with which the day ends, in UNIX seconds."""
        return self._clock.now()

    def days(self, nodes: Iterable[NodeName]) -> Mapping[NodeName, NodeDay]:
        """Return the last day of nodes, up to now."""
        with self._lock:
            now = self._read()
            begins = now - DAY_SECONDS
            gaps = unwatched(self._gaps.kept)
            busy: dict[str, list[tuple[float, float]]] = {}
            for each in self._timings:
                if each.node and each.at + each.seconds > begins:
                    busy.setdefault(each.node, []).append((each.at + each.waited_seconds, each.at + each.seconds))
            return {node: self._day(node, gaps, busy.get(node, ()), begins, now) for node in nodes}

    def steps(self, *, count: int, seconds: float, node: NodeName | None = None) -> tuple[Step, ...]:
        """Return requests of the fleet, or of one node, in steps of time; the last step is the one that goes on."""
        with self._lock:
            now = self._read()
            chosen = self._timings if node is None else [each for each in self._timings if each.node == node]
            # Steps begin at round moments, or every look would draw other numbers.
            begins = (now // seconds - count + 1) * seconds
            return steps(chosen, begins=begins, count=count, seconds=seconds)

    def _day(
        self,
        node: NodeName,
        gaps: tuple[Unwatched, ...],
        busy: Iterable[tuple[float, float]],
        begins: float,
        now: float,
    ) -> NodeDay:
        return node_day(self._by_node.get(node, ()), gaps, busy, begins=begins, ends=now)

    def _read(self) -> float:
        now = self._clock.now()
        if self._number is None:
            self._number = self._journal.number_before(now - DAY_SECONDS)
            for entry in self._journal.last_states(self._number):
                self._take(entry)
            # Only a service writes here: where it had ended by then, the day began unwatched.
            for entry in self._journal.after(self._number - 1, limit=1):
                self._gaps.add(entry)
        while entries := self._journal.after(self._number, limit=_PORTION):
            self._number = entries[-1].number
            for entry in entries:
                self._gaps.add(entry)
                self._take(entry)
        since = now - DAY_SECONDS - _LONGEST_REQUEST_SECONDS
        for timing in self._ledger.timings(after=self._timed, since=since, most=_MOST_TIMINGS):
            self._timed = timing.number
            self._timings.append(timing)
        self._forget(now - DAY_SECONDS)
        return now

    def _take(self, entry: Entry) -> None:
        if entry.node is not None and entry.kind in _TOLD:
            self._by_node.setdefault(entry.node, []).append(entry)

    def _forget(self, before: float) -> None:
        """Drop what is older; of each node the last state from before stays, for the day begins in it."""
        if before < self._forgot + _FORGET_EVERY_SECONDS:
            return
        self._forgot = before
        for node, kept in self._by_node.items():
            first = next((entry for entry in reversed(kept) if entry.at < before and entry.kind is Kind.STATE), None)
            self._by_node[node] = ([first] if first else []) + [entry for entry in kept if entry.at >= before]
        while len(self._gaps.kept) > 1 and self._gaps.kept[1].at < before:
            self._gaps.kept.popleft()
        while self._timings and self._timings[0].at < before - _LONGEST_REQUEST_SECONDS:
            self._timings.popleft()
