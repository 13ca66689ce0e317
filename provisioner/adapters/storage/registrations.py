"""The port `Registrations`, beside last activity in one SQLite file."""

from __future__ import annotations

import json
from pathlib import Path

from provisioner.adapters.storage.sqlite import connection
from provisioner.domain.orchestrator import OrchestratorName, Registration

_SCHEMA = """
CREATE TABLE IF NOT EXISTS registrations (
    orchestrator TEXT PRIMARY KEY,
    nodes TEXT NOT NULL,
    at REAL NOT NULL,
    remark TEXT NOT NULL,
    failing_since REAL,
    reason TEXT NOT NULL,
    tries INTEGER NOT NULL,
    next_try_at REAL NOT NULL
) STRICT
"""


class SqliteRegistrations:
    """The latest try per orchestrator."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, orchestrator: OrchestratorName) -> Registration:
        """Return what is known; one without any try where nothing is."""
        with connection(self._path, _SCHEMA) as database:
            row = database.execute("SELECT * FROM registrations WHERE orchestrator = ?", (orchestrator,)).fetchone()
        return Registration(orchestrator, tuple(json.loads(row[1])), *row[2:]) if row else Registration(orchestrator)

    def put(self, registration: Registration) -> None:
        """Replace it."""
        each = registration
        with connection(self._path, _SCHEMA) as database:
            database.execute(
                "INSERT OR REPLACE INTO registrations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    each.orchestrator,
                    json.dumps(each.nodes),
                    each.at,
                    each.remark,
                    each.failing_since,
                    each.reason,
                    each.tries,
                    each.next_try_at,
                ),
            )
