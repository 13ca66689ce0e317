"""The record of requests: kept on disk, in order, and without ever making anybody wait."""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from pathlib import Path

import pytest

from provisioner.adapters.storage.ledger import SqliteLedger
from provisioner.domain.ledger import LedgerEntry, Outcome


def entry(at: float, model: str = "tiny", **more: object) -> LedgerEntry:
    values: dict[str, object] = {
        "at": at,
        "caller": "n8n",
        "path": "/v1/chat/completions",
        "model": model,
        "outcome": Outcome.ANSWERED,
        "status": 200,
        "seconds": 1.5,
    }
    return LedgerEntry(**(values | more))  # type: ignore[arg-type]


class TestSqliteLedger:
    def test_what_is_added_is_read_back_whole(self, tmp_path: Path) -> None:
        ledger = SqliteLedger(tmp_path / "state.db")
        whole = entry(
            10.0, node="llm-gpu-01", is_fallback=True, woke=True, tries=2, tokens_in=7, first_byte_seconds=0.5
        )
        ledger.add(whole)
        assert ledger.last(5) == (whole,)
        ledger.close()

    def test_the_newest_come_first_and_since_is_in_order(self, tmp_path: Path) -> None:
        ledger = SqliteLedger(tmp_path / "state.db")
        for at in range(10):
            ledger.add(entry(float(at)))
        assert [each.at for each in ledger.last(3)] == [9.0, 8.0, 7.0]
        assert [each.at for each in ledger.since(8.0)] == [8.0, 9.0]
        ledger.close()

    def test_timings_go_on_after_the_last_that_was_read(self, tmp_path: Path) -> None:
        ledger = SqliteLedger(tmp_path / "state.db")
        for at in range(10):
            ledger.add(entry(float(at), node="a", tokens_out=at, outcome=Outcome.FAILED))
        first = ledger.timings(after=0, since=7.0, most=10)
        assert [(each.number, each.at, each.tokens_out, each.outcome) for each in first] == [
            (8, 7.0, 7, Outcome.FAILED),
            (9, 8.0, 8, Outcome.FAILED),
            (10, 9.0, 9, Outcome.FAILED),
        ]
        assert [each.number for each in ledger.timings(after=8, since=0.0, most=1)] == [10]
        assert ledger.timings(after=10, since=0.0, most=10) == ()
        ledger.close()

    def test_who_counts_on_from_a_record_that_was_replaced_gets_what_is_there(self, tmp_path: Path) -> None:
        ledger = SqliteLedger(tmp_path / "state.db")
        assert ledger.after(400, 10) == ()
        for at in range(3):
            ledger.add(entry(float(at)))
        assert [number for number, _ in ledger.after(400, 10)] == [1, 2, 3]
        assert [number for number, _ in ledger.after(2, 10)] == [3]
        assert ledger.after(3, 10) == ()
        ledger.close()

    def test_it_is_still_there_for_the_next_process(self, tmp_path: Path) -> None:
        first = SqliteLedger(tmp_path / "state.db")
        first.add(entry(1.0))
        first.close()
        second = SqliteLedger(tmp_path / "state.db")
        assert [each.at for each in second.last(10)] == [1.0]
        second.close()

    def test_a_folder_that_cannot_be_written_costs_no_answer(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        ledger = SqliteLedger(tmp_path / "file" / "state.db")
        ledger.add(entry(1.0))
        ledger.close()
        assert "1 requests are not recorded" in caplog.text

    def test_it_has_no_place_for_a_prompt(self, tmp_path: Path) -> None:
        ledger = SqliteLedger(tmp_path / "state.db")
        ledger.add(entry(1.0))
        ledger.close()
        with sqlite3.connect(tmp_path / "state.db") as opened:
            columns = {row[1] for row in opened.execute("PRAGMA table_info(requests)")}
        opened.close()
        assert columns == {field.name for field in fields(LedgerEntry)}
        assert not {"prompt", "messages", "body", "text"} & columns
