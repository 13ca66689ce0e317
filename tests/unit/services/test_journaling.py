"""The journal's own thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from provisioner.adapters.storage.event_log import SqliteEventLog
from provisioner.domain.events import Entry, Kind, NewEntry
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


def test_a_crowd_of_entries_takes_few_turns_at_the_disk(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "events.sqlite")
    turns: list[int] = []
    one_go = log.add_all

    def slow(entries: Sequence[tuple[NewEntry, float]]) -> tuple[Entry, ...]:
        may_go_on.wait(5)
        turns.append(len(entries))
        return one_go(entries)

    may_go_on = threading.Event()
    log.add_all = slow  # type: ignore[method-assign]
    journal = Journal(log, FakeClock())
    journal.start()
    for number in range(300):
        journal.add(NewEntry(Kind.STATE, phase=str(number)))
    may_go_on.set()
    assert journal.last_number() == 300
    journal.close()
    assert len(turns) <= 3
    assert [each.phase for each in journal.after(0)] == [str(number) for number in range(300)]


def test_what_is_added_while_it_ends_is_kept(tmp_path: Path) -> None:
    journal = Journal(SqliteEventLog(tmp_path / "events.sqlite"), FakeClock())
    journal.start()
    told = threading.Event()

    def add() -> None:
        for number in range(200):
            journal.add(NewEntry(Kind.STATE, phase=str(number)))
            told.set()

    adding = threading.Thread(target=add)
    adding.start()
    told.wait(5)
    journal.close()
    adding.join()
    journal.close()
    assert len(journal.after(0)) == 200


def test_a_listener_whose_loop_is_gone_keeps_nobody_else_from_hearing(tmp_path: Path) -> None:
    journal = Journal(SqliteEventLog(tmp_path / "events.sqlite"), FakeClock())
    heard: list[int] = []

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    journal.listen(gone)
    journal.listen(lambda: heard.append(1))
    journal.add(NewEntry(Kind.STATE, phase="ready"))
    assert heard == [1]
