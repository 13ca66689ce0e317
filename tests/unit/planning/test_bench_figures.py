"""Times of tokens in, figures out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.measurement import Reply
from provisioner.domain.names import GpuName
from provisioner.planning.bench_figures import level_figures, measured_thing, quantile


def reply(asked: float, first: float, step: float, count: int, **more: object) -> Reply:
    times = tuple(asked + first + step * number for number in range(count))
    return replace(Reply(asked, times, float(count)), **more)  # type: ignore[arg-type]


def test_one_reply_gives_its_first_token_and_its_rate() -> None:
    figures = level_figures(1, [reply(10.0, 0.5, 0.1, 11)])
    assert figures.first_token_p50 == pytest.approx(0.5)
    assert figures.rate_p50 == pytest.approx(10.0)
    assert figures.seconds == pytest.approx(1.5)
    assert figures.total_rate == pytest.approx(11 / 1.5)


def test_streams_side_by_side_add_up() -> None:
    figures = level_figures(2, [reply(0.0, 0.5, 0.1, 11), reply(0.0, 0.5, 0.1, 11)])
    assert figures.rate_p50 == pytest.approx(10.0)
    assert figures.total_rate == pytest.approx(22 / 1.5)
    assert figures.replies == 2


def test_several_tokens_in_a_piece_are_counted_as_the_engine_counts_them() -> None:
    whole = reply(0.0, 0.5, 0.2, 6, tokens=11.0)
    cut = reply(2.0, 0.5, 0.2, 3, ended=False)
    figures = level_figures(1, [whole, cut])
    assert figures.tokens == pytest.approx(11 + 3 * 11 / 6)


def test_a_reply_of_one_token_has_no_rate() -> None:
    figures = level_figures(1, [reply(0.0, 0.5, 0.0, 1)])
    assert figures.rate_p50 == 0.0
    assert figures.first_token_p95 == pytest.approx(0.5)


def test_an_empty_reply_counts_for_nothing_but_its_time() -> None:
    figures = level_figures(1, [Reply(0.0, (), 0.0), reply(1.0, 0.5, 0.1, 6)])
    assert figures.replies == 1
    assert figures.seconds == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([4.0], 0.95, 4.0), ([1.0, 2.0], 0.5, 1.5), ([1.0, 2.0, 3.0], 0.5, 2.0), (list(map(float, range(101))), 0.95, 95)],
)
def test_quantiles(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == pytest.approx(expected)


def test_what_makes_figures_incomparable_makes_another_thing(fleet: FleetSpec, node: NodeSpec) -> None:
    thing = measured_thing(fleet, node, "probe")
    assert measured_thing(fleet, node, "probe") == thing
    assert measured_thing(fleet, replace(node, gpus=()), "probe") != thing
    assert measured_thing(fleet, replace(node, gpus=(GpuName("a100"),)), "probe").setup != thing.setup
    assert measured_thing(fleet, replace(node, cores=2), "probe").setup != thing.setup
    assert measured_thing(fleet, node, "bench:1").setup == thing.setup
