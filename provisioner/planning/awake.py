"""Is a node to be awake now, by the hours that its fleet file names? Pure; `now` comes in.

Hours are times on a wall, so on two days of the year a stretch is an hour
shorter or longer. Where the clock leaves a time out or shows it twice, the
stretch begins at the earlier and ends at the later of what may be meant: an
hour too long awake costs less than one too short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from provisioner.domain.awake import WHOLE_DAY, AwakeHours, AwakePlan


@dataclass(frozen=True, slots=True)
class Occasion:
    """One stretch of hours, from its beginning to its end (UNIX seconds). `text` is for people."""

    begins: float
    ends: float
    text: str

    def has_begun(self, now: float) -> bool:
        """It is not only about to begin."""
        return now >= self.begins


def occasion_at(plan: AwakePlan, now: float) -> Occasion | None:
    """Return the hours that a node is in, or will be in after no more than its `pre_wake`; None outside of them.

    Of several that overlap it is the one that ends last.
    """
    early = plan.pre_wake_seconds or 0.0
    there = [each for each in _around(plan, now, early) if each.begins - early <= now < each.ends]
    return max(there, key=lambda each: each.ends, default=None)


def _around(plan: AwakePlan, now: float, early: float) -> Iterator[Occasion]:
    if not plan.hours:
        return
    zone = ZoneInfo(plan.zone)
    today = datetime.fromtimestamp(now, zone).date()
    # One that began yesterday may last into today, and one is prepared for before its day begins.
    last = 1 + int(early // 86400) + 1
    for days in range(-2, last + 1):
        day = today + timedelta(days=days)
        for hours in plan.hours:
            if day.weekday() in hours.days:
                yield _on(day, hours, zone)


def _on(day: date, hours: AwakeHours, zone: ZoneInfo) -> Occasion:
    overnight = hours.ends <= hours.begins
    begins = min(_stamps(day, hours.begins, zone))
    ends = max(_stamps(day + timedelta(days=1) if overnight else day, hours.ends, zone))
    return Occasion(begins, ends, f"{hours.text} ({zone.key})")


def _stamps(day: date, minutes: int, zone: ZoneInfo) -> tuple[float, float]:
    """Return the moments that a time of day may mean: two different ones where the clock is being changed."""
    if minutes == WHOLE_DAY:
        day, minutes = day + timedelta(days=1), 0
    wall = datetime(day.year, day.month, day.day, minutes // 60, minutes % 60, tzinfo=zone)
    return wall.replace(fold=0).timestamp(), wall.replace(fold=1).timestamp()
