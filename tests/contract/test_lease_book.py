"""Every lease book, the one in memory and the one on the disk, keeps the same promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.adapters.storage.lease_book import SqliteLeaseBook
from provisioner.domain.lease import (
    GpuSlot,
    Hold,
    LeasePage,
    LeasePhase,
    Waiter,
    adopted,
    freed,
    freeing,
    granted,
    held,
    holding,
    issuing,
    joined,
    left,
)
from provisioner.domain.names import GpuName, HypervisorName, NodeName, Vmid
from provisioner.errors import InputError, OvertakenError
from provisioner.ports.lease_book import LeaseBook
from tests.fakes.leases import MemoryLeaseBook, MemoryLeases

SLOT = GpuSlot(HypervisorName("pve1"), GpuName("rtx3090"))
OTHER = GpuSlot(HypervisorName("pve1"), GpuName("a4000"))
Open = Callable[[], LeaseBook]
"""Opens the book as another process would."""


@pytest.fixture(params=["memory", "sqlite"])
def open_book(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Several books with one content."""
    shared = MemoryLeases()
    owners = iter("123")
    if request.param == "memory":
        return lambda: MemoryLeaseBook(shared, next(owners))
    return lambda: SqliteLeaseBook(tmp_path / "state" / "provisioner.sqlite")


def _everything(page: LeasePage, owner: str) -> LeasePage:
    page, leases = granted(page, [SLOT, OTHER], Vmid(5001), "llm-gpu-01", owner=owner, now=100.0)
    page = issuing(page, leases)
    page = freeing(page, [page.leases[SLOT]], owner=owner, wanted_by="llm-gpu-02")
    page = held(page, [page.leases[OTHER]])
    waiter = Waiter(0, "llm-gpu-02", Vmid(5002), (SLOT, OTHER), 7, 101.0, 160.5, owner)
    page, _ = joined(page, waiter)
    return holding(page, Hold(NodeName("llm-gpu-01"), "anna", 100.0, 7300.0, "training, do not touch"))


def test_an_empty_book_is_an_empty_page(open_book: Open) -> None:
    assert open_book().read() == LeasePage()


def test_what_is_written_is_read_by_others_to_the_letter(open_book: Open) -> None:
    book = open_book()
    with book.turn() as turn:
        turn.page = written = _everything(turn.page, book.owner)
    assert open_book().read() == written
    with open_book().turn() as turn:
        assert turn.page == written
    assert written.leases[SLOT].phase is LeasePhase.FREEING


def test_what_is_dropped_is_gone_but_for_the_fencing_numbers(open_book: Open) -> None:
    book = open_book()
    with book.turn() as turn:
        turn.page = _everything(turn.page, book.owner)
    with book.turn() as turn:
        page = freed(turn.page, turn.page.leases.values())
        turn.page = LeasePage({}, page.fences, left(page, 1).waiters, (), page.last_number)
    assert open_book().read() == LeasePage(fences={SLOT: 2, OTHER: 1}, last_number=1)


def test_an_error_in_a_turn_leaves_the_page_as_it_was(open_book: Open) -> None:
    book = open_book()
    with book.turn() as turn:
        turn.page = before = _everything(turn.page, book.owner)

    def too_late() -> None:
        with book.turn() as turn:
            turn.page = adopted(turn.page, [SLOT], Vmid(200), "gaming", now=1.0)
            turn.page = held(turn.page, [before.leases[SLOT]])

    with pytest.raises(OvertakenError):
        too_late()
    assert open_book().read() == before


def test_a_process_is_alive_until_it_ends(open_book: Open) -> None:
    one, two = open_book(), open_book()
    assert one.owner != two.owner
    assert one.is_alive(two.owner)
    assert one.is_alive(one.owner)
    assert not one.is_alive("")


def test_who_renounces_is_another_from_then_on(open_book: Open) -> None:
    mine, theirs = open_book(), open_book()
    before = mine.owner
    assert theirs.is_alive(before)
    mine.renounce()
    assert not theirs.is_alive(before)
    assert not mine.is_alive(before)
    assert mine.owner != before
    assert theirs.is_alive(mine.owner)


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    # Stands for one that is closed to us, which root never sees.
    hidden = tmp_path / ("x" * 300) / "provisioner.sqlite"
    with pytest.raises(InputError, match="cannot keep the leases of GPUs") as caught:
        SqliteLeaseBook(hidden).read()
    assert "PROVISIONER_STATE" in caught.value.next_step
