"""The record of a request as a line of InfluxDB's line protocol, which all its versions and VictoriaMetrics read. Pure.

Tags are what one groups by, and their number is bounded as that of labels; everything else is a field.
"""

from __future__ import annotations

from provisioner.domain.ledger import LedgerEntry, Outcome

MEASUREMENT = "llm_request"


def line(entry: LedgerEntry, number: int) -> str:
    """Return one request as one line, its time in nanoseconds.

    Args:
        entry: the request.
        number: of this line, counting up. Two points of equal tags and time are one to the database, so its last three
            digits stand below the microseconds.
    """
    tags = {
        "node": entry.node,
        "model": entry.model,
        "caller": entry.caller,
        "outcome": entry.outcome.value,
        "fallback": "true" if entry.is_fallback else "false",
    }
    fields = {
        "request_time_ms": f"{entry.seconds * 1000:.3f}",
        "success": "true" if entry.outcome is Outcome.ANSWERED else "false",
        "status": f"{entry.status}i",
        "tries": f"{entry.tries}i",
        "waited_ms": f"{entry.waited_seconds * 1000:.3f}",
    }
    if entry.first_byte_seconds is not None:
        fields["first_byte_ms"] = f"{entry.first_byte_seconds * 1000:.3f}"
    if entry.tokens_in is not None:
        fields["tokens_in"] = f"{entry.tokens_in}i"
    if entry.tokens_out is not None:
        fields["tokens_out"] = f"{entry.tokens_out}i"
    rate = tokens_per_second(entry)
    if rate is not None:
        fields["tokens_per_second"] = f"{rate:.3f}"
    named = ",".join(f"{name}={_tag(value)}" for name, value in sorted(tags.items()) if value)
    nanoseconds = int(entry.at * 1e6) * 1000 + number % 1000
    return f"{MEASUREMENT},{named} {','.join(f'{name}={value}' for name, value in fields.items())} {nanoseconds}"


def tokens_per_second(entry: LedgerEntry) -> float | None:
    """Return how fast its tokens came once they came; of an answer that came whole, over all its time with the engine.

    None where the engine did not say how many they were.
    """
    if not entry.tokens_out or entry.outcome is not Outcome.ANSWERED:
        return None
    seconds = entry.seconds - (entry.first_byte_seconds or 0.0)
    # What came in one piece took its time before the first byte.
    if seconds < 0.01:
        seconds = entry.seconds - entry.waited_seconds
    return entry.tokens_out / seconds if seconds > 0 else None


def _tag(value: str) -> str:
    """Return a tag's value; a line break, and a backslash at its end, cannot stand there at all."""
    plain = " ".join(value.split()).rstrip("\\")
    for sign in (",", "=", " "):
        plain = plain.replace(sign, f"\\{sign}")
    return plain or "-"
