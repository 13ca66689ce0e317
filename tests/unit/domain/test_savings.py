"""What sleeping saves, by the arithmetic that it shows."""

from __future__ import annotations

import pytest

from provisioner.domain.names import NodeName
from provisioner.domain.savings import (
    ASSUMED_ASLEEP_WATTS,
    ASSUMED_IDLE_WATTS,
    Basis,
    CountedTime,
    NodePower,
    Price,
    node_savings,
    parse_price,
    savings,
)

NODE, OTHER = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")
PRICE = Price(0.30, "EUR")
HOUR = 3600.0


def test_watts_from_a_meter_make_energy_and_money() -> None:
    counted = CountedTime(awake_seconds=4 * HOUR, asleep_seconds=20 * HOUR, spared_seconds=20 * HOUR)
    found = node_savings(NODE, counted, NodePower(1, idle_watts=60.0, asleep_watts=10.0), PRICE)
    assert found.used.kwh == pytest.approx(4 * 0.060 + 20 * 0.010)
    assert found.always_on.kwh == pytest.approx(24 * 0.060)
    assert found.saved.kwh == pytest.approx(1.0)
    assert found.money == pytest.approx(0.30)
    assert {found.used.basis, found.always_on.basis, found.saved.basis} == {Basis.GIVEN}
    assert found.words[-1] == "1.00 kWh x 0.3 EUR/kWh = 0.30 EUR"


def test_what_was_used_and_what_was_saved_make_up_always_on() -> None:
    counted = CountedTime(8 * HOUR, 16 * HOUR, 12 * HOUR, 0.0, 6 * HOUR, 6 * HOUR * 180.0, 2 * HOUR, 2 * HOUR * 42.0)
    found = node_savings(NODE, counted, NodePower(1), PRICE)
    assert found.used.kwh + found.saved.kwh == pytest.approx(found.always_on.kwh)


def test_a_driver_that_was_read_all_the_time_leaves_nothing_of_the_time_awake_to_estimate() -> None:
    counted = CountedTime(
        awake_seconds=HOUR, measured_seconds=HOUR, measured_joules=HOUR * 200.0, idle_seconds=900, idle_joules=900 * 45
    )
    found = node_savings(NODE, counted, NodePower(1), None)
    assert (found.used.kwh, found.used.basis) == (pytest.approx(0.2), Basis.MEASURED)
    assert found.money is None


def test_idle_watts_that_were_measured_go_before_those_that_were_given() -> None:
    counted = CountedTime(2 * HOUR, 10 * HOUR, 10 * HOUR, 0.0, HOUR, HOUR * 90.0, HOUR, HOUR * 50.0)
    found = node_savings(NODE, counted, NodePower(1, idle_watts=100.0, asleep_watts=0.0), None)
    assert found.saved.kwh == pytest.approx(0.5)
    assert found.saved.basis is Basis.GIVEN


def test_what_was_measured_while_awake_is_an_estimate_of_what_always_on_would_have_drawn() -> None:
    counted = CountedTime(10 * HOUR, HOUR, HOUR, 0.0, 9.6 * HOUR, HOUR * 900.0, HOUR, HOUR * 50.0)
    found = node_savings(NODE, counted, NodePower(1, asleep_watts=0.0), None)
    assert (found.always_on.basis, found.saved.basis) == (Basis.PROJECTED, Basis.GIVEN)
    awake = node_savings(
        NODE, CountedTime(10 * HOUR, 0, 0, 0, 9.6 * HOUR, HOUR * 900.0, HOUR, HOUR * 50.0), NodePower(1), None
    )
    assert awake.used.basis is Basis.MEASURED
    half = node_savings(
        NODE, CountedTime(10 * HOUR, 0, 0, 0, 5 * HOUR, HOUR * 900.0, HOUR, HOUR * 50.0), NodePower(1), None
    )
    assert (half.used.basis, str(half.used)) == (Basis.PROJECTED, "1.15 kWh (estimated from measured watts)")
    assert half.used.basis.is_estimated


def test_a_few_idle_readings_are_no_mean() -> None:
    counted = CountedTime(60.0, HOUR, HOUR, 0.0, 60.0, 6000.0, 60.0, 6000.0)
    found = node_savings(NODE, counted, NodePower(1), None)
    assert found.saved.kwh == pytest.approx((ASSUMED_IDLE_WATTS - ASSUMED_ASLEEP_WATTS) / 1000)
    assert found.saved.basis is Basis.ASSUMED


def test_hours_in_which_another_used_its_gpu_save_nothing() -> None:
    found = node_savings(NODE, CountedTime(asleep_seconds=5 * HOUR), NodePower(1), PRICE)
    assert (found.saved.kwh, found.money) == (0.0, 0.0)
    assert "5.0 h of it while another used its GPUs" in found.words[0]


def test_a_node_without_gpu_and_watts_saves_nothing_that_is_known() -> None:
    found = node_savings(NODE, CountedTime(asleep_seconds=HOUR, spared_seconds=HOUR), NodePower(0), PRICE)
    assert found.saved.basis is Basis.NONE
    assert "fleet file gives no idle_power" in found.words[1]


def test_a_sleep_that_draws_more_than_idle_costs_and_is_shown_so() -> None:
    counted = CountedTime(asleep_seconds=10 * HOUR, spared_seconds=10 * HOUR)
    found = node_savings(NODE, counted, NodePower(1, idle_watts=10.0, asleep_watts=25.0), PRICE)
    assert found.saved.kwh == pytest.approx(-0.15)
    assert found.money == pytest.approx(-0.045)


def test_the_fleet_is_the_sum_of_its_nodes_and_as_sure_as_the_least_sure() -> None:
    counted = {
        NODE: CountedTime(asleep_seconds=10 * HOUR, spared_seconds=10 * HOUR),
        OTHER: CountedTime(asleep_seconds=10 * HOUR, spared_seconds=10 * HOUR),
    }
    power = {NODE: NodePower(1, 60.0, 10.0), OTHER: NodePower(2), NodeName("llm-cpu-01"): NodePower(0)}
    found = savings(counted, power, PRICE, since=0.0, until=86400.0, counted_since=0.0)
    assert found.saved.kwh == pytest.approx(0.5 + 0.3)
    assert found.saved.basis is Basis.ASSUMED
    assert found.money == pytest.approx(0.8 * 0.30)
    assert found.words[0] == "from 1970-01-01 00:00 UTC to 1970-01-02 00:00 UTC, of which 10.0 h are counted"
    assert "0.80 kWh x 0.3 EUR/kWh = 0.24 EUR" in found.words


def test_without_a_price_there_is_no_money() -> None:
    found = savings({}, {NODE: NodePower(1)}, None, since=0.0, until=1.0)
    assert found.money is None
    assert found.as_dict()["currency"] is None
    assert any("no money without a price" in line for line in found.words)


@pytest.mark.parametrize(
    "text", ["0.30", "0,30 EUR/kWh", "EUR/kWh", "0.3 eur/kWh", "-1 EUR/kWh", "0.3 EUR", "nan EUR/kWh"]
)
def test_a_price_without_currency_and_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 0\.30 EUR/kWh"):
        parse_price(text)


def test_a_price_is_read() -> None:
    assert parse_price("0.32 EUR/kWh") == Price(0.32, "EUR")
