"""Days and charts as the paths of SVG pictures, whose colours are the style sheet's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provisioner.domain.day import NodeDay, Span, Stretch
from provisioner.page.words import span_words
from provisioner.planning.request_charts import nice_ceiling

COLUMNS = 360
"""Of a day's strip: four minutes each."""
HEIGHT = 10
# What is shorter than half a column would never be seen; requests are worth seeing from this share on.
_SERVING_SHARE = 0.1
_SUMMED = (
    ("serving", (Stretch.SERVING,)),
    ("awake", (Stretch.AWAKE,)),
    ("waking", (Stretch.WAKING,)),
    ("asleep", (Stretch.ASLEEP,)),
    ("given away", (Stretch.WITHHELD,)),
    ("unknown", (Stretch.UNKNOWN,)),
)


@dataclass(frozen=True, slots=True)
class Mark:
    """All of one kind in a strip, as one path."""

    what: str
    path: str


@dataclass(frozen=True, slots=True)
class Strip:
    """A node's day; `words` say the same to who does not see it."""

    marks: tuple[Mark, ...]
    words: str
    failures: int = 0


def strip(day: NodeDay) -> Strip:
    """Draw a day in `COLUMNS` by `HEIGHT`."""
    begins, ends = day.spans[0].begins, day.spans[-1].ends
    columns = _columns(day.spans, begins, (ends - begins) / COLUMNS)
    marks = [Mark(what.value, _boxes(columns, what)) for what in Stretch if what in columns]
    if day.failures:
        share = COLUMNS / (ends - begins)
        at = (min(max((each.at - begins) * share, 1.0), COLUMNS - 1.0) for each in day.failures)
        marks.append(Mark("failed", "".join(f"M{x - 1:.0f} 0h2v{HEIGHT}h-2z" for x in at)))
    return Strip(tuple(marks), day_words(day), len(day.failures))


def day_words(day: NodeDay) -> str:
    """Say a day in one sentence."""
    parts = [f"{name} {span_words(day.seconds(*what))}" for name, what in _SUMMED if day.seconds(*what) >= 1]
    if day.failures:
        parts.append(f"{len(day.failures)} failed")
    return ", ".join(parts) or "no VM"


def _columns(spans: Sequence[Span], begins: float, width: float) -> list[Stretch]:
    columns = [Stretch.UNKNOWN] * COLUMNS
    shared: dict[int, dict[Stretch, float]] = {}
    for span in spans:
        left, right = (span.begins - begins) / width, (span.ends - begins) / width
        first, last = int(left), min(int(right), COLUMNS - 1)
        # Only where a span begins or ends are there others to reckon with; what lies between is wholly its own.
        for index in {first, last}:
            share = min(right, index + 1) - max(left, index)
            if share > 0:
                shares = shared.setdefault(index, {})
                shares[span.what] = shares.get(span.what, 0.0) + share
        if last > first + 1:
            columns[first + 1 : last] = [span.what] * (last - first - 1)
    for index, shares in shared.items():
        columns[index] = _foremost(shares)
    return columns


def _foremost(shares: dict[Stretch, float]) -> Stretch:
    # A wake is short and rare, and what one looks for.
    if shares.get(Stretch.WAKING, 0.0) > 0:
        return Stretch.WAKING
    if shares.get(Stretch.SERVING, 0.0) >= _SERVING_SHARE:
        return Stretch.SERVING
    return max(shares, key=lambda what: shares[what])


def _boxes(columns: Sequence[Stretch], wanted: Stretch) -> str:
    path, began = [], None
    for index, what in enumerate((*columns, None)):
        if what is wanted and began is None:
            began = index
        elif what is not wanted and began is not None:
            path.append(f"M{began} 0h{index - began}v{HEIGHT}h-{index - began}z")
            began = None
    return "".join(path)


CHART_WIDTH, CHART_HEIGHT = 240, 60


@dataclass(frozen=True, slots=True)
class Chart:
    """A quantity over time: `area` below its `line`, with gaps where nothing is known."""

    title: str
    unit: str
    now: str
    """Its newest value, written out."""
    top: str
    """What the upper edge stands for."""
    line: str
    area: str
    peak: str
    bad: str = ""
    """A second area in the colour of failure."""


def chart(
    title: str,
    unit: str,
    values: Sequence[float | None],
    write: Callable[[float], str],
    *,
    bad: Sequence[float] = (),
) -> Chart:
    """Draw values, oldest first, the last of which is still growing: the one before it is called the newest."""
    known = [value for value in values if value is not None]
    top = nice_ceiling(max(known, default=0.0))
    newest = next((value for value in reversed(values[:-1]) if value is not None), None)
    line, area = _paths(values, top)
    return Chart(
        title,
        unit,
        write(newest) if newest is not None else "",
        write(top),
        line,
        area,
        write(max(known)) if known else "",
        _paths(bad, top)[1] if any(bad) else "",
    )


def _paths(values: Sequence[float | None], top: float) -> tuple[str, str]:
    width = CHART_WIDTH / max(len(values) - 1, 1)
    runs: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((index * width, CHART_HEIGHT * (1 - min(value / top, 1.0))))
    line, area = [], []
    for run in filter(None, runs):
        # A value between two gaps would be a line without length.
        points = run if len(run) > 1 else [(run[0][0] - width / 2, run[0][1]), (run[0][0] + width / 2, run[0][1])]
        drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        line.append(f"M{drawn}")
        area.append(f"M{points[0][0]:.1f} {CHART_HEIGHT}L{drawn}L{points[-1][0]:.1f} {CHART_HEIGHT}z")
    return "".join(line), "".join(area)
