"""The port `ActivityLog` in one SQLite file (WAL mode: readers never block, kill -9 loses nothing committed)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from provisioner.domain.activity import ActivityRecord
from provisioner.domain.names import NodeName
from provisioner.errors import InputError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS activity (
    node TEXT PRIMARY KEY,
    work_total REAL NOT NULL,
    quiet_since REAL NOT NULL
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
            row = connection.execute("SELECT work_total, quiet_since FROM activity WHERE node = ?", (node,)).fetchone()
        return ActivityRecord(*row) if row else None

    def record(self, node: NodeName, record: ActivityRecord) -> None:
        """Replace what was recorded."""
        with self._connection() as connection:
            connection.execute(
                "INSERT INTO activity VALUES (?, ?, ?) ON CONFLICT (node) DO UPDATE "
                "SET work_total = excluded.work_total, quiet_since = excluded.quiet_since",
                (node, record.work_total, record.quiet_since),
            )

    def forget(self, node: NodeName) -> None:
        """Drop the record of a node."""
        with self._connection() as connection:
            connection.execute("DELETE FROM activity WHERE node = ?", (node,))

    def _connection(self) -> AbstractContextManager[sqlite3.Connection]:
        return connection(self._path, _SCHEMA)


@contextmanager
def connection(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """Open our database for one transaction. Raises InputError when it cannot be used."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = sqlite3.connect(path, timeout=_BUSY_SECONDS)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from error
    try:
        with opened:
            opened.execute("PRAGMA journal_mode = WAL")
            opened.execute(schema)
            yield opened
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    finally:
        opened.close()


def _unusable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot remember activity: {error}",
        subject=str(path),
        next_step="make that folder writable, or name another one in PROVISIONER_STATE",
    )
