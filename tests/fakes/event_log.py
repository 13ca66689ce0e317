"""A journal in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from provisioner.domain.events import Entry, EventQuery, Kind, NewEntry


class MemoryEventLog:
    """The port `EventLog`."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._given = 0
        self._lock = threading.Lock()

    def add(self, entry: NewEntry, at: float) -> Entry:
        return self.add_all([(entry, at)])[0]

    def add_all(self, entries: Sequence[tuple[NewEntry, float]]) -> tuple[Entry, ...]:
        with self._lock:
            kept = tuple(
                Entry(self._given + n, at, new.kind, new.node, new.phase, new.detail, new.by, new.facts)
                for n, (new, at) in enumerate(entries, 1)
            )
            self._given += len(kept)
            self.entries.extend(kept)
            return kept

    def after(self, number: int, *, limit: int = 500) -> tuple[Entry, ...]:
        return tuple([each for each in self.entries if each.number > number][:limit])

    def latest(self, *, limit: int = 100, node: str | None = None) -> tuple[Entry, ...]:
        return tuple([each for each in self.entries if node is None or each.node == node][-limit:])

    def find(self, query: EventQuery, *, limit: int = 100) -> tuple[Entry, ...]:
        return tuple([each for each in reversed(self.entries) if query.matches(each)][:limit])

    def number_before(self, at: float) -> int:
        return max((each.number for each in self.entries if each.at < at), default=0)

    def last_states(self, number: int) -> tuple[Entry, ...]:
        found = [each for each in self.entries if each.kind is Kind.STATE and each.number <= number]
        return tuple(sorted({each.node: each for each in found}.values(), key=lambda each: each.number))

    def last_number(self) -> int:
        return self._given

    def forget(self, *, before: float) -> int:
        kept = [each for each in self.entries if each.at >= before]
        gone, self.entries = len(self.entries) - len(kept), kept
        return gone
