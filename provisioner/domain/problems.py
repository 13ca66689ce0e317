"""How something wrong in the fleet file is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in the fleet file: where it stands, what was found, what is allowed."""

    place: Place
    found: str
    allowed: str


def known(names: Iterable[object]) -> str:
    """Return what is allowed where one of some names is."""
    listed = ", ".join(str(name) for name in names)
    return f"one of: {listed}" if listed else "none is defined"
