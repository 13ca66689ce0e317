"""The hours in which a node is to stay awake: days of the week, times of day, and the zone that they are meant in."""

from __future__ import annotations

import re
from dataclasses import dataclass

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
DAYS_PATTERN = rf"^(?:daily|{_DAY}(?:-{_DAY})?(?:,\s*{_DAY}(?:-{_DAY})?)*)$"
DAYS_HELP = "days such as Mon-Fri, Sat,Sun, Mon-Wed,Fri or daily"
TIME_PATTERN = r"^(?:[01]\d|2[0-3]):[0-5]\d$|^24:00$"
TIME_OF_DAY_HELP = 'a time of day in quotes, such as "08:00"; "24:00" is the end of a day'
WHOLE_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class AwakeHours:
    """A stretch of time that comes back every week.

    `days` are those on which it begins, 0 for Monday. `begins` and `ends` are
    minutes after midnight on the clock on the wall; an end that is not after
    the beginning is on the next day.
    """

    days: frozenset[int]
    begins: int
    ends: int
    text: str = ""
    """As the fleet file says it, for people."""


@dataclass(frozen=True, slots=True)
class AwakePlan:
    """When a node is to be awake without anybody asking.

    `zone` is an IANA name such as ``Europe/Berlin``. A node that is off when
    its hours begin is woken `pre_wake_seconds` before that; None is for nodes
    that the hours keep awake and do not wake.
    """

    hours: tuple[AwakeHours, ...] = ()
    zone: str = "UTC"
    pre_wake_seconds: float | None = None


def parse_days(text: str) -> frozenset[int]:
    """Return days as numbers from ``Mon-Fri``; a range may go over the end of the week. Raises ValueError."""
    if not re.fullmatch(DAYS_PATTERN, text):
        raise ValueError(DAYS_HELP)
    if text == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


def parse_time_of_day(text: str) -> int:
    """Return minutes after midnight from ``08:00``. Raises ValueError."""
    if not re.fullmatch(TIME_PATTERN, text):
        raise ValueError(TIME_OF_DAY_HELP)
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
