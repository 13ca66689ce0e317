"""The journal with those who follow it: what is added is kept first, then told to whoever listens in this process.

Between `start` and `close` a thread of its own keeps what is added: a disk's time is not the time of a request that
waits for the wake that is being told of. All that was added while the disk was busy is kept in one go, so what a
kill -9 takes is never older than two commits, some ten milliseconds on a healthy disk, however much happens at once.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from provisioner.domain.events import Entry, EventQuery, Kind, NewEntry
from provisioner.errors import ProvisionerError
from provisioner.ports.clock import Clock
from provisioner.ports.event_log import EventLog
from provisioner.services.events import Event, OnEvent

_LOGGER = logging.getLogger("provisioner.journal")

_Dated = tuple[NewEntry, float]
_Queued = _Dated | threading.Event | None
_MOST_AT_ONCE = 500


class Journal:
    """Keeps and tells. Safe to use from several threads."""

    def __init__(self, log: EventLog, clock: Clock, see: Callable[[NewEntry], None] = lambda entry: None) -> None:
        """Begin; `see`, which must neither block nor raise, is shown each entry as it is added."""
        self._see = see
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._queue: queue.Queue[_Queued] = queue.Queue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Keep what is added in a thread from now on."""
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Keep what was added, and from now on at once."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
            # What somebody added in the very moment of the end.
            self._keep_batch(self._waiting())

    def add(self, entry: NewEntry) -> None:
        """Have an entry kept, and the listeners told.

        A journal that cannot be written is logged and stops nothing: a node that cannot be woken because a disk is
        full would be the greater harm.
        """
        self._see(entry)
        if self._thread is not None:
            self._queue.put((entry, self._clock.now()))
        else:
            self._keep(entry, self._clock.now())

    def flush(self) -> None:
        """Return when everything that was added by now is kept."""
        if self._thread is not None:
            kept = threading.Event()
            self._queue.put(kept)
            kept.wait()

    def _write(self) -> None:
        goes_on = True
        while goes_on:
            batch = [self._queue.get(), *self._waiting()]
            self._keep_batch(batch)
            goes_on = None not in batch

    def _waiting(self) -> list[_Queued]:
        batch: list[_Queued] = []
        with suppress(queue.Empty):
            while len(batch) < _MOST_AT_ONCE:
                batch.append(self._queue.get_nowait())
        return batch

    def _keep_batch(self, batch: list[_Queued]) -> None:
        self._keep_all([each for each in batch if isinstance(each, tuple)])
        for each in batch:
            if isinstance(each, threading.Event):
                each.set()

    def _keep_all(self, entries: list[_Dated]) -> None:
        if not entries:
            return
        try:
            self._log.add_all(entries)
        except Exception:
            # One of them no database takes, or none can be written: each is tried and told of by itself.
            for each in entries:
                self._keep(*each)
            return
        self._tell()

    def _keep(self, entry: NewEntry, at: float) -> None:
        try:
            self._log.add(entry, at)
        except ProvisionerError as error:
            _LOGGER.error("%s; next: %s", error.summary, error.next_step)  # noqa: TRY400 - told, not traced
            return
        except Exception:
            # Who asks for the last number waits for this thread: it must not end over an entry.
            _LOGGER.exception("an entry of the journal is lost")
            return
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            listeners = list(self._listeners.values())
        for tell in listeners:
            # A listener's event loop may be closed between its own look and its call.
            with suppress(RuntimeError):
                tell()

    def telling(self, by: str) -> OnEvent:
        """Return what keeps the steps of somebody's work; `by` is who asked for it."""

        def keep(event: Event) -> None:
            facts: dict[str, str | int | float | bool | None] = {
                "step": event.step,
                "seconds": round(event.seconds, 3),
                "changed": event.changed,
            }
            self.add(NewEntry(Kind.STEP, event.node, event.phase.value, event.detail, by, facts))

        return keep

    def listen(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Have `tell`, which must not block, called when entries were kept; what is returned ends that."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._listeners[number] = tell

        def end() -> None:
            with self._lock:
                self._listeners.pop(number, None)

        return end

    def after(self, number: int, *, limit: int = 500) -> tuple[Entry, ...]:
        """Return the entries with a greater number, the oldest first."""
        return self._log.after(number, limit=limit)

    def latest(self, *, limit: int = 100, node: str | None = None) -> tuple[Entry, ...]:
        """Return the newest entries, the oldest of them first."""
        return self._log.latest(limit=limit, node=node)

    def find(self, query: EventQuery, *, limit: int = 100) -> tuple[Entry, ...]:
        """Return the newest entries that match, the newest first."""
        return self._log.find(query, limit=limit)

    def number_before(self, at: float) -> int:
        """Return the number of the last entry before a moment; 0 when there is none."""
        return self._log.number_before(at)

    def last_states(self, number: int) -> tuple[Entry, ...]:
        """Return the last entry of kind `state` of every node among those up to a number."""
        return self._log.last_states(number)

    def last_number(self) -> int:
        """Return the number of the newest entry, of all that were added by now."""
        self.flush()
        return self._log.last_number()

    def forget(self, *, older_than_seconds: float) -> int:
        """Drop what is older; return how many entries went."""
        return self._log.forget(before=self._clock.now() - older_than_seconds)
