"""Sizes and times as people write them: ``48GiB``, ``20m``. A number without a unit is refused.

Binary units only: RAM, VRAM and virtual disks are made in powers of two, and
``GB`` read either way is how a 24 GB model lands on a card that cannot hold it.
"""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_SIZE_UNITS = {"KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_TIME_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?([A-Za-z]+)")
# What no number of bytes or seconds reaches that anybody means; beyond it, floating point is no longer exact.
_TOO_MUCH = float(1 << 53)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s?([smhd])")

_POWER = re.compile(r"(\d{1,6}(?:\.\d+)?)\s?W")
# No wall socket gives more; who writes it means something else.
_MOST_WATTS = 20_000.0

POWER_HELP = "a power in watts, such as 45W"
SIZE_HELP = "a whole number of bytes with a unit, such as 512MiB, 48GiB or 2TiB"
TIME_HELP = "a time with a unit, such as 90s, 20m, 2h or 1d"


def parse_size(text: str) -> int:
    """Return bytes for ``48GiB``. Raises ValueError that says what is allowed."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] not in _SIZE_UNITS:
        raise ValueError(f"{SIZE_HELP}; units: {', '.join(_SIZE_UNITS)}")
    size = float(match[1]) * _SIZE_UNITS[match[2]]
    if not 0 < size < _TOO_MUCH or size != int(size):
        raise ValueError(SIZE_HELP)
    return int(size)


def parse_duration(text: str) -> float:
    """Return seconds for ``20m``. Raises ValueError that says what is allowed."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(TIME_HELP)
    seconds = float(match[1]) * _TIME_UNITS[match[2]]
    if seconds >= _TOO_MUCH:
        raise ValueError(TIME_HELP)
    return seconds


def parse_power(text: str) -> float:
    """Return watts for ``45W``. Raises ValueError that says what is allowed."""
    match = _POWER.fullmatch(text.strip())
    if match is None or float(match[1]) > _MOST_WATTS:
        raise ValueError(POWER_HELP)
    return float(match[1])


def size_text(size_bytes: int) -> str:
    """Write bytes the way `parse_size` reads them, in the largest unit that divides evenly."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes} bytes"


def duration_text(seconds: float) -> str:
    """Write seconds for people: ``850 ms``, ``14.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
