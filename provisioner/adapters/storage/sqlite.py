"""The port `ActivityLog` in one SQLite file (WAL mode: readers never block, kill -9 loses nothing committed)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from provisioner.domain.activity import ActivityRecord, HoursServed
from provisioner.domain.names import NodeName
from provisioner.errors import InputError

# What an earlier version wrote, in the table `activity`, was forgotten by its next pass.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS node_use (
    node TEXT PRIMARY KEY,
    work_total REAL NOT NULL,
    quiet_since REAL NOT NULL,
    quiet_uptime REAL NOT NULL,
    seen_at REAL NOT NULL,
    mark TEXT NOT NULL,
    unknown_since REAL,
    is_quiet INTEGER NOT NULL
) STRICT
"""
_HOURS_SCHEMA = """
CREATE TABLE IF NOT EXISTS awake_hours (
    node TEXT PRIMARY KEY,
    begins REAL NOT NULL,
    failed_at REAL
) STRICT
"""
# Another process writes for milliseconds at most; this is for a disk that has gone slow.
_BUSY_SECONDS = 10.0


class SqliteActivityLog:
    """Last activity by node. A connection per call: idle passes are minutes apart."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self, node: NodeName) -> ActivityRecord | None:
        """Return what was last recorded."""
        with self._connection() as connection:
            row = connection.execute(
                "SELECT work_total, quiet_since, quiet_uptime, seen_at, mark, unknown_since, is_quiet FROM node_use "
                "WHERE node = ?",
                (node,),
            ).fetchone()
        if row is None:
            return None
        record = ActivityRecord(*row)
        # The database knows no truth values, only numbers.
        return replace(record, is_quiet=bool(record.is_quiet))

    def record(self, node: NodeName, record: ActivityRecord) -> None:
        """Replace what was recorded."""
        with self._connection() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO node_use VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    node,
                    record.work_total,
                    record.quiet_since,
                    record.quiet_uptime,
                    record.seen_at,
                    record.mark,
                    record.unknown_since,
                    record.is_quiet,
                ),
            )

    def forget(self, node: NodeName) -> None:
        """Drop the record of a node."""
        with self._connection() as connection:
            connection.execute("DELETE FROM node_use WHERE node = ?", (node,))

    def hours_served(self, node: NodeName) -> HoursServed | None:
        """Return the awake hours that a node was last on in, or woken for."""
        with connection(self._path, _HOURS_SCHEMA) as opened:
            row = opened.execute("SELECT begins, failed_at FROM awake_hours WHERE node = ?", (node,)).fetchone()
        return HoursServed(*row) if row else None

    def serve_hours(self, node: NodeName, served: HoursServed) -> None:
        """Replace them."""
        with connection(self._path, _HOURS_SCHEMA) as opened:
            opened.execute(
                "INSERT OR REPLACE INTO awake_hours VALUES (?, ?, ?)", (node, served.begins, served.failed_at)
            )

    def _connection(self) -> AbstractContextManager[sqlite3.Connection]:
        return connection(self._path, _SCHEMA)


@contextmanager
def connection(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """Open our database for one transaction. Raises InputError when it cannot be used."""
    opened = open_database(path, schema)
    try:
        with opened:
            yield opened
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    finally:
        opened.close()


def open_database(path: Path, schema: str) -> sqlite3.Connection:
    """Return a connection to our database. Raises InputError when it cannot be used."""
    opened = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = sqlite3.connect(path, timeout=_BUSY_SECONDS)
        opened.execute("PRAGMA journal_mode = WAL")
        # A commit has reached the disk when it returns, whatever then becomes of process and power. It is what SQLite
        # does unless it was built otherwise.
        opened.execute("PRAGMA synchronous = FULL")
        with opened:
            opened.execute(schema)
    except (OSError, sqlite3.Error) as error:
        if opened is not None:
            opened.close()
        raise unusable(path, error) from error
    return opened


def unusable(path: Path, error: Exception) -> InputError:
    """Return the error that says so."""
    return InputError(
        f"cannot remember activity: {error}",
        subject=str(path),
        next_step="make that folder writable, or name another one in PROVISIONER_STATE",
    )
