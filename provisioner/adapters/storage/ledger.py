"""The port `Ledger` in the SQLite file beside the activity log.

A thread of its own writes, many requests in one transaction: the event loop
that adds them must not wait for a disk. A kill -9 or a power cut takes what was
added within the last `COMMIT_SECONDS`, and what a commit that was under way was
about; all else is on the disk. Requests are counted by it, not owed.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from provisioner.adapters.storage.sqlite import connection, open_database, unusable
from provisioner.domain.ledger import LedgerEntry, Outcome, Timing
from provisioner.errors import InputError

_COLUMNS = tuple(field.name for field in fields(LedgerEntry))
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    at REAL NOT NULL, caller TEXT NOT NULL, path TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL,
    status INTEGER NOT NULL, seconds REAL NOT NULL, node TEXT NOT NULL, is_fallback INTEGER NOT NULL,
    woke INTEGER NOT NULL, tries INTEGER NOT NULL, waited_seconds REAL NOT NULL, first_byte_seconds REAL,
    bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL, tokens_in INTEGER, tokens_out INTEGER, reason TEXT NOT NULL
) STRICT
"""
_INSERT = f"INSERT INTO requests ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM requests"  # noqa: S608 - of our own column names
_NUMBERED = _SELECT.replace("SELECT ", "SELECT rowid, ", 1)
_TIMED = tuple(field.name for field in fields(Timing))[1:]
_TIMINGS = (
    f"SELECT rowid, {', '.join(_TIMED)} FROM requests "  # noqa: S608 - of our own column names
    "WHERE rowid > ? AND at >= ? ORDER BY rowid DESC LIMIT ?"
)
# A home's requests of some years; the oldest beyond go.
_MOST_KEPT = 1_000_000
_TRIM_EVERY = 10_000
# When the disk is slower than the requests, the newest are dropped rather than memory filled.
_MOST_QUEUED = 50_000
# A tenth of a second of what one core can serve, twice.
_MOST_AT_ONCE = 1000
COMMIT_SECONDS = 0.1
"""From one commit to the next while requests come one after the other; the first after a while is committed at once."""

_log = logging.getLogger(__name__)


class SqliteLedger:
    """Requests, newest last. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[LedgerEntry | threading.Event | None] = queue.SimpleQueue()
        self._is_waited_for = threading.Event()
        self._written = 0
        self._opened: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    def add(self, entry: LedgerEntry) -> None:
        """Keep one."""
        if self._queue.qsize() >= _MOST_QUEUED:
            _log.warning("the ledger cannot keep up; a request is not recorded")
            return
        self._queue.put(entry)

    def last(self, count: int) -> tuple[LedgerEntry, ...]:
        """Return the newest, newest first."""
        return self._read(f"{_SELECT} ORDER BY rowid DESC LIMIT ?", count)

    def since(self, at: float) -> tuple[LedgerEntry, ...]:
        """Return those that came at or after a moment, oldest first."""
        return self._read(f"{_SELECT} WHERE at >= ? ORDER BY rowid", at)

    def timings(self, *, after: int, since: float, most: int) -> tuple[Timing, ...]:
        """Return the newest timings with a greater number that came at or after a moment, oldest first."""
        rows: list[tuple[Any, ...]] = self._rows(_TIMINGS, after, since, most)
        return tuple(_timing(*row) for row in reversed(rows))

    def after(self, number: int, count: int, caller: str = "") -> tuple[tuple[int, LedgerEntry], ...]:
        """Return those with a higher number, oldest first; the newest ones for number 0, or one that nobody has had."""
        chosen = f"{_NUMBERED} WHERE rowid > ? AND (? = '' OR caller = ?) ORDER BY rowid"
        rows = self._rows(f"{chosen}{'' if number else ' DESC'} LIMIT ?", number, caller, caller, count)
        if number and not rows and number > self._last_number():
            # Somebody goes on counting from a file that has been replaced since.
            return self.after(0, count, caller)
        found = tuple((int(str(row[0])), _entry(row[1:])) for row in rows)
        return found if number else found[::-1]

    def _last_number(self) -> int:
        ((number,),) = self._rows("SELECT coalesce(max(rowid), 0) FROM requests")
        return int(str(number))

    def close(self) -> None:
        """Write down what was added."""
        self._queue.put(None)
        self._is_waited_for.set()
        self._thread.join()

    def _read(self, question: str, value: float) -> tuple[LedgerEntry, ...]:
        return tuple(_entry(row) for row in self._rows(question, value))

    def _rows(self, question: str, *values: float | str) -> list[tuple[object, ...]]:
        if self._thread.is_alive():
            written = threading.Event()
            self._queue.put(written)
            self._is_waited_for.set()
            written.wait()
        with connection(self._path, _SCHEMA) as opened:
            return opened.execute(question, values).fetchall()

    def _write(self) -> None:
        due = 0.0
        while True:
            batch = self._batch(due)
            due = time.monotonic() + COMMIT_SECONDS
            rows = [_row(each) for each in batch if isinstance(each, LedgerEntry)]
            try:
                if rows:
                    self._insert(rows)
            except InputError as error:
                _log.warning("%s; %d requests are not recorded", error.summary, len(rows))
            except Exception:
                # Who reads waits for this thread: it must not end over an entry.
                _log.exception("%d requests are not recorded", len(rows))
            for each in batch:
                if isinstance(each, threading.Event):
                    each.set()
            if batch[-1] is None:
                if self._opened is not None:
                    self._opened.close()
                return

    def _batch(self, due: float) -> list[LedgerEntry | threading.Event | None]:
        """Return what is written at once: all that comes until the next commit is due, or somebody waits for it."""
        batch = [self._queue.get()]
        # Not woken by each that is added: that would take the interpreter from whoever serves the next request.
        self._is_waited_for.wait(max(due - time.monotonic(), 0.0))
        self._is_waited_for.clear()
        while len(batch) < _MOST_AT_ONCE and batch[-1] is not None:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch

    def _insert(self, rows: list[tuple[object, ...]]) -> None:
        # Kept open: to close the last connection moves the whole log into the database.
        opened = self._opened = self._opened or open_database(self._path, _SCHEMA)
        try:
            with opened:
                opened.executemany(_INSERT, rows)
                self._written += len(rows)
                if self._written >= _TRIM_EVERY:
                    self._written = 0
                    opened.execute(
                        "DELETE FROM requests WHERE rowid <= (SELECT max(rowid) FROM requests) - ?", (_MOST_KEPT,)
                    )
        except sqlite3.Error as error:
            self._opened = None
            opened.close()
            raise unusable(self._path, error) from error


def _timing(number: int, at: float, node: str, outcome: str, *rest: Any) -> Timing:
    return Timing(number, at, node, Outcome(outcome), *rest)


def _row(entry: LedgerEntry) -> tuple[object, ...]:
    return tuple(value.value if isinstance(value, Outcome) else value for value in astuple(entry))


def _entry(row: tuple[object, ...]) -> LedgerEntry:
    values = dict(zip(_COLUMNS, row, strict=True))
    values |= {"outcome": Outcome(values["outcome"])}
    values |= {name: bool(values[name]) for name in ("is_fallback", "woke")}
    return LedgerEntry(**values)  # type: ignore[arg-type]  # the schema is STRICT
