"""The text format, as prometheus_client reads it."""

from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from provisioner.metrics.table import COUNTER, GAUGE, HISTOGRAM, TABLE, Metric, documentation
from provisioner.metrics.text import family, histograms, labels, line

THING = Metric("provisioner_thing", GAUGE, ("node", "word"), "A thing, with a \\ and a\nline.")
SPREAD = Metric("provisioner_spread_seconds", HISTOGRAM, ("node",), "A spread.")


@pytest.mark.parametrize("value", ["plain", 'a "quoted" word', "back\\slash", "two\nlines", "käse 木", "", "a,b={}"])
def test_whatever_a_label_says_is_read_back(value: str) -> None:
    (found,) = text_string_to_metric_families(family(THING, [line(THING, labels(THING, "n1", value), 1)]))
    assert [sample.labels for sample in found.samples] == [{"node": "n1", "word": value}]


@pytest.mark.parametrize("value", [0, -1, 12345678901234, 0.1, 1e-9, 3.5e15, math.inf, -math.inf])
def test_a_value_loses_no_digit(value: float) -> None:
    (found,) = text_string_to_metric_families(family(THING, [line(THING, labels(THING, "n", "w"), value)]))
    assert found.samples[0].value == value


def test_nothing_is_written_of_a_metric_without_series() -> None:
    assert (family(THING, []), histograms(SPREAD, [])) == ("", "")


def test_a_histogram_is_cumulative_and_ends_with_infinity() -> None:
    text = histograms(SPREAD, [(labels(SPREAD, "n1"), (0.1, 1.0), (2, 3, 1), 4.5), ("", (0.1, 1.0), (0, 0, 0), 0.0)])
    (found,) = text_string_to_metric_families(text)
    first = [
        (sample.name, sample.labels.get("le"), sample.value) for sample in found.samples if "node" in sample.labels
    ]
    assert first == [
        ("provisioner_spread_seconds_bucket", "0.1", 2),
        ("provisioner_spread_seconds_bucket", "1.0", 5),
        ("provisioner_spread_seconds_bucket", "+Inf", 6),
        ("provisioner_spread_seconds_sum", None, 4.5),
        ("provisioner_spread_seconds_count", None, 6),
    ]
    assert len(found.samples) == 10


def test_every_metric_is_named_as_prometheus_wants_it() -> None:
    names = [metric.name for metric in TABLE]
    assert len(set(names)) == len(names)
    for metric in TABLE:
        assert metric.name.startswith("provisioner_")
        assert metric.name.endswith("_total") == (metric.kind == COUNTER)
        assert metric.help.endswith((".", "ends."))
        assert not {"le", "quantile", "instance", "job"} & set(metric.labels)


def test_the_documentation_has_a_row_for_every_metric() -> None:
    rows = [each for each in documentation().splitlines() if each.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [metric.name for metric in TABLE]
