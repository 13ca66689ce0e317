"""Reads single numbers out of Prometheus text. Whole formats are a library's business; engines need three lines."""

from __future__ import annotations

from provisioner.engines.base import AnswerUnreadable


def values(text: str, *names: str) -> list[float]:
    """Return the value of each named metric without labels. Raises AnswerUnreadable when one is missing."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name in names:
            try:
                found[name] = float(rest.split()[0])
            except (ValueError, IndexError) as error:
                raise AnswerUnreadable(f"{name} has no number: {line[:120]}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise AnswerUnreadable(f"metrics without {', '.join(missing)}")
    return [found[name] for name in names]
