"""What is kept of a request: when, who, which model, where, how long, how many tokens, how it ended. Never a prompt."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum


class Outcome(Enum):
    """How a request ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """No engine got it: a wrong model, a full queue, nobody to serve it."""
    FAILED = "failed"
    """No engine answered it, or the answer broke off."""
    LEFT = "left"
    """Its client did not wait for the end."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One request.

    `at` is UNIX seconds when it came. Durations are seconds from then:
    `waited_seconds` until a node was ready for it, `first_byte_seconds` until
    its engine's first byte, None where none came. `tokens_in` and `tokens_out`
    are None where the engine did not say.
    """

    at: float
    caller: str
    path: str
    model: str
    outcome: Outcome
    status: int
    seconds: float
    node: str = ""
    is_fallback: bool = False
    woke: bool = False
    """It waited for a wake."""
    tries: int = 1
    """To how many nodes it was sent; 0 for none."""
    waited_seconds: float = 0.0
    first_byte_seconds: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    reason: str = ""
    """Why it went there, or why it failed."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for the API."""
        return asdict(self) | {"outcome": self.outcome.value}


@dataclass(frozen=True, slots=True)
class Timing:
    """What of a request tells how busy a node was and how fast it answered; `number` only grows. Else as above."""

    number: int
    at: float
    node: str
    outcome: Outcome
    seconds: float
    waited_seconds: float
    first_byte_seconds: float | None
    tokens_out: int | None
