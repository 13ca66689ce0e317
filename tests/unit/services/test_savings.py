"""What was saved, from what was counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.names import NodeName
from provisioner.domain.savings import CountedTime
from provisioner.services.savings import DAY_SECONDS, fleet_savings
from tests.fakes.times import MemoryTimeBook
from tests.fleets import FLEET, fleet_from

ONE = NodeName("llm-gpu-01")
NOW = 100 * DAY_SECONDS + 3600.0
NIGHT = CountedTime(asleep_seconds=36000.0, spared_seconds=36000.0)
TEXT = FLEET.replace("defaults:\n", "defaults:\n  idle_power: 60W\n  asleep_power: 10W\n")


def test_before_anything_was_counted_nothing_was_saved(tmp_path: Path) -> None:
    found = fleet_savings(fleet_from(tmp_path, TEXT), MemoryTimeBook(), now=NOW)
    assert (found.since, found.until, found.saved.kwh, found.money) == (NOW, NOW, 0.0, None)
    assert [each.node for each in found.nodes] == ["llm-gpu-01", "llm-gpu-02"]


def test_the_days_that_are_asked_for_end_today(tmp_path: Path) -> None:
    book, fleet = MemoryTimeBook(), fleet_from(tmp_path, TEXT + "electricity: {price: 0.40 EUR/kWh}\n")
    for day in range(90, 101):
        book.add(day * DAY_SECONDS, {ONE: NIGHT})
    assert fleet_savings(fleet, book, now=NOW, days=1).saved.kwh == pytest.approx(0.5)
    assert fleet_savings(fleet, book, now=NOW, days=7).saved.kwh == pytest.approx(3.5)
    ever = fleet_savings(fleet, book, now=NOW)
    assert (ever.saved.kwh, ever.money) == (pytest.approx(5.5), pytest.approx(2.2))
    assert ever.since == 90 * DAY_SECONDS


def test_a_clock_that_was_set_back_makes_no_period_that_ends_before_it_begins(tmp_path: Path) -> None:
    book = MemoryTimeBook()
    book.add(200 * DAY_SECONDS, {ONE: NIGHT})
    found = fleet_savings(fleet_from(tmp_path, TEXT), book, now=NOW)
    assert found.since <= found.until
