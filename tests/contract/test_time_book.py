"""Every book of hours keeps the same promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.adapters.storage.time_book import SqliteTimeBook
from provisioner.domain.names import NodeName
from provisioner.domain.savings import CountedTime
from provisioner.errors import InputError
from provisioner.ports.time_book import TimeBook
from tests.fakes.times import MemoryTimeBook

ONE, TWO = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")
DAY = 86400.0


@pytest.fixture(params=["fake", "sqlite"])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> TimeBook:
    return MemoryTimeBook() if request.param == "fake" else SqliteTimeBook(tmp_path / "state" / "provisioner.sqlite")


def test_an_empty_book_has_no_beginning(book: TimeBook) -> None:
    assert (dict(book.total()), book.begins()) == ({}, None)


def test_what_is_added_on_one_day_is_summed(book: TimeBook) -> None:
    book.add(10 * DAY + 5, {ONE: CountedTime(awake_seconds=60.0, measured_joules=5.0)})
    book.add(10 * DAY + 65, {ONE: CountedTime(awake_seconds=30.0), TWO: CountedTime(asleep_seconds=60.0)})
    assert book.total() == {
        ONE: CountedTime(awake_seconds=90.0, measured_joules=5.0),
        TWO: CountedTime(asleep_seconds=60.0),
    }
    assert book.begins() == 10 * DAY


def test_earlier_days_are_left_out_where_a_later_one_is_named(book: TimeBook) -> None:
    for day in (10, 11, 12):
        book.add(day * DAY + 1, {ONE: CountedTime(asleep_seconds=100.0)})
    assert book.total(11 * DAY + 40_000)[ONE].asleep_seconds == 200.0
    assert book.begins() == 10 * DAY


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "provisioner.sqlite"
    path.write_bytes(b"something else, and long enough to be looked at" * 40)
    with pytest.raises(InputError):
        SqliteTimeBook(path).add(0.0, {ONE: CountedTime()})


def test_a_new_process_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "provisioner.sqlite"
    SqliteTimeBook(path).add(0.0, {ONE: CountedTime(awake_seconds=1.0)})
    SqliteTimeBook(path).add(1.0, {ONE: CountedTime(awake_seconds=2.0)})
    assert SqliteTimeBook(path).total()[ONE].awake_seconds == 3.0
