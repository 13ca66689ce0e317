"""What is counted of requests and of nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.ledger import LedgerEntry, Outcome
from provisioner.domain.names import NodeName
from provisioner.domain.timings import Timings
from provisioner.metrics.requests import BOUNDS, CountedLedger, RequestCounts
from provisioner.metrics.tally import Tally, earlier_wakes, usual
from tests.fakes.event_log import MemoryEventLog
from tests.fleets import fleet_from

ONE = NodeName("llm-gpu-01")
ANSWERED = LedgerEntry(
    0.0, "n8n", "/v1/chat/completions", "tiny", Outcome.ANSWERED, 200, 2.0, ONE, first_byte_seconds=0.05,
    tokens_in=10, tokens_out=40,
)  # fmt: skip


class Kept:
    """A ledger in a list."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []

    def add(self, entry: LedgerEntry) -> None:
        self.entries.append(entry)

    def last(self, count: int) -> tuple[LedgerEntry, ...]:
        return tuple(reversed(self.entries[-count:]))

    def since(self, at: float) -> tuple[LedgerEntry, ...]:
        return tuple(each for each in self.entries if each.at >= at)

    def after(self, number: int, count: int, caller: str = "") -> tuple[tuple[int, LedgerEntry], ...]:
        return tuple(enumerate(self.entries, 1))[number : number + count]

    def close(self) -> None:
        self.entries.clear()


def test_requests_are_counted_by_model_node_and_how_they_ended() -> None:
    counts = RequestCounts()
    for entry in (
        ANSWERED,
        ANSWERED,
        replace(ANSWERED, outcome=Outcome.FAILED, tokens_out=None),
        replace(ANSWERED, outcome=Outcome.REFUSED, node="", first_byte_seconds=None, tokens_in=None, tokens_out=None),
    ):
        counts.add(entry)
    found = counts.read()
    assert found.requests == {("tiny", ONE, "answered"): 2, ("tiny", ONE, "failed"): 1, ("tiny", "", "refused"): 1}
    assert found.tokens == {(ONE, "tiny", "in"): 30, (ONE, "tiny", "out"): 80}
    assert (sum(found.seconds[ONE].counts), found.seconds[ONE].total) == (3, 6.0)
    assert "" not in found.seconds


def test_a_duration_that_is_a_bound_falls_below_it_and_the_longest_above_all() -> None:
    counts = RequestCounts()
    for seconds in (BOUNDS[0], BOUNDS[0] + 0.001, 10_000.0):
        counts.add(replace(ANSWERED, seconds=seconds))
    spread = counts.read().seconds[ONE].counts
    assert (spread[0], spread[1], spread[-1]) == (1, 1, 1)


def test_who_waited_for_a_wake_and_whom_a_stand_in_answered_is_counted() -> None:
    counts = RequestCounts()
    counts.add(replace(ANSWERED, woke=True, waited_seconds=31.0))
    counts.add(replace(ANSWERED, is_fallback=True))
    found = counts.read()
    assert (found.held, found.fallbacks) == ({"tiny": 1}, {("tiny", ONE): 1})
    assert (sum(found.waits.counts), found.waits.total) == (1, 31.0)


def test_what_was_read_changes_no_more() -> None:
    counts = RequestCounts()
    counts.add(ANSWERED)
    before = counts.read()
    counts.add(ANSWERED)
    assert (before.requests["tiny", ONE, "answered"], sum(before.seconds[ONE].counts)) == (1, 1)


def test_a_counted_ledger_keeps_what_it_counts_and_counts_no_name_that_the_fleet_does_not_have(tmp_path: Path) -> None:
    kept, counts = Kept(), RequestCounts()
    ledger = CountedLedger(kept, fleet_from(tmp_path), counts.add)
    known = replace(ANSWERED, model="gemma-2-2b-it.gguf")
    strange = replace(ANSWERED, node="a-node-that-somebody-made-up")
    for entry in (known, strange, replace(known, node="")):
        ledger.add(entry)
    assert (ledger.last(2)[1], len(ledger.since(0.0)), len(ledger.after(0, 9))) == (strange, 3, 3)
    assert counts.read().requests == {
        ("gemma-2-2b-it.gguf", ONE, "answered"): 1,
        ("gemma-2-2b-it.gguf", "", "answered"): 1,
        ("other", "other", "answered"): 1,
    }
    ledger.close()
    assert kept.entries == []


def wake(phase: str, seconds: float = 0.0, *, started: bool = True) -> NewEntry:
    return NewEntry(Kind.WAKE, ONE, phase, facts={"seconds": seconds, "started": started} if phase == "done" else {})


def test_wakes_are_counted_by_their_end() -> None:
    tally = Tally()
    for entry in (
        wake("asked"),
        wake("started"),
        wake("done", 30.0),
        wake("done", started=False),
        wake("failed"),
        wake("given up"),
    ):
        tally.see(entry)
    assert tally.read().wakes == {(ONE, "done"): 1, (ONE, "joined"): 1, (ONE, "failed"): 1, (ONE, "given_up"): 1}
    assert tally.read().wake_seconds == {ONE: (30.0,)}


def test_a_wake_is_compared_with_those_before_it() -> None:
    tally = Tally({ONE: (20.0, 22.0)})
    for seconds in (24.0, 21.0, 23.0, 120.0):
        tally.see(wake("done", seconds))
    found = tally.read().wake_seconds[ONE]
    assert (found[-1], usual(found)) == (120.0, 22.0)
    assert usual((30.0,)) is None


def test_the_wakes_of_earlier_services_are_read_from_their_journal() -> None:
    log = MemoryEventLog()
    for seconds in (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0):
        log.add(wake("done", seconds), 0.0)
    log.add(wake("done", 1.0, started=False), 0.0)
    log.add(wake("failed"), 0.0)
    log.add(NewEntry(Kind.STEP, ONE, "done", facts={"seconds": 5.0, "started": True}), 0.0)
    assert earlier_wakes(log.latest(limit=100)) == {ONE: (20.0, 30.0, 40.0, 50.0, 60.0, 70.0)}


@pytest.mark.parametrize(("phase", "result"), [("done", "done"), ("failed", "failed")])
def test_shutdowns_and_changes_of_mode_are_counted(phase: str, result: str) -> None:
    tally = Tally()
    tally.see(NewEntry(Kind.STEP, ONE, phase, facts={"step": "shut down"}))
    tally.see(NewEntry(Kind.STEP, ONE, phase, facts={"step": "start"}))
    tally.see(NewEntry(Kind.MODE, ONE, phase))
    tally.see(NewEntry(Kind.SERVICE, None, phase))
    found = tally.read()
    assert (found.sleeps, found.switches, found.wakes) == ({(ONE, result): 1}, {(ONE, result): 1}, {})


def test_timings_are_sums_by_key() -> None:
    timings = Timings()
    timings.add(("look", "done"), 1.0)
    timings.add(("look", "done"), 0.5)
    timings.add(("look", "failed"), 9.0)
    found = timings.all()
    assert (found["look", "done"].count, found["look", "done"].seconds, found["look", "done"].last_seconds) == (
        2,
        1.5,
        0.5,
    )
    assert found["look", "failed"].count == 1
