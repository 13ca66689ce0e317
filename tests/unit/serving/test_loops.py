"""The service's own rhythm, and what is counted of it."""

from __future__ import annotations

import threading
import time
from typing import cast

from provisioner.domain.timings import Timings
from provisioner.errors import UnreachableError
from provisioner.services.keeper import Keeper
from provisioner.serving.loops import Loops


class Eyes:
    """A keeper whose looks fail as long as a test wants, and that says when it has looked often enough."""

    def __init__(self, failures: int, enough: int) -> None:
        self.doubts = threading.Event()
        self.looks = 0
        self.done = threading.Event()
        self._failures = failures
        self._enough = enough

    def look(self) -> None:
        self.looks += 1
        if self.looks >= self._enough:
            self.done.set()
        if self.looks <= self._failures:
            raise UnreachableError("no answer", subject="cluster", next_step="wait")

    def look_at_doubted(self) -> None:
        raise AssertionError("nobody is in doubt")


class Worried(Eyes):
    """A keeper that somebody always makes doubt, of a node that takes its time to answer."""

    def __init__(self) -> None:
        super().__init__(failures=0, enough=2)
        self.doubts.set()
        self.doubted = 0
        self.doubted_between: list[int] = []

    def look(self) -> None:
        self.doubted_between.append(self.doubted)
        super().look()

    def look_at_doubted(self) -> None:
        self.doubted += 1
        time.sleep(0.4)


def test_doubts_without_end_do_not_put_off_the_look_at_all() -> None:
    eyes = Worried()
    loops = Loops(
        cast(Keeper, eyes),
        idle_pass=lambda: None,
        forget=lambda: None,
        look_every_seconds=0.6,
        idle_every_seconds=60.0,
    )
    loops.start()
    assert eyes.done.wait(10)
    loops.stop()
    # One of them, with the pause after it, takes longer than from one look to the next.
    assert eyes.doubted_between[:2] == [0, 1]


def test_every_turn_is_counted_with_its_end_and_one_that_breaks_ends_nothing() -> None:
    eyes, timings, counted, gauged = Eyes(failures=2, enough=5), Timings(), threading.Event(), threading.Event()

    def gauge() -> None:
        # Its second turn: the first has been counted by then.
        if timings.all().get(("gauge", "failed")):
            gauged.set()
        raise ZeroDivisionError

    loops = Loops(
        cast(Keeper, eyes),
        idle_pass=lambda: None,
        forget=lambda: None,
        look_every_seconds=0.01,
        idle_every_seconds=60.0,
        after_look=counted.set,
        gauge=gauge,
        gauge_every_seconds=0.01,
        timings=timings,
    )
    loops.start()
    assert eyes.done.wait(10)
    assert gauged.wait(10)
    loops.stop()
    found = timings.all()
    assert found["look", "failed"].count == 2
    assert found["look", "done"].count >= 2
    assert found["look", "done"].seconds >= found["look", "done"].last_seconds >= 0.0
    assert counted.is_set()
    assert found["gauge", "failed"].count >= 1
    assert ("idle", "done") not in found
