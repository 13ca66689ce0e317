"""What `status --watch` draws of a day."""

from __future__ import annotations

from provisioner.cli.status_watch import day_signs
from provisioner.domain.day import Failure, NodeDay, Span, Stretch

HOUR = 3600.0


def test_an_hour_is_what_most_of_it_was_and_what_is_rare_is_shown_anyway() -> None:
    day = NodeDay(
        (
            Span(Stretch.ASLEEP, 0, 10 * HOUR),
            Span(Stretch.WAKING, 10 * HOUR, 10.1 * HOUR),
            Span(Stretch.AWAKE, 10.1 * HOUR, 12.5 * HOUR),
            Span(Stretch.SERVING, 12.5 * HOUR, 12.51 * HOUR),
            Span(Stretch.AWAKE, 12.51 * HOUR, 13 * HOUR),
            Span(Stretch.ASLEEP, 13 * HOUR, 24 * HOUR),
        ),
        (Failure(20.5 * HOUR, "no card"),),
    )
    assert (
        day_signs(day)
        == ("asleep",) * 10 + ("awake",) * 2 + ("serving",) + ("asleep",) * 7 + ("failed",) + ("asleep",) * 3
    )
