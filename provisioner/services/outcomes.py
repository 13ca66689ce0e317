"""What a step did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did. `replan` means that the rest of the plan must be made anew."""

    changed: bool
    detail: str = ""
    replan: bool = False


def done(detail: str, warnings: tuple[str, ...]) -> Outcome:
    """Return the outcome of a change, with its warnings where a reader sees them."""
    return Outcome(True, "; ".join((detail, *warnings)))
