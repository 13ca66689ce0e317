"""Why something is not done, as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing will be done, and what to do about it."""

    reason: str
    next_step: str
