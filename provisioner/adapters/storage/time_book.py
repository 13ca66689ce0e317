"""The port `TimeBook` in the SQLite file beside the activity log: one row per node and day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path

from provisioner.adapters.storage.sqlite import connection
from provisioner.domain.names import NodeName
from provisioner.domain.savings import CountedTime

_COLUMNS = tuple(field.name for field in fields(CountedTime))
_DAY_SECONDS = 86400
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS node_time (
    day INTEGER NOT NULL, node TEXT NOT NULL, {", ".join(f"{name} REAL NOT NULL" for name in _COLUMNS)},
    PRIMARY KEY (day, node)
) STRICT, WITHOUT ROWID
"""
_ADD = (
    f"INSERT INTO node_time (day, node, {', '.join(_COLUMNS)}) VALUES (?, ?, {', '.join('?' * len(_COLUMNS))}) "  # noqa: S608 - of our own column names
    f"ON CONFLICT (day, node) DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _COLUMNS)}"
)
_TOTAL = f"SELECT node, {', '.join(f'sum({name})' for name in _COLUMNS)} FROM node_time WHERE day >= ? GROUP BY node"  # noqa: S608


class SqliteTimeBook:
    """Sums per node and day. A connection per call: what is counted is added once a minute."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, at: float, counted: Mapping[NodeName, CountedTime]) -> None:
        """Add what was counted to the day of a moment."""
        day = int(at // _DAY_SECONDS)
        with connection(self._path, _SCHEMA) as opened:
            opened.executemany(_ADD, [(day, node, *astuple(each)) for node, each in counted.items()])

    def total(self, since: float = 0.0) -> Mapping[NodeName, CountedTime]:
        """Return the sums from the day of a moment on."""
        with connection(self._path, _SCHEMA) as opened:
            rows = opened.execute(_TOTAL, (int(since // _DAY_SECONDS),)).fetchall()
        return {NodeName(node): CountedTime(*sums) for node, *sums in rows}

    def begins(self) -> float | None:
        """Return the beginning of the first day in it; None when it is empty."""
        with connection(self._path, _SCHEMA) as opened:
            (day,) = opened.execute("SELECT min(day) FROM node_time").fetchone()
        return None if day is None else float(day * _DAY_SECONDS)
