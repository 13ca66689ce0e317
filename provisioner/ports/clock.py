"""Time, so that tests can own it."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The time of day, a time that never jumps, and waiting."""

    def now(self) -> float:
        """Return UNIX seconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
