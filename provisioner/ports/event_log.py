"""The journal of what happened in the fleet: kept, numbered, and read again from any number on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from provisioner.domain.events import Entry, EventQuery, NewEntry


class EventLog(Protocol):
    """Entries in the order of their numbers. Safe to use from several threads.

    What was added is on the disk when the call returns; neither kill -9 nor a power cut takes it.
    """

    def add(self, entry: NewEntry, at: float) -> Entry:
        """Keep one thing that happened.

        Args:
            entry: what.
            at: when, in UNIX seconds.
        """
        ...

    def add_all(self, entries: Sequence[tuple[NewEntry, float]]) -> tuple[Entry, ...]:
        """Keep several things that happened, each with its time: all of them, or none."""
        ...

    def after(self, number: int, *, limit: int = 500) -> tuple[Entry, ...]:
        """Return the entries with a greater number, the oldest first; what has been forgotten is left out."""
        ...

    def latest(self, *, limit: int = 100, node: str | None = None) -> tuple[Entry, ...]:
        """Return the newest entries, of one node if it is named, the oldest of them first."""
        ...

    def find(self, query: EventQuery, *, limit: int = 100) -> tuple[Entry, ...]:
        """Return the newest entries that match, the newest first."""
        ...

    def number_before(self, at: float) -> int:
        """Return the number of the last entry before a moment; 0 when there is none."""
        ...

    def last_states(self, number: int) -> tuple[Entry, ...]:
        """Return the last entry of kind `state` of every node among those up to a number."""
        ...

    def last_number(self) -> int:
        """Return the number of the newest entry; 0 when nothing has happened yet."""
        ...

    def forget(self, *, before: float) -> int:
        """Drop what happened before a moment; return how many entries went. Numbers are never given twice."""
        ...
