"""Waiting for a condition: quick at first, slower later, never past its time, and it says what it saw last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from provisioner.ports.clock import Clock

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two looks: the first pause, how it grows, and where it stops growing."""

    first: float = 0.05
    growth: float = 1.5
    longest: float = 1.0


class WaitedInVain(Exception):
    """Time ran out; `last_seen` says what the last look found."""

    def __init__(self, last_seen: str, seconds: float) -> None:
        super().__init__(last_seen)
        self.last_seen = last_seen
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class NotYet:
    """The condition does not hold; `seen` says what was found instead."""

    seen: str


def wait_until(
    look: Callable[[], _Value | NotYet],
    *,
    clock: Clock,
    seconds: float,
    pace: Pace = Pace(),
    on_change: Callable[[str], None] | None = None,
) -> _Value:
    """Call `look` until it returns something other than NotYet.

    Args:
        look: one look; raises to end the wait early with a failure.
        clock: the time.
        seconds: how long to go on.
        pace: how often to look.
        on_change: called with `NotYet.seen` whenever it differs from the last.

    Raises:
        WaitedInVain: when the time is over.
    """
    deadline = clock.monotonic() + seconds
    pause = pace.first
    last_seen = ""
    while True:
        found = look()
        if not isinstance(found, NotYet):
            return found
        if found.seen != last_seen:
            last_seen = found.seen
            if on_change is not None:
                on_change(last_seen)
        remaining = deadline - clock.monotonic()
        if remaining <= 0:
            raise WaitedInVain(last_seen, seconds)
        clock.sleep(min(pause, remaining))
        pause = min(pause * pace.growth, pace.longest)
