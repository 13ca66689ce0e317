"""What can be wrong with one argument of a mode, in words that say what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """What is wrong with an argument."""

    UNKNOWN = "unknown"
    REMOVED = "removed"
    NOT_YET = "not there yet"
    FOREIGN = "another engine's"
    VALUE = "wrong value"
    OURS = "set by us"
    TWICE = "said twice"
    SECRET = "a secret"  # noqa: S105 - names a fault, holds no secret
    TOGETHER = "excluded by another"
    FADING = "announced for removal"
    UNREADABLE = "help not understood"


@dataclass(frozen=True, slots=True)
class FlagProblem:
    """One argument that an engine will not take, or not as it is meant.

    `flag` is the argument as the mode writes it. `found` says what is wrong,
    `instead` what to write. Where nobody looked into the very version, or the
    engine would still start, `is_certain` is false: then it is told, not refused.
    """

    flag: str
    fault: Fault
    found: str
    instead: str
    is_certain: bool = True

    def __str__(self) -> str:
        return f"{self.found}; {self.instead}" if self.instead else self.found
