"""Numbers and times as the pages write them."""

from __future__ import annotations

from datetime import UTC, datetime

from provisioner.domain.quantities import GIB

NOTHING = "–"


def span_words(seconds: float) -> str:
    """Write a length of time briefly: ``12 s``, ``3 min``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def iso(at: float) -> str:
    """Write a moment for programs."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(at: float) -> str:
    """Write a moment for people, in this machine's own time; a browser with scripts makes it the reader's."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def gib(size_bytes: int | None) -> str:
    """Write a size in GiB: ``18.2``, ``24``."""
    if size_bytes is None:
        return NOTHING
    value = size_bytes / GIB
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"


def number(value: float) -> str:
    """Write a quantity with no more digits than it deserves."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if abs(value) >= 10 else f"{value:.2g}"


def seconds_words(value: float) -> str:
    """Write a short time: ``240 ms``, ``1.4 s``."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{number(value)} s"
