"""Evidence of real use, and what we remember of it between two looks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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


class Evidence(Enum):
    """What one source says of a node's use. Unknown counts as busy."""

    BUSY = "busy"
    QUIET = "quiet"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Signal:
    """One source's word on whether a node is in use.

    `source` is where it comes from, in a word or two: ``engine``, ``gateway``,
    ``guest``. `reason` says what is seen, or why nothing is; a quiet source
    needs none. `mark` changes whenever something was done between two looks
    that neither of them saw; empty where a source keeps no such trace.
    """

    source: str
    evidence: Evidence
    reason: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class ActivityRecord:
    """What was last seen of a node's use, and since when nothing has moved. Times are UNIX seconds.

    `quiet_uptime` is what the VM's uptime was at `quiet_since`: a second clock,
    which no change of this machine's time moves. `unknown_since` is None while
    everybody answers. `is_quiet` is False after a look that saw it in use: when
    that ended will show, and the quiet time begins no earlier than the look that
    shows it.
    """

    work_total: float
    quiet_since: float
    quiet_uptime: float = 0.0
    seen_at: float = 0.0
    mark: str = ""
    unknown_since: float | None = None
    is_quiet: bool = True


@dataclass(frozen=True, slots=True)
class HoursServed:
    """The awake hours (by their beginning, UNIX seconds) that a node was last woken for, or was on in already.

    `failed_at` is when waking it for them failed last; None when it did not.
    """

    begins: float
    failed_at: float | None = None
