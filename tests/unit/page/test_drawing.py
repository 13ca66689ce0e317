"""Days and charts as pictures."""

from __future__ import annotations

import re

import pytest

from provisioner.domain.day import Failure, NodeDay, Span, Stretch
from provisioner.page.drawing import COLUMNS, chart, strip
from provisioner.page.words import number, span_words

DAY = 86400.0


def widths(day: NodeDay) -> dict[str, int]:
    drawn = strip(day)
    return {
        mark.what: sum(int(width) for width in re.findall(r"h(\d+)v", mark.path))
        for mark in drawn.marks
        if mark.what != "failed"
    }


def test_every_column_is_drawn_once() -> None:
    day = NodeDay(
        (
            Span(Stretch.ASLEEP, 0, 30_000),
            Span(Stretch.WAKING, 30_000, 30_200),
            Span(Stretch.AWAKE, 30_200, 50_000),
            Span(Stretch.SERVING, 50_000, 60_000),
            Span(Stretch.AWAKE, 60_000, DAY),
        )
    )
    assert sum(widths(day).values()) == COLUMNS


def test_a_wake_of_seconds_is_seen_and_a_request_of_a_second_is_not_four_minutes() -> None:
    day = NodeDay(
        (
            Span(Stretch.ASLEEP, 0, 1000),
            Span(Stretch.WAKING, 1000, 1008),
            Span(Stretch.AWAKE, 1008, 40_000),
            Span(Stretch.SERVING, 40_000, 40_001),
            Span(Stretch.AWAKE, 40_001, DAY),
        )
    )
    assert widths(day)["waking"] == 1
    assert "serving" not in widths(day)


def test_a_failure_is_drawn_where_it_was_and_said() -> None:
    day = NodeDay((Span(Stretch.ASLEEP, 0, DAY),), (Failure(DAY / 2, "no card"), Failure(DAY, "again")))
    drawn = strip(day)
    (failed,) = [mark.path for mark in drawn.marks if mark.what == "failed"]
    assert failed == "M179 0h2v10h-2zM358 0h2v10h-2z"
    assert drawn.words == "asleep 1 d, 2 failed"


def test_a_chart_has_gaps_where_nothing_is_known() -> None:
    drawn = chart("First token", "", [None, 1.0, 2.0, None, 4.0, None], number)
    assert drawn.line.count("M") == 2
    assert (drawn.now, drawn.top, drawn.peak) == ("4", "5", "4")


def test_a_chart_of_nothing_says_so() -> None:
    drawn = chart("First token", "", [None, None], number)
    assert (drawn.line, drawn.area, drawn.now, drawn.peak) == ("", "", "", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_times_are_brief(seconds: float, words: str) -> None:
    assert span_words(seconds) == words
