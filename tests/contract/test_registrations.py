"""What is remembered of telling orchestrators: in SQLite and in the tests' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.adapters.storage.registrations import SqliteRegistrations
from provisioner.domain.orchestrator import OrchestratorName, Registration
from provisioner.ports.registrations import Registrations
from tests.fakes.world import MemoryRegistrations

N8N = OrchestratorName("n8n")


@pytest.fixture(params=["sqlite", "memory"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Registrations:
    if request.param == "sqlite":
        return SqliteRegistrations(tmp_path / "provisioner.sqlite")
    return MemoryRegistrations()


def test_the_latest_is_told_field_by_field(kept: Registrations) -> None:
    assert kept.of(N8N) == Registration(N8N)
    latest = Registration(N8N, ("a", "b"), 5.0, "edited", 7.0, "refused", 3, 9.0)
    kept.put(Registration(N8N, ("a",), 1.0))
    kept.put(latest)
    kept.put(Registration(OrchestratorName("other")))
    assert kept.of(N8N) == latest
