"""Requests as records: what is told of those that went to a node directly, and what is shown of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from provisioner.domain.ledger import LedgerEntry, Outcome

# A request of last week is none that has just ended: its time is a mistake, and would spoil the averages.
_LONGEST_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Told:
    """What whoever sent a request to a node directly says of it. `asked_at` is our own clock's word, handed back."""

    model: str
    node: str
    success: bool
    status: int = 503
    """What its own caller was answered where it did not succeed."""
    asked_at: float | None = None
    waited_seconds: float = 0.0
    fallback: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None


def entry_of(told: Told, caller: str, now: float) -> LedgerEntry:
    """Return what is kept of it; it ends now."""
    seconds = now - told.asked_at if told.asked_at is not None else 0.0
    seconds = seconds if 0.0 <= seconds <= _LONGEST_SECONDS else 0.0
    return LedgerEntry(
        at=now - seconds,
        caller=caller,
        path="/api/route",
        model=told.model,
        outcome=_outcome(told),
        status=200 if told.success else told.status,
        seconds=seconds,
        node=told.node,
        is_fallback=told.fallback,
        waited_seconds=min(told.waited_seconds, seconds),
        tokens_in=told.tokens_in,
        tokens_out=told.tokens_out,
        reason="told by its caller",
    )


def _outcome(told: Told) -> Outcome:
    if told.success:
        return Outcome.ANSWERED
    # A model that nobody has, say: nothing of ours has failed.
    return Outcome.REFUSED if 400 <= told.status < 500 else Outcome.FAILED


def record(number: int, entry: LedgerEntry) -> dict[str, object]:
    """Return a request as others keep it; never its prompt."""
    answering = entry.seconds - entry.waited_seconds
    pace = entry.tokens_out / answering if entry.tokens_out and answering > 0 else None
    return {
        "number": number,
        "timestamp": datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "node": entry.node,
        "request_time_ms": round(entry.seconds * 1000, 3),
        "tokens_per_second": round(pace, 3) if pace is not None else None,
        "model": entry.model,
        "success": entry.outcome is Outcome.ANSWERED,
        "caller": entry.caller,
        "fallback": entry.is_fallback,
        "waited_ms": round(entry.waited_seconds * 1000, 3),
    }
