"""When a node that passes for ready is avoided because it fails requests, and when it may be tried again. Pure.

One failure is enough to open it: a look at the engine's health, which follows
at once, closes it again if that was all. An engine that says it is healthy and
yet fails one request after the other stays avoided, for longer each time.
"""

from __future__ import annotations

from dataclasses import dataclass

_DISTRUST_AFTER = 3
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 60.0


@dataclass(slots=True)
class Breaker:
    """One node's record. Times are seconds of any steady clock."""

    trouble: str = ""
    failures: int = 0
    """Requests that failed since one succeeded."""
    closed_until: float = 0.0
    """Its health is not believed before."""

    @property
    def is_open(self) -> bool:
        """It is avoided."""
        return bool(self.trouble)

    def failed(self, why: str, now: float) -> None:
        """A request failed there."""
        self.trouble = why
        self.failures += 1
        beyond = self.failures - _DISTRUST_AFTER
        if beyond >= 0:
            self.closed_until = now + min(_FIRST_PAUSE * 2 ** min(beyond, 10), _LONGEST_PAUSE)

    def unhealthy(self, why: str) -> None:
        """A look at its health says no; that counts as no failed request."""
        self.trouble = why

    def healthy(self, now: float) -> None:
        """A look at its health says yes."""
        if now >= self.closed_until:
            self.trouble = ""

    def succeeded(self) -> None:
        """A request was answered."""
        self.trouble = ""
        self.failures = 0
        self.closed_until = 0.0
