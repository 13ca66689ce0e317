"""The port `EventLog`, beside last activity in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from provisioner.adapters.storage.sqlite import connection
from provisioner.domain.events import Entry, EventQuery, Kind, NewEntry
from provisioner.domain.names import NodeName

# AUTOINCREMENT: a number that was given is never given again, also when its entry has been forgotten.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    node TEXT,
    phase TEXT NOT NULL,
    detail TEXT NOT NULL,
    asked_by TEXT NOT NULL,
    facts TEXT NOT NULL
) STRICT
"""
_COLUMNS = "number, at, kind, node, phase, detail, asked_by, facts"


class SqliteEventLog:
    """What happened. A connection per call: events are steps of work, not requests."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, entry: NewEntry, at: float) -> Entry:
        """Keep one thing that happened."""
        return self.add_all([(entry, at)])[0]

    def add_all(self, entries: Sequence[tuple[NewEntry, float]]) -> tuple[Entry, ...]:
        """Keep several things that happened, in one transaction."""
        with connection(self._path, _SCHEMA) as database:
            return tuple([_kept(database, entry, at) for entry, at in entries])

    def after(self, number: int, *, limit: int = 500) -> tuple[Entry, ...]:
        """Return the entries with a greater number, the oldest first."""
        with connection(self._path, _SCHEMA) as database:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM event WHERE number > ? ORDER BY number LIMIT ?",  # noqa: S608 (our own words)
                (number, limit),
            ).fetchall()
        return tuple(_entry(row) for row in rows)

    def latest(self, *, limit: int = 100, node: str | None = None) -> tuple[Entry, ...]:
        """Return the newest entries, the oldest of them first."""
        with connection(self._path, _SCHEMA) as database:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM event WHERE ? IS NULL OR node = ? ORDER BY number DESC LIMIT ?",  # noqa: S608
                (node, node, limit),
            ).fetchall()
        return tuple(_entry(row) for row in reversed(rows))

    def find(self, query: EventQuery, *, limit: int = 100) -> tuple[Entry, ...]:
        """Return the newest entries that match, the newest first."""
        # char(10) keeps a word from matching over the end of one column into the next.
        text = (
            "kind || char(10) || coalesce(node, '') || char(10) || phase || char(10) || detail || char(10) || asked_by"
        )
        terms, values = ["1"], list[object]()
        for word in query.words:
            terms.append(f"{text} LIKE ? ESCAPE '\\'")
            values.append(f"%{_literally(word)}%")
        if query.kind is not None:
            terms.append("kind = ?")
            values.append(query.kind.value)
        if query.node:
            terms.append("node = ?")
            values.append(query.node)
        if query.before is not None:
            terms.append("number < ?")
            values.append(query.before)
        with connection(self._path, _SCHEMA) as database:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM event WHERE {' AND '.join(terms)} "  # noqa: S608 (our own words)
                "ORDER BY number DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        return tuple(_entry(row) for row in rows)

    def number_before(self, at: float) -> int:
        """Return the number of the last entry before a moment."""
        with connection(self._path, _SCHEMA) as database:
            row = database.execute(
                "SELECT number FROM event WHERE at < ? ORDER BY number DESC LIMIT 1", (at,)
            ).fetchone()
        return int(row[0]) if row else 0

    def last_states(self, number: int) -> tuple[Entry, ...]:
        """Return the last entry of kind `state` of every node among those up to a number."""
        with connection(self._path, _SCHEMA) as database:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM event WHERE number IN (SELECT max(number) FROM event "  # noqa: S608
                "WHERE kind = ? AND number <= ? GROUP BY node) ORDER BY number",
                (Kind.STATE.value, number),
            ).fetchall()
        return tuple(_entry(row) for row in rows)

    def last_number(self) -> int:
        """Return the number of the newest entry, forgotten ones included."""
        with connection(self._path, _SCHEMA) as database:
            row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
        return int(row[0]) if row else 0

    def forget(self, *, before: float) -> int:
        """Drop what happened before a moment."""
        with connection(self._path, _SCHEMA) as database:
            return database.execute("DELETE FROM event WHERE at < ?", (before,)).rowcount


def _kept(database: sqlite3.Connection, entry: NewEntry, at: float) -> Entry:
    number = database.execute(
        "INSERT INTO event (at, kind, node, phase, detail, asked_by, facts) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (at, entry.kind.value, entry.node, entry.phase, entry.detail, entry.by, json.dumps(entry.facts)),
    ).lastrowid
    return Entry(number or 0, at, entry.kind, entry.node, entry.phase, entry.detail, entry.by, entry.facts)


def _literally(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _entry(row: tuple[int, float, str, str | None, str, str, str, str]) -> Entry:
    number, at, kind, node, phase, detail, by, facts = row
    return Entry(number, at, Kind(kind), NodeName(node) if node else None, phase, detail, by, json.loads(facts))
