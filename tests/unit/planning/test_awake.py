"""Awake hours: days, times on a wall, two days a year on which the clock is changed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.awake import AwakeHours, AwakePlan, parse_days, parse_time_of_day
from provisioner.planning.awake import occasion_at

BERLIN = ZoneInfo("Europe/Berlin")


def plan(days: str, begins: str, ends: str, pre_wake: float | None = None, zone: str = "Europe/Berlin") -> AwakePlan:
    text = f"{days} {begins}-{ends}"
    hours = AwakeHours(parse_days(days), parse_time_of_day(begins), parse_time_of_day(ends), text)
    return AwakePlan((hours,), zone, pre_wake)


def stamp(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


OFFICE = plan("Mon-Fri", "08:00", "18:00", 300.0)


@pytest.mark.parametrize(
    ("when", "is_awake"),
    [
        ("2026-11-20 07:54:59", False),  # a Friday
        ("2026-11-20 07:55:00", True),
        ("2026-11-20 08:00:00", True),
        ("2026-11-20 17:59:59", True),
        ("2026-11-20 18:00:00", False),
        ("2026-11-21 12:00:00", False),  # a Saturday
        ("2026-11-23 12:00:00", True),
    ],
)
def test_office_hours_begin_early_enough_and_end_on_time(when: str, is_awake: bool) -> None:
    assert (occasion_at(OFFICE, stamp(when)) is not None) is is_awake


def test_without_pre_wake_hours_begin_when_they_begin() -> None:
    hours = plan("Mon-Fri", "08:00", "18:00")
    assert occasion_at(hours, stamp("2026-11-20 07:59:59")) is None
    found = occasion_at(hours, stamp("2026-11-20 08:00:00"))
    assert found is not None
    assert (found.begins, found.ends) == (stamp("2026-11-20 08:00"), stamp("2026-11-20 18:00"))
    assert found.text == "Mon-Fri 08:00-18:00 (Europe/Berlin)"


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    night = plan("Fri", "22:00", "06:00")
    assert occasion_at(night, stamp("2026-11-21 05:59")) is not None
    assert occasion_at(night, stamp("2026-11-20 05:59")) is None
    assert occasion_at(night, stamp("2026-11-21 22:30")) is None


def test_a_whole_day_has_an_end() -> None:
    found = occasion_at(plan("Sat", "00:00", "24:00"), stamp("2026-11-21 23:59"))
    assert found is not None
    assert found.ends == stamp("2026-11-22 00:00")


def test_hours_are_meant_in_their_zone_wherever_this_machine_is() -> None:
    tokyo = plan("daily", "08:00", "09:00", zone="Asia/Tokyo")
    assert occasion_at(tokyo, datetime(2026, 11, 20, 23, 30, tzinfo=UTC).timestamp()) is not None
    assert occasion_at(tokyo, datetime(2026, 11, 20, 8, 30, tzinfo=UTC).timestamp()) is None


def test_of_hours_that_overlap_the_last_to_end_counts() -> None:
    both = AwakePlan((*plan("daily", "08:00", "12:00").hours, *plan("daily", "10:00", "14:00").hours), "UTC")
    found = occasion_at(both, datetime(2026, 11, 20, 11, 0, tzinfo=UTC).timestamp())
    assert found is not None
    assert found.text.startswith("daily 10:00-14:00")


class TestTheClockIsChanged:
    """In Berlin on 28 March 2027 there is no 02:30, and on 31 October 2027 there are two."""

    def hours_of(self, day: str, begins: str, ends: str) -> float:
        found = occasion_at(plan("Sun", begins, ends), stamp(f"{day} 04:00"))
        assert found is not None
        return (found.ends - found.begins) / 3600

    def test_a_stretch_over_it_is_an_hour_shorter_or_longer(self) -> None:
        assert self.hours_of("2027-03-28", "01:00", "08:00") == 6
        assert self.hours_of("2027-10-31", "01:00", "08:00") == 8

    def test_a_time_that_is_left_out_or_comes_twice_is_read_as_the_longer_stretch(self) -> None:
        assert self.hours_of("2027-03-28", "02:30", "05:00") == 2.5
        assert self.hours_of("2027-10-31", "02:30", "05:00") == 3.5
        ends_in_it = plan("Sat", "22:00", "02:30")
        second = datetime(2027, 10, 31, 2, 29, tzinfo=BERLIN, fold=1).timestamp()
        assert occasion_at(ends_in_it, second) is not None
        assert occasion_at(ends_in_it, second + 120) is None

    def test_office_hours_begin_at_eight_on_the_wall_on_either_side(self) -> None:
        for day in ("2027-03-26", "2027-03-29", "2027-10-29", "2027-11-01"):
            found = occasion_at(OFFICE, stamp(f"{day} 09:00"))
            assert found is not None
            assert datetime.fromtimestamp(found.begins, BERLIN).strftime("%H:%M") == "08:00"


@given(st.integers(1_700_000_000, 1_900_000_000), st.sampled_from(["Europe/Berlin", "America/New_York", "UTC"]))
def test_hours_that_are_found_hold_the_moment_and_are_never_much_longer_than_said(now: int, zone: str) -> None:
    found = occasion_at(plan("Mon-Fri", "22:00", "06:00", 600.0, zone), now)
    if found is None:
        local = datetime.fromtimestamp(now, ZoneInfo(zone))
        assert 6 <= local.hour < 22 or local.weekday() in (5, 6) or (local.weekday() == 0 and local.hour < 6)
        return
    assert found.begins - 600 <= now < found.ends
    assert 7 * 3600 <= found.ends - found.begins <= 9 * 3600


@pytest.mark.parametrize(
    ("text", "days"),
    [("Mon-Fri", "01234"), ("Sat,Sun", "56"), ("Fri-Mon", "0456"), ("Mon-Tue, Thu", "013"), ("daily", "0123456")],
)
def test_days_are_read(text: str, days: str) -> None:
    assert parse_days(text) == {int(day) for day in days}


@pytest.mark.parametrize("text", ["", "Monday", "mon", "Mon-", "Mon Fri", "Mon,,Tue", "weekdays"])
def test_other_words_for_days_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Mon-Fri"):
        parse_days(text)


@pytest.mark.parametrize("text", ["8:00", "08.00", "24:01", "08:60", "08:00:00", ""])
def test_other_ways_to_write_a_time_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="08:00"):
        parse_time_of_day(text)
