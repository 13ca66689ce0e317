"""The port `SwitchLog`, beside last activity in one SQLite file."""

from __future__ import annotations

from pathlib import Path

from provisioner.adapters.storage.sqlite import connection
from provisioner.domain.names import ModeName, NodeName
from provisioner.ports.switch_log import SwitchRecord

_SCHEMA = """
CREATE TABLE IF NOT EXISTS mode_switch (
    node TEXT NOT NULL,
    mode TEXT NOT NULL,
    previous TEXT NOT NULL,
    did TEXT NOT NULL,
    at REAL NOT NULL,
    seconds REAL NOT NULL
) STRICT
"""


class SqliteSwitchLog:
    """Changes of mode."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, record: SwitchRecord) -> None:
        """Keep one."""
        with connection(self._path, _SCHEMA) as database:
            database.execute(
                "INSERT INTO mode_switch VALUES (?, ?, ?, ?, ?, ?)",
                (record.node, record.mode, record.previous, record.did, record.at, record.seconds),
            )

    def last(self, node: NodeName, mode: ModeName) -> SwitchRecord | None:
        """Return a node's latest change to a mode."""
        with connection(self._path, _SCHEMA) as database:
            row = database.execute(
                "SELECT node, mode, previous, did, at, seconds FROM mode_switch "
                "WHERE node = ? AND mode = ? ORDER BY at DESC LIMIT 1",
                (node, mode),
            ).fetchone()
        return SwitchRecord(*row) if row else None
