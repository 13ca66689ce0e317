"""Prometheus's text format, version 0.0.4, written for many series of few metrics.

prometheus_client builds an object and sorts a dictionary for every sample; for a thousand nodes that takes several
times what the whole answer may. Lines are made at once, not kept as pairs: what is no object of its own keeps the
collector of garbage quiet. Its parser reads what is written here, in tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import accumulate

from provisioner.metrics.table import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# A page of a thousand nodes has half as many; what has gone makes room.
_MOST_KEPT = 100_000


def labels(metric: Metric, *values: str) -> str:
    """Return the braces behind a metric's name, its values in the order of its labels; nothing where it has none."""
    return _braces(metric.labels, values) if values else ""


@lru_cache(_MOST_KEPT)
def _braces(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = ",".join(f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}"


def escaped(value: str) -> str:
    """Return a label's value as it stands between quotes."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def line(metric: Metric, braces: str, value: float) -> str:
    """Return one series: `braces` is what `labels` returned."""
    return f"{metric.name}{braces} {number(value)}\n"


def family(metric: Metric, lines: Sequence[str]) -> str:
    """Return one metric with all its series, as `line` wrote them; nothing where it has none."""
    return _head(metric) + "".join(lines) if lines else ""


def histograms(metric: Metric, found: Iterable[tuple[str, tuple[float, ...], Sequence[int], float]]) -> str:
    """Return a histogram with all its series.

    Args:
        metric: which.
        found: each series: what `labels` returned, the upper bounds, how many fell below each and above the one before
            (one more for those above the last), and the sum.
    """
    parts = []
    for braces, bounds, counts, total in found:
        below = tuple(accumulate(counts))
        parts.append(_form(metric.name, braces, bounds) % (*below, number(total), below[-1]))
    return _head(metric) + "".join(parts) if parts else ""


@lru_cache(_MOST_KEPT)
def _form(name: str, braces: str, bounds: tuple[float, ...]) -> str:
    """Return a histogram's lines with a place for each number."""
    inside = f"{braces[1:-1]}," if braces else ""
    lines = [f'{name}_bucket{{{inside}le="{number(bound)}"}} ' for bound in (*bounds, math.inf)]
    lines += [f"{name}_sum{braces} ", f"{name}_count{braces} "]
    return "".join(f"{line.replace('%', '%%')}%s\n" for line in lines)


def number(value: float) -> str:
    """Return a value in the format's words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(value)


@cache
def _head(metric: Metric) -> str:
    words = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {metric.name} {words}\n# TYPE {metric.name} {metric.kind}\n"
