"""The port `MeasurementLog` in the SQLite file beside the activity log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioner.domain.measurement import MeasuredThing, Measurement
from provisioner.errors import InputError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    node TEXT NOT NULL,
    mode TEXT NOT NULL,
    setup TEXT NOT NULL,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    figures TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS measurements_by_thing ON measurements (node, mode, setup, kind, at);
"""
# Another process writes for milliseconds at most; this is for a disk that has gone slow.
_BUSY_SECONDS = 10.0
# A probe every minute for a week; what is older helps nobody.
_MOST_KEPT = 10_000


class SqliteMeasurements:
    """Figures of the past. A connection per call: measuring takes far longer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, measurement: Measurement) -> None:
        """Keep one, and drop the oldest of its thing beyond what anybody looks at."""
        thing = measurement.thing
        key = (thing.node, thing.mode, thing.setup, thing.kind)
        with self._connection() as connection:
            connection.execute(
                "INSERT INTO measurements VALUES (?, ?, ?, ?, ?, ?)",
                (*key, measurement.at, json.dumps(dict(measurement.figures), sort_keys=True)),
            )
            connection.execute(
                "DELETE FROM measurements WHERE rowid IN (SELECT rowid FROM measurements WHERE node = ? AND mode = ? "
                "AND setup = ? AND kind = ? ORDER BY at DESC, rowid DESC LIMIT -1 OFFSET ?)",
                (*key, _MOST_KEPT),
            )

    def last(self, thing: MeasuredThing, count: int) -> tuple[Measurement, ...]:
        """Return the newest of the same thing, newest first."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT at, figures FROM measurements WHERE node = ? AND mode = ? AND setup = ? AND kind = ? "
                "ORDER BY at DESC, rowid DESC LIMIT ?",
                (thing.node, thing.mode, thing.setup, thing.kind, count),
            ).fetchall()
        return tuple(Measurement(thing, at, json.loads(figures)) for at, figures in rows)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        try:
            with connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
                yield connection
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error
        finally:
            connection.close()

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"cannot remember measurements: {error}",
            subject=str(self._path),
            next_step="make that folder writable, or name another one in PROVISIONER_STATE",
        )
