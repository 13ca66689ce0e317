"""What GPUs drew, as a picture of the last day."""

from __future__ import annotations

import pytest

from provisioner.domain.names import NodeName
from provisioner.services.power_trail import PowerTrail
from tests.fakes.clock import FakeClock

ONE, TWO = NodeName("one"), NodeName("two")


def test_draws_are_means_of_minutes_and_sums_over_nodes() -> None:
    clock, drawn = FakeClock(), dict[NodeName, float]()
    trail = PowerTrail(lambda: drawn, clock)
    trail.turn()
    assert trail.is_empty
    drawn.update({ONE: 100.0, TWO: 50.0})
    trail.turn()
    clock.advance(15)
    drawn.update({ONE: 300.0})
    trail.turn()
    clock.advance(60)
    drawn.clear()
    trail.turn()
    clock.advance(60)
    drawn[TWO] = 30.0
    trail.turn()
    assert trail.steps(count=4, seconds=60) == (None, 250.0, None, 30.0)
    assert trail.steps(count=3, seconds=60, node=ONE) == (200.0, None, None)
    assert trail.steps(count=1, seconds=300) == (pytest.approx(140.0),)


def test_what_is_older_than_a_day_goes() -> None:
    clock = FakeClock()
    trail = PowerTrail(lambda: {ONE: 1.0}, clock)
    for _ in range(2000):
        trail.turn()
        clock.advance(60)
    assert len(trail._minutes) == 24 * 60 + 1
