"""The journal's own thread."""

from __future__ import annotations

import threading
from pathlib import Path

from provisioner.adapters.storage.event_log import SqliteEventLog
from provisioner.domain.events import Kind, NewEntry
from provisioner.services.journaling import Journal
from tests.fakes.clock import FakeClock


def test_an_entry_that_no_database_takes_is_lost_and_the_others_are_kept(tmp_path: Path) -> None:
    journal = Journal(SqliteEventLog(tmp_path / "events.sqlite"), FakeClock())
    journal.start()
    journal.add(NewEntry(Kind.STATE, phase="loading", detail="half a sign: \ud800"))
    journal.add(NewEntry(Kind.STATE, phase="ready"))
    numbers: list[int] = []
    asked = threading.Thread(target=lambda: numbers.append(journal.last_number()), daemon=True)
    asked.start()
    asked.join(5)
    assert numbers == [1]
    journal.close()
    assert [each.phase for each in journal.after(0)] == ["ready"]


def test_a_listener_whose_loop_is_gone_keeps_nobody_else_from_hearing(tmp_path: Path) -> None:
    journal = Journal(SqliteEventLog(tmp_path / "events.sqlite"), FakeClock())
    heard: list[int] = []

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    journal.listen(gone)
    journal.listen(lambda: heard.append(1))
    journal.add(NewEntry(Kind.STATE, phase="ready"))
    assert heard == [1]
