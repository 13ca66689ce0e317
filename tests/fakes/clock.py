"""Time that stands still until somebody waits."""

from __future__ import annotations

from collections.abc import Callable


class FakeClock:
    """Sleeping moves it; `at` runs a deed when its time comes."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._elapsed = 0.0
        self._deeds: list[tuple[float, Callable[[], None]]] = []
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self._now + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._elapsed += seconds
        due = [deed for deed in self._deeds if deed[0] <= self._elapsed]
        self._deeds = [deed for deed in self._deeds if deed[0] > self._elapsed]
        for _, deed in due:
            deed()

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock; no time passes."""
        self._now += seconds

    def at(self, seconds_from_now: float, deed: Callable[[], None]) -> None:
        self._deeds.append((self._elapsed + seconds_from_now, deed))
