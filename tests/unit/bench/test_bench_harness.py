"""The frame that benchmarks hang in: percentiles, which rows are meant, and what programs read."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.bench.harness import Family, Figures, Result, write
from tests.bench.lab_site import FIRST_VMID, Latencies
from tests.bench.rows import FAMILIES


def test_percentiles_are_samples_that_were_seen() -> None:
    figures = Figures.of([float(number) for number in range(100, 0, -1)], seed=7)
    assert figures.as_dict() == {"p50": 50, "p95": 95, "p99": 99, "n": 100, "seed": 7}


def test_one_sample_is_a_value_and_claims_no_percentiles() -> None:
    assert Figures.of([0.123456]).as_dict() == {"value": 0.1235, "n": 1}


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Figures.of([])


@pytest.mark.parametrize(
    ("wanted", "concerned"), [("", True), ("provisioning", True), ("a.b", True), ("a.b.wall", True), ("a.c", False)]
)
def test_a_family_is_run_when_one_of_its_rows_may_be_meant(wanted: str, concerned: bool) -> None:
    assert Family("module:function", ("a.b", "provisioning.nodes_1.")).concerns(wanted) is concerned


def test_every_family_names_a_function_that_is_there() -> None:
    for family in FAMILIES:
        module, _, function = family.where.partition(":")
        assert callable(getattr(importlib.import_module(f"tests.bench.{module}"), function))


def test_programs_read_the_row_with_its_peers(tmp_path: Path) -> None:
    row = Result("a.b", "s", "<= 2", Figures.of([1.0, 2.0], 7), {"other": Figures.of([3.0])}, True, "aside")
    write([row], tmp_path / "build" / "bench.json")
    assert json.loads((tmp_path / "build" / "bench.json").read_text()) == [
        {
            "name": "a.b",
            "unit": "s",
            "target": "<= 2",
            "ours": {"p50": 1.0, "p95": 2.0, "p99": 2.0, "n": 2, "seed": 7},
            "peers": {"other": {"value": 3.0, "n": 1}},
            "met": True,
        }
    ]


def test_the_critical_path_is_what_the_bounds_leave() -> None:
    first = FIRST_VMID
    create = {first: 3.0, first + 1: 1.0, first + 2: 1.0, first + 3: 1.0}
    latencies = Latencies(create, dict.fromkeys(create, 2.0), upload=0.5, resize=0.5)
    assert latencies.critical_path(1, 8) == 6.0 + 4 * 3.0
    assert latencies.critical_path(100, 1) == 0.5 + 6.0 + 2.5
    assert latencies.critical_path(100, 2) == 0.5 + 3.0 + 2.5
    assert latencies.critical_path(100, 100) == 0.5 + 3.0 + 2.5


def test_one_seed_draws_one_set_of_latencies() -> None:
    assert Latencies.drawn(1, 5) == Latencies.drawn(1, 5)
    assert Latencies.drawn(1, 5) != Latencies.drawn(2, 5)
