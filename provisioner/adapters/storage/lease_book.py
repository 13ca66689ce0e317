"""The port `LeaseBook` in the SQLite file beside the activity log (WAL mode, one write transaction per turn).

That a process is dead is told by the kernel: each keeps a lock on a file of its own, and locks end with their process.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.adapters.storage.state_folder import writing_below
from provisioner.domain.lease import GpuSlot, Hold, Lease, LeasePage, LeasePhase, Waiter
from provisioner.domain.names import GpuName, HypervisorName, NodeName, Vmid
from provisioner.errors import InputError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS gpu_fence (
    hypervisor TEXT NOT NULL, gpu TEXT NOT NULL, fence INTEGER NOT NULL, PRIMARY KEY (hypervisor, gpu)
) STRICT;
CREATE TABLE IF NOT EXISTS gpu_lease (
    hypervisor TEXT NOT NULL, gpu TEXT NOT NULL, fence INTEGER NOT NULL, vmid INTEGER NOT NULL, name TEXT NOT NULL,
    phase TEXT NOT NULL, since REAL NOT NULL, owner TEXT NOT NULL, issued INTEGER NOT NULL, adopted INTEGER NOT NULL,
    wanted_by TEXT NOT NULL, PRIMARY KEY (hypervisor, gpu)
) STRICT;
CREATE TABLE IF NOT EXISTS gpu_waiter (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, vmid INTEGER NOT NULL, slots TEXT NOT NULL,
    priority INTEGER NOT NULL, since REAL NOT NULL, until REAL NOT NULL, owner TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS gpu_waiter_last (only INTEGER PRIMARY KEY CHECK (only = 1), number INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS node_hold (
    node TEXT NOT NULL, held_by TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (node, held_by)
) STRICT;
"""
# A turn lasts milliseconds; this is for a disk that has gone slow, or a crowd.
_BUSY_SECONDS = 30.0
# Between a GPU and the next in one column; no name may hold it.
_BETWEEN = "\n"


@dataclass(slots=True)
class _Turn:
    page: LeasePage


class SqliteLeaseBook:
    """Leases, those who wait, and holds. A connection per turn: turns are rare, and a fork inherits none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.parent / "owners"
        self._owner = ""
        self._own_lock: int | None = None
        self._naming = threading.Lock()

    @property
    def owner(self) -> str:
        """The name of this process; from its first use on, a lock shows that it lives."""
        with self._naming:
            if not self._owner:
                name = f"{os.getpid()}-{uuid.uuid4().hex}"
                with writing_below(self._folder):
                    self._sweep()
                    # It gets its name once it is locked: a file that anybody finds unlocked is of a dead process.
                    new = self._folder / f".{name}"
                    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    new.rename(self._folder / name)
                self._own_lock, self._owner = lock, name
            return self._owner

    def _sweep(self) -> None:
        """Remove what processes left that ended since; who asks for one of them is told the same without its file."""
        for name in os.listdir(self._folder):
            if not name.startswith("."):
                self.is_alive(name)

    def is_alive(self, owner: str) -> bool:
        """Try its lock; a dead process's file is removed."""
        if owner == self._owner:
            return bool(owner)
        if not owner:
            return False
        try:
            lock = os.open(self._folder / owner, os.O_RDWR)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            with suppress(OSError):
                (self._folder / owner).unlink(missing_ok=True)
            return False
        finally:
            os.close(lock)

    def renounce(self) -> None:
        """Let go of the lock; the next act gets a new name."""
        with self._naming:
            if self._own_lock is not None:
                # Unlocked, it says enough; the disk may take nothing now, not even that.
                with suppress(OSError):
                    (self._folder / self._owner).unlink(missing_ok=True)
                os.close(self._own_lock)
                self._own_lock, self._owner = None, ""

    def read(self) -> LeasePage:
        """Return the last page that was kept."""
        try:
            self._path.stat()
        except FileNotFoundError:
            return LeasePage()
        except OSError as error:
            raise self._unusable(error) from error
        with self._connection() as connection:
            connection.execute("BEGIN")
            return _page(connection)

    @contextmanager
    def turn(self) -> Iterator[_Turn]:
        """Hold SQLite's write lock from the first look to the last word."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            turn = _Turn(before := _page(connection))
            yield turn
            _write(connection, before, turn.page)
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Transactions are begun and ended here, not by the module's own rules. Closing rolls back what is open.
            opened = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        with closing(opened):
            try:
                opened.execute("PRAGMA journal_mode = WAL")
                if not opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'node_hold'").fetchone():
                    opened.executescript(_SCHEMA)
                yield opened
            except (sqlite3.Error, ValueError) as error:
                raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"cannot keep the leases of GPUs: {error}",
            subject=str(self._path),
            next_step="make that folder writable, or name another one in PROVISIONER_STATE",
        )


def _page(connection: sqlite3.Connection) -> LeasePage:
    fences = {
        GpuSlot(HypervisorName(hypervisor), GpuName(gpu)): fence
        for hypervisor, gpu, fence in connection.execute("SELECT hypervisor, gpu, fence FROM gpu_fence")
    }
    leases = {}
    for hypervisor, gpu, fence, vmid, name, phase, since, owner, issued, adopted, wanted_by in connection.execute(
        "SELECT hypervisor, gpu, fence, vmid, name, phase, since, owner, issued, adopted, wanted_by FROM gpu_lease"
    ):
        slot = GpuSlot(HypervisorName(hypervisor), GpuName(gpu))
        leases[slot] = Lease(
            slot, fence, Vmid(vmid), name, LeasePhase(phase), since, owner, bool(issued), bool(adopted), wanted_by
        )
    waiters = tuple(
        Waiter(number, name, Vmid(vmid), _slots(slots), priority, since, until, owner)
        for number, name, vmid, slots, priority, since, until, owner in connection.execute(
            "SELECT number, name, vmid, slots, priority, since, until, owner FROM gpu_waiter ORDER BY number"
        )
    )
    holds = tuple(
        Hold(NodeName(node), by, since, until, why)
        for node, by, since, until, why in connection.execute(
            "SELECT node, held_by, since, until, why FROM node_hold ORDER BY node, held_by"
        )
    )
    last = connection.execute("SELECT number FROM gpu_waiter_last").fetchone()
    return LeasePage(leases, fences, waiters, holds, last[0] if last else 0)


def _write(connection: sqlite3.Connection, before: LeasePage, after: LeasePage) -> None:
    """Write what has changed, and nothing else."""
    for slot in before.leases.keys() - after.leases.keys():
        connection.execute("DELETE FROM gpu_lease WHERE hypervisor = ? AND gpu = ?", (slot.hypervisor, slot.gpu))
    connection.executemany(
        "INSERT OR REPLACE INTO gpu_fence VALUES (?, ?, ?)",
        [
            (slot.hypervisor, slot.gpu, fence)
            for slot, fence in after.fences.items()
            if before.fences.get(slot) != fence
        ],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO gpu_lease VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_lease_row(lease) for slot, lease in after.leases.items() if before.leases.get(slot) != lease],
    )
    gone = {waiter.number for waiter in before.waiters} - {waiter.number for waiter in after.waiters}
    connection.executemany("DELETE FROM gpu_waiter WHERE number = ?", [(number,) for number in gone])
    connection.executemany(
        "INSERT OR REPLACE INTO gpu_waiter VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [_waiter_row(waiter) for waiter in after.waiters if waiter not in before.waiters],
    )
    if before.last_number != after.last_number:
        connection.execute("INSERT OR REPLACE INTO gpu_waiter_last VALUES (1, ?)", (after.last_number,))
    for hold in set(before.holds) - set(after.holds):
        connection.execute("DELETE FROM node_hold WHERE node = ? AND held_by = ?", (hold.node, hold.by))
    connection.executemany(
        "INSERT OR REPLACE INTO node_hold VALUES (?, ?, ?, ?, ?)",
        [(hold.node, hold.by, hold.since, hold.until, hold.why) for hold in set(after.holds) - set(before.holds)],
    )


def _lease_row(lease: Lease) -> tuple[object, ...]:
    return (
        lease.slot.hypervisor,
        lease.slot.gpu,
        lease.fence,
        lease.vmid,
        lease.name,
        lease.phase.value,
        lease.since,
        lease.owner,
        int(lease.issued),
        int(lease.adopted),
        lease.wanted_by,
    )


def _waiter_row(waiter: Waiter) -> tuple[object, ...]:
    slots = _BETWEEN.join(f"{slot.hypervisor}{_BETWEEN}{slot.gpu}" for slot in waiter.slots)
    return (
        waiter.number,
        waiter.name,
        waiter.vmid,
        slots,
        waiter.priority,
        waiter.since,
        waiter.until,
        waiter.owner,
    )


def _slots(text: str) -> tuple[GpuSlot, ...]:
    parts: Iterable[str] = iter(text.split(_BETWEEN)) if text else iter(())
    words = list(parts)
    return tuple(
        GpuSlot(HypervisorName(hypervisor), GpuName(gpu))
        for hypervisor, gpu in zip(words[::2], words[1::2], strict=True)
    )
