"""Requests in steps of time."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provisioner.domain.ledger import Outcome, Timing
from provisioner.planning.request_charts import nice_ceiling, steps


def timing(at: float, seconds: float, tokens: int | None = None, **more: object) -> Timing:
    values: dict[str, object] = {
        "number": 1,
        "at": at,
        "node": "a",
        "outcome": Outcome.ANSWERED,
        "seconds": seconds,
        "waited_seconds": 0.0,
        "first_byte_seconds": None,
        "tokens_out": tokens,
    }
    return Timing(**(values | more))  # type: ignore[arg-type]


def test_tokens_are_spread_over_the_time_in_which_they_were_made() -> None:
    found = steps([timing(105, 25, 200, first_byte_seconds=5.0)], begins=100, count=4, seconds=10)
    assert [each.tokens_per_second for each in found] == [0, 10, 10, 0]
    assert [each.requests for each in found] == [1, 0, 0, 0]


def test_the_wait_for_a_wake_is_no_slowness_of_the_engine() -> None:
    found = steps(
        [
            timing(101, 90, waited_seconds=60.0, first_byte_seconds=60.5),
            timing(102, 1, first_byte_seconds=0.1),
            timing(103, 1, first_byte_seconds=0.3),
            timing(104, 9, first_byte_seconds=9.0, outcome=Outcome.FAILED),
        ],
        begins=100,
        count=1,
        seconds=10,
    )
    assert (found[0].first_byte_seconds, found[0].requests, found[0].failed) == (pytest.approx(0.3), 4, 1)


def test_what_began_before_counts_with_what_it_made_since() -> None:
    found = steps([timing(90, 20, 200)], begins=100, count=2, seconds=10)
    assert [(each.requests, each.tokens_per_second) for each in found] == [(0, 10), (0, 0)]


@example([(0.0, 5e-324, 1)])
@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 300), st.integers(0, 5000)), max_size=30))
def test_no_token_is_lost_or_made(found: list[tuple[float, float, int]]) -> None:
    each = steps([timing(*one) for one in found], begins=0, count=100, seconds=10)
    made = sum(step.tokens_per_second for step in each) * 10
    assert made == pytest.approx(sum(tokens for _, _, tokens in found), abs=1e-3)


@pytest.mark.parametrize(
    ("value", "ceiling"), [(0, 1), (0.013, 0.02), (1, 1), (1.1, 2), (48, 50), (51, 100), (230, 500)]
)
def test_axes_end_with_round_numbers(value: float, ceiling: float) -> None:
    assert nice_ceiling(value) == pytest.approx(ceiling)
