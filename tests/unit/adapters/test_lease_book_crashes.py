"""The lease book on a real SQLite file, with real processes: killed with -9 in the middle of writing, and racing."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from provisioner.adapters.storage.lease_book import SqliteLeaseBook
from provisioner.domain.lease import GpuSlot, LeasePhase, Waiter, freed, granted, issuing, joined, left
from provisioner.domain.names import GpuName, HypervisorName, Vmid
from provisioner.errors import InputError

# They begin as copies of this process, which has everything imported.
PROCESSES = get_context("fork")
ONE = GpuSlot(HypervisorName("pve1"), GpuName("g1"))
TWO = GpuSlot(HypervisorName("pve1"), GpuName("g2"))
KILLS = 25


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "provisioner.sqlite"


def started(work: Callable[..., None], *arguments: object) -> BaseProcess:
    process = PROCESSES.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def write_for_ever(path: Path, acknowledge: int) -> None:
    """Give both slots away and take them back, again and again; say each number once it is kept."""
    book = SqliteLeaseBook(path)
    while True:
        with book.turn() as turn:
            page, _ = joined(turn.page, Waiter(0, "one", Vmid(5001), (ONE, TWO), 0, 0.0, 1.0, book.owner))
            page, leases = granted(page, [ONE, TWO], Vmid(5001), "one", owner=book.owner, now=0.0)
            turn.page = issuing(page, leases)
        os.write(acknowledge, f"{leases[0].fence}\n".encode())
        with book.turn() as turn:
            turn.page = left(freed(turn.page, leases), turn.page.last_number)


def test_kill_9_in_the_middle_of_writing_loses_nothing_and_leaves_nothing_half_done(path: Path) -> None:
    dice = random.Random(20261121)
    book = SqliteLeaseBook(path)
    owner, found = "", set()
    for _ in range(KILLS):
        reader, writer = os.pipe()
        process = started(write_for_ever, path, writer)
        os.close(writer)
        said = os.read(reader, 64)
        # Anywhere in the writes that follow; each lasts about a millisecond.
        process.join(dice.uniform(0.0, 0.012))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with os.fdopen(reader, "rb") as pipe:
            said += pipe.read()
        kept = int(said.split()[-1])
        page = book.read()
        assert page.fences[ONE] == page.fences[TWO] == page.last_number
        assert kept <= page.fences[ONE] <= kept + 1
        leases = page.leases_of([ONE, TWO])
        found.add(len(leases))
        assert len(leases) in (0, 2)
        assert len(page.waiters) == len(leases) // 2
        for lease in leases:
            assert (lease.fence, lease.issued, lease.phase) == (page.fences[ONE], True, LeasePhase.TAKING)
            assert lease.owner != owner
            assert not book.is_alive(lease.owner)
            owner_now = lease.owner
        if leases:
            owner = owner_now
            # Nobody has to wait for the dead: the next one writes at once.
            with book.turn() as turn:
                turn.page = left(freed(turn.page, leases), page.last_number)
    assert found == {0, 2}, "the kills came at all moments"


def race(path: Path, folder: Path, vmid: int, rounds: int) -> None:
    """Get the slot as often as wanted; whoever has it leaves a mark that nobody else can leave meanwhile."""
    book, mark, had = SqliteLeaseBook(path), folder / "has-the-slot", 0
    while had < rounds:
        with book.turn() as turn:
            if ONE in turn.page.leases:
                continue
            turn.page, leases = granted(turn.page, [ONE], Vmid(vmid), f"vm {vmid}", owner=book.owner, now=0.0)
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        had += 1
        mark.unlink()
        with book.turn() as turn:
            turn.page = freed(turn.page, leases)
    (folder / f"done-{vmid}").write_text(str(had))


def test_of_processes_that_race_for_one_slot_one_at_a_time_has_it(path: Path, tmp_path: Path) -> None:
    racers = [started(race, path, tmp_path, vmid, 25) for vmid in (1, 2, 3)]
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert SqliteLeaseBook(path).read().fences[ONE] == 75


def stand(path: Path, say: int) -> None:
    os.write(say, SqliteLeaseBook(path).owner.encode())
    signal.pause()


def test_a_process_is_alive_until_it_is_killed_and_its_mark_is_swept(path: Path) -> None:
    reader, writer = os.pipe()
    process = started(stand, path, writer)
    os.close(writer)
    owner = os.read(reader, 100).decode()
    os.close(reader)
    book = SqliteLeaseBook(path)
    assert book.owner != owner
    assert book.is_alive(owner)
    process.kill()
    process.join()
    # Whoever comes next sweeps; the answer is the same with the mark and without.
    assert SqliteLeaseBook(path).owner
    assert not (path.parent / "owners" / owner).exists()
    assert not book.is_alive(owner)
    assert book.is_alive(book.owner)


def test_a_book_that_cannot_be_used_says_where_and_what_to_do(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("this is no database, and was never meant to be one, whoever wrote it")
    with pytest.raises(InputError, match="cannot keep the leases of GPUs: file is not a database") as caught:
        SqliteLeaseBook(path).read()
    assert caught.value.subject == str(path)
    assert "PROVISIONER_STATE" in caught.value.next_step
