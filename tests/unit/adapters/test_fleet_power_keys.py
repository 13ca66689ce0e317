"""The fleet file's words on power: idle_power, asleep_power, electricity."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.names import NodeName
from provisioner.domain.savings import Price
from provisioner.errors import InputError
from tests.fleets import FLEET, fleet_from

GPU_NODE = "  llm-gpu-01: {hypervisor: pve1,"


def test_watts_and_a_price_are_read_and_defaults_apply(tmp_path: Path) -> None:
    text = FLEET.replace("defaults:\n", "defaults:\n  idle_power: 55.5W\n  asleep_power: 12W\n")
    text = text.replace(GPU_NODE, f"{GPU_NODE} idle_power: 80 W,") + "electricity: {price: 0.32 EUR/kWh}\n"
    fleet = fleet_from(tmp_path, text)
    one, two = (fleet.nodes[NodeName(name)] for name in ("llm-gpu-01", "llm-gpu-02"))
    assert (one.idle_watts, one.asleep_watts) == (80.0, 12.0)
    assert (two.idle_watts, two.asleep_watts) == (55.5, 12.0)
    assert fleet.electricity == Price(0.32, "EUR")


def test_who_says_nothing_has_no_price_and_no_watts(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET)
    assert fleet.electricity is None
    assert {node.idle_watts for node in fleet.nodes.values()} == {None}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("electricity: {price: 0.32}", "0.30 EUR/kWh"),
        ("electricity: {}", "price"),
        ("electricity: {price: 0.32 EUR/kWh, currency: EUR}", "currency"),
    ],
)
def test_a_price_that_nobody_can_read_is_refused(tmp_path: Path, words: str, found: str) -> None:
    with pytest.raises(InputError) as refused:
        fleet_from(tmp_path, FLEET + words + "\n")
    assert found in str(refused.value)


@pytest.mark.parametrize("words", ["idle_power: 60", "idle_power: 0.06kW", "asleep_power: -3W", "idle_power: 90000W"])
def test_a_power_without_watts_is_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(InputError) as refused:
        fleet_from(tmp_path, FLEET.replace(GPU_NODE, f"{GPU_NODE} {words},"))
    assert "a power in watts, such as 45W" in str(refused.value)
