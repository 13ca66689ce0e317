"""What chance draws for the rounds around shutdowns, and how a soak is judged."""

from __future__ import annotations

from tests.bench.around_shutdown import CLIENTS, Round
from tests.bench.soak import _growth

NAMES = ["n1", "n2", "n3"]


def test_a_seed_draws_the_same_round_again() -> None:
    assert Round.drawn(7, NAMES, 0.5) == Round.drawn(7, NAMES, 0.5)
    assert Round.drawn(7, NAMES, 0.5) != Round.drawn(8, NAMES, 0.5)


def test_every_node_is_asked_before_during_and_after_its_shutdown() -> None:
    rounds = [Round.drawn(seed, NAMES, 0.5) for seed in range(50)]
    asked = [(name, offset) for each in rounds for name, offset, _ in each.asks]
    assert len(asked) == 50 * len(NAMES) * CLIENTS
    for name in NAMES:
        offsets = [offset for who, offset in asked if who == name]
        assert min(offsets) < 0 < 0.5 < max(offsets)
        assert any(0 < offset < 0.5 for offset in offsets)
    kills = [each.killed_at for each in rounds]
    assert None in kills
    assert any(kill is not None and 0 < kill < 0.5 for kill in kills)


def test_growth_is_what_the_last_third_has_over_the_middle() -> None:
    assert _growth([10, 50, 90, 100, 100, 100, 100, 100, 100]) == 0
    assert _growth([10, 50, 90, 100, 100, 100, 112, 112, 112]) == 12
