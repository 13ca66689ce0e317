"""The journal as a timeline: what each node was, from when to when. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from provisioner.domain.day import Failure, NodeDay, Span, Stretch, joined, stretch_of
from provisioner.domain.events import Entry, Kind
from provisioner.domain.serving import Phase

_FAILED = "failed"
# Kinds whose failure is one of the node, and not only of a step that is tried again.
_TELLING_FAILURES = (Kind.WAKE, Kind.SLEEP, Kind.MODE)


@dataclass(frozen=True, slots=True)
class Unwatched:
    """Nobody looked at any node from one moment to another (UNIX seconds): the service did not run."""

    begins: float
    ends: float


def unwatched(entries: Iterable[Entry]) -> tuple[Unwatched, ...]:
    """Return when the service did not run, from all entries in their order; the last gap may be open (`ends` inf).

    A service that was killed tells no end: then its last word of any kind is taken for it.
    """
    gaps: list[Unwatched] = []
    ended: float | None = None
    last: float | None = None
    for entry in entries:
        if entry.kind is Kind.SERVICE and entry.phase == "ended":
            ended = entry.at
        elif entry.kind is Kind.SERVICE and entry.phase == "started":
            begins = ended if ended is not None else last
            if begins is not None and entry.at > begins:
                gaps.append(Unwatched(begins, entry.at))
            ended = None
        last = entry.at
    if ended is not None:
        gaps.append(Unwatched(ended, float("inf")))
    return tuple(gaps)


def node_day(
    entries: Iterable[Entry],
    gaps: Sequence[Unwatched],
    busy: Iterable[tuple[float, float]],
    *,
    begins: float,
    ends: float,
) -> NodeDay:
    """Return what one node was over a period.

    Args:
        entries: the journal's about this node, oldest first; the first may be from before the period and says what the
            node was when it began.
        gaps: when nobody looked, as `unwatched` tells; what was seen before one does not hold after it.
        busy: from when to when requests were with the node (UNIX seconds); they may overlap.
        begins: when the period begins, in UNIX seconds.
        ends: when it ends.
    """
    marks: list[tuple[float, Stretch]] = [(gap.begins, Stretch.UNKNOWN) for gap in gaps]
    failures = []
    for entry in entries:
        if entry.kind is Kind.STATE:
            marks.append((entry.at, _stretch(entry.phase)))
        elif entry.kind in _TELLING_FAILURES and entry.phase == _FAILED and begins <= entry.at <= ends:
            failures.append(Failure(entry.at, entry.detail))
    # Sorting is stable: at one moment a gap comes before what was seen after it.
    marks.sort(key=lambda mark: mark[0])
    spans: list[Span] = []
    now, since = Stretch.UNKNOWN, begins
    for at, what in marks:
        moment = min(max(at, begins), ends)
        spans.append(Span(now, since, moment))
        now, since = what, moment
    spans.append(Span(now, since, ends))
    return NodeDay(joined(_with_requests(joined(spans), _merged(busy))), tuple(failures))


def _stretch(phase: str) -> Stretch:
    try:
        return stretch_of(Phase(phase))
    except ValueError:
        # A later version may know more phases.
        return Stretch.UNKNOWN


def _merged(busy: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for begins, ends in sorted(busy):
        if found and begins <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ends))
        else:
            found.append((begins, ends))
    return found


def _with_requests(spans: Sequence[Span], busy: Sequence[tuple[float, float]]) -> Iterable[Span]:
    """Yield the spans with the time of requests cut out of those awake: a request that waits is not served yet."""
    at = 0
    for span in spans:
        if span.what is not Stretch.AWAKE:
            yield span
            continue
        since = span.begins
        while at < len(busy) and busy[at][1] <= span.begins:
            at += 1
        here = at
        while here < len(busy) and busy[here][0] < span.ends:
            begins, ends = max(busy[here][0], since), min(busy[here][1], span.ends)
            yield Span(Stretch.AWAKE, since, begins)
            yield Span(Stretch.SERVING, begins, ends)
            since = max(since, ends)
            here += 1
        yield Span(Stretch.AWAKE, since, span.ends)
