"""Evidence of real use, and what we remember of it between two looks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineActivity:
    """An engine's own numbers.

    `work_total` only grows while the engine runs, and only by real work: a
    change between two looks means the engine was used in between. Engines
    reset it when they restart, so any difference counts, also downwards.
    `doubt` says why it may be in use though nothing shows it; empty for none.
    """

    running: int
    waiting: int
    work_total: float
    doubt: str = ""

    @property
    def is_busy(self) -> bool:
        """Requests are in it right now."""
        return self.running > 0 or self.waiting > 0


@dataclass(frozen=True, slots=True)
class ActivityRecord:
    """What was last seen of a node, and since when it has not moved. Times are UNIX seconds."""

    work_total: float
    quiet_since: float
