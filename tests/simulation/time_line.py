"""Simulated time and the processes in it. One seed, one order of things: only one process runs at any moment.

Each process is a thread that hands on to whoever is next whenever it waits. What it does between two waits happens at
once; so whatever may happen in between is a wait: every call to a port is one.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


class Killed(BaseException):
    """The process has been killed with -9. Nothing that it does from now on has any effect."""


@dataclass(eq=False)
class Process:
    """One process: its name, whether it lives, and how long it was stopped by the dice."""

    name: str
    is_dead: bool = False
    stood_still: float = 0.0
    baton: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.baton.acquire()


class TimeLine:
    """What happens when. Seconds that never jump; processes may be told another time of day."""

    def __init__(self) -> None:
        self.now = 0.0
        self.current: Process | None = None
        self._coming: list[tuple[float, int, Process | Callable[[], None]]] = []
        self._order = itertools.count()
        self._living = 0
        self._over = threading.Lock()
        self._over.acquire()
        self.crash: BaseException | None = None

    def at(self, seconds_from_now: float, deed: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._coming, (self.now + seconds_from_now, next(self._order), deed))

    def start(self, process: Process, seconds_from_now: float, work: Callable[[], None]) -> None:
        """Have a process begin."""
        self._living += 1

        def run() -> None:
            process.baton.acquire()
            try:
                if not process.is_dead:
                    work()
            except Killed:
                pass
            except BaseException as error:
                self.crash = error
            self._living -= 1
            self._hand_on(None)

        heapq.heappush(self._coming, (self.now + seconds_from_now, next(self._order), process))
        threading.Thread(target=run, daemon=True).start()

    def run(self) -> None:
        """Let everything happen until no process is left. Raises what a process did not expect."""
        if self._living:
            self._hand_on(None)
            self._over.acquire()
        if self.crash is not None:
            raise self.crash

    def pass_by(self, seconds: float) -> None:
        """Let time pass in which no process is left."""
        until = self.now + seconds
        while self._coming and self._coming[0][0] <= until:
            self.now, _, what = heapq.heappop(self._coming)
            if not isinstance(what, Process):
                what()
        self.now = until

    def wait(self, seconds: float) -> None:
        """Let the running process wait. Raises Killed when it was killed before or meanwhile."""
        process = self.current
        assert process is not None
        if process.is_dead:
            raise Killed
        heapq.heappush(self._coming, (self.now + seconds, next(self._order), process))
        self._hand_on(process)
        if process.is_dead:
            raise Killed

    def _hand_on(self, me: Process | None) -> None:
        """Let happen what is next, up to the next process to go on; come back when that is `me`."""
        while self._living and self.crash is None:
            self.now, _, what = heapq.heappop(self._coming)
            if not isinstance(what, Process):
                what()
                continue
            self.current = what
            if what is not me:
                what.baton.release()
                if me is not None:
                    me.baton.acquire()
            return
        self._over.release()
        if me is not None:
            # Somebody crashed: this process is never heard of again.
            raise Killed
