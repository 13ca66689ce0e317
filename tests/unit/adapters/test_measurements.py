"""Figures of the past in SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.adapters.storage import measurements
from provisioner.adapters.storage.measurements import SqliteMeasurements
from provisioner.adapters.storage.sqlite import SqliteActivityLog
from provisioner.domain.activity import ActivityRecord
from provisioner.domain.measurement import MeasuredThing, Measurement
from provisioner.domain.names import ModeName, NodeName
from provisioner.errors import InputError

THING = MeasuredThing(NodeName("llm-gpu-01"), ModeName("small"), "abc", "probe")
OTHER = MeasuredThing(NodeName("llm-gpu-01"), ModeName("small"), "def", "probe")


def test_the_newest_come_first_and_only_those_of_the_same_thing(tmp_path: Path) -> None:
    log = SqliteMeasurements(tmp_path / "p.sqlite")
    for at in (1.0, 2.0, 3.0):
        log.add(Measurement(THING, at, {"seconds": at / 10}))
    log.add(Measurement(OTHER, 4.0, {"seconds": 9.0}))
    assert [each.at for each in SqliteMeasurements(tmp_path / "p.sqlite").last(THING, 2)] == [3.0, 2.0]
    assert log.last(THING, 1)[0].figures == {"seconds": 0.3}


def test_it_lives_beside_the_activity_log(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    SqliteActivityLog(path).record(THING.node, ActivityRecord(1.0, 2.0))
    SqliteMeasurements(path).add(Measurement(THING, 1.0, {"seconds": 1.0}))
    assert SqliteActivityLog(path).last(THING.node) == ActivityRecord(1.0, 2.0)
    assert len(SqliteMeasurements(path).last(THING, 9)) == 1


def test_the_oldest_are_dropped_beyond_what_anybody_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "_MOST_KEPT", 3)
    log = SqliteMeasurements(tmp_path / "p.sqlite")
    log.add(Measurement(OTHER, 0.0, {}))
    for at in range(6):
        log.add(Measurement(THING, float(at), {}))
    assert [each.at for each in log.last(THING, 9)] == [5.0, 4.0, 3.0]
    assert len(log.last(OTHER, 9)) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot remember measurements") as caught:
        SqliteMeasurements(tmp_path / "file" / "p.sqlite").add(Measurement(THING, 1.0, {}))
    assert "PROVISIONER_STATE" in caught.value.next_step


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.sqlite").write_text("this is no database, and long enough to be told apart from one" * 20)
    with pytest.raises(InputError, match="not a database"):
        SqliteMeasurements(tmp_path / "p.sqlite").last(THING, 1)
