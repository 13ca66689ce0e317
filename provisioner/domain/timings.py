"""How often something was done, how it ended and how long it took: sums by a few fixed words, for whoever watches."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """What was counted under one key; `last_seconds` is how long the latest took."""

    count: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0


class Timings:
    """Sums by key. Safe to use from several threads.

    A key is made of words that come from us or the fleet file, never from whoever asks: the number of keys is bounded.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, ...], Timing] = {}

    def add(self, key: tuple[str, ...], seconds: float) -> None:
        """Count one that took so long."""
        with self._lock:
            found = self._sums.get(key, _NONE)
            self._sums[key] = Timing(found.count + 1, found.seconds + seconds, seconds)

    def all(self) -> Mapping[tuple[str, ...], Timing]:
        """Return every sum."""
        with self._lock:
            return dict(self._sums)


_NONE = Timing()
