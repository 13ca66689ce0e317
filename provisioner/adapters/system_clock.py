"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """Time as this machine has it."""

    def now(self) -> float:
        """Return UNIX seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
