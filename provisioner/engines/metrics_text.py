"""Reads single numbers out of Prometheus text. Whole formats are a library's business; engines need three lines."""

from __future__ import annotations

import math
import re

from provisioner.engines.base import AnswerUnreadable

# A label's value may hold spaces and braces, so the number is what stands behind the last closing brace.
_LINE = re.compile(r"(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)(?P<labels>\{.*\})?\s+(?P<rest>.*)")


def values(text: str, *names: str) -> list[float]:
    """Return the value of each named metric, summed over its labels. Raises AnswerUnreadable when one is missing."""
    found = sums(text, *names)
    missing = [name for name in names if name not in found]
    if missing:
        raise AnswerUnreadable(f"metrics without {', '.join(missing)}")
    return [found[name] for name in names]


def sums(text: str, *names: str) -> dict[str, float]:
    """Return the named metrics that are there, summed over their labels. Raises AnswerUnreadable."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith(names):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None and line.strip() not in names:
            continue
        name = match["name"] if match else line.strip()
        if name not in names:
            continue
        try:
            value = float(match["rest"].split()[0] if match else "")
        except (ValueError, IndexError) as error:
            raise AnswerUnreadable(f"{name} has no number: {line[:120]}") from error
        if not math.isfinite(value):
            # The format allows NaN and Inf; nothing that is counted is either.
            raise AnswerUnreadable(f"{name} has no number: {line[:120]}")
        found[name] = found.get(name, 0.0) + value
    return found
