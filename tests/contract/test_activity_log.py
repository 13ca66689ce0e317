"""What every activity log keeps: the one in SQLite and the one of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.adapters.storage.sqlite import SqliteActivityLog
from provisioner.domain.activity import ActivityRecord, HoursServed
from provisioner.domain.names import NodeName
from provisioner.ports.activity_log import ActivityLog
from tests.fakes.world import MemoryActivityLog

ONE, OTHER = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")
RECORD = ActivityRecord(5.0, 1000.0, 60.0, 1060.0, "gateway=1;logins=2", 990.0, is_quiet=False)


@pytest.fixture(params=["sqlite", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> ActivityLog:
    if request.param == "sqlite":
        return SqliteActivityLog(tmp_path / "provisioner.sqlite")
    return MemoryActivityLog()


def test_what_was_recorded_is_told_field_by_field(log: ActivityLog) -> None:
    assert log.last(ONE) is None
    log.record(ONE, RECORD)
    log.record(ONE, RECORD)
    log.record(OTHER, ActivityRecord(1.0, 2.0))
    assert log.last(ONE) == RECORD
    assert log.last(OTHER) == ActivityRecord(1.0, 2.0)


def test_what_is_forgotten_takes_the_served_hours_not_with_it(log: ActivityLog) -> None:
    log.record(ONE, RECORD)
    log.serve_hours(ONE, HoursServed(500.0))
    log.forget(ONE)
    log.forget(OTHER)
    assert log.last(ONE) is None
    assert log.hours_served(ONE) == HoursServed(500.0)
    log.serve_hours(ONE, HoursServed(500.0, 510.0))
    assert log.hours_served(ONE) == HoursServed(500.0, 510.0)
    assert log.hours_served(OTHER) is None
