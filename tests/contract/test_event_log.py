"""Every journal keeps the same promises."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from provisioner.adapters.storage.event_log import SqliteEventLog
from provisioner.domain.events import EventQuery, Kind, NewEntry
from provisioner.domain.names import NodeName
from provisioner.ports.event_log import EventLog
from tests.fakes.event_log import MemoryEventLog

ONE = NodeName("llm-gpu-01")


@pytest.fixture(params=["fake", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    return MemoryEventLog() if request.param == "fake" else SqliteEventLog(tmp_path / "state" / "provisioner.sqlite")


def test_an_empty_journal_has_no_number(log: EventLog) -> None:
    assert (log.last_number(), log.after(0), log.latest()) == (0, (), ())


def test_what_was_added_is_read_again_from_any_number_on(log: EventLog) -> None:
    kept = [log.add(NewEntry(Kind.WAKE, ONE, "started", f"no. {n}", "n8n", {"waiting": n}), 10.0 + n) for n in range(5)]
    assert log.after(0) == tuple(kept)
    assert log.after(kept[2].number) == tuple(kept[3:])
    assert log.after(0, limit=2) == tuple(kept[:2])
    assert log.last_number() == kept[-1].number


def test_several_are_kept_in_their_order(log: EventLog) -> None:
    first = log.add(NewEntry(Kind.SERVICE), 1.0)
    kept = log.add_all([(NewEntry(Kind.STEP, ONE, detail=str(n)), 2.0 + n) for n in range(3)])
    assert [each.number for each in kept] == [2, 3, 4]
    assert log.after(0) == (first, *kept)
    assert log.add_all([]) == ()


def test_the_latest_of_one_node_come_oldest_first(log: EventLog) -> None:
    for n in range(6):
        log.add(NewEntry(Kind.STEP, ONE if n % 2 else None, detail=str(n)), float(n))
    assert [each.detail for each in log.latest(limit=2, node=ONE)] == ["3", "5"]
    assert [each.detail for each in log.latest(limit=3)] == ["3", "4", "5"]


def test_a_number_is_never_given_twice(log: EventLog) -> None:
    for n in range(3):
        log.add(NewEntry(Kind.SERVICE), float(n))
    assert log.forget(before=10.0) == 3
    assert log.last_number() == 3
    assert log.add(NewEntry(Kind.SERVICE), 11.0).number == 4


def test_entries_are_found_by_words_kind_and_node_newest_first(log: EventLog) -> None:
    log.add(NewEntry(Kind.WAKE, ONE, "failed", "GPU 100% busy_or gone \\o/", "n8n"), 1.0)
    log.add(NewEntry(Kind.WAKE, NodeName("llm-gpu-02"), "done"), 2.0)
    log.add(NewEntry(Kind.STATE, ONE, "ready", "its model has answered"), 3.0)

    def numbers(*words: str, **more: object) -> list[int]:
        return [each.number for each in log.find(EventQuery(words, **more))]  # type: ignore[arg-type]

    assert numbers() == [3, 2, 1]
    assert numbers("GPU-01") == [3, 1]
    assert numbers("gpu", "WAKE") == [2, 1]
    assert numbers(kind=Kind.STATE) == [3]
    assert numbers(node=ONE, before=3) == [1]
    # What other tongues read as a pattern is a word here.
    assert (numbers("100%"), numbers("busy_or"), numbers("y_r"), numbers("0%b"), numbers("\\o/")) == (
        [1],
        [1],
        [],
        [],
        [1],
    )
    assert [each.number for each in log.find(EventQuery(), limit=2)] == [3, 2]


def test_the_day_begins_with_what_was_seen_last_before_it(log: EventLog) -> None:
    assert (log.number_before(5.0), log.last_states(9)) == (0, ())
    for at, node, phase in ((1.0, ONE, "asleep"), (2.0, NodeName("b"), "ready"), (3.0, ONE, "ready")):
        log.add(NewEntry(Kind.STATE, node, phase), at)
    log.add(NewEntry(Kind.STEP, ONE, "done"), 4.0)
    assert (log.number_before(3.0), log.number_before(9.0)) == (2, 4)
    assert [(each.node, each.phase) for each in log.last_states(4)] == [("b", "ready"), (ONE, "ready")]
    assert [(each.node, each.phase) for each in log.last_states(2)] == [(ONE, "asleep"), ("b", "ready")]


def test_threads_get_numbers_of_their_own(log: EventLog) -> None:
    def work() -> None:
        for _ in range(20):
            log.add(NewEntry(Kind.STEP, ONE), 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.number for each in log.after(0)] == list(range(1, 81))
