"""What the journal makes of a day."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.day import NodeDay, Stretch
from provisioner.domain.events import Entry, Kind
from provisioner.domain.names import NodeName
from provisioner.domain.serving import Phase
from provisioner.planning.timeline import Unwatched, node_day, unwatched

NODE = NodeName("llm-gpu-01")


def entry(at: float, kind: Kind, phase: str, detail: str = "") -> Entry:
    return Entry(int(at) + 1, at, kind, NODE, phase, detail, "", {})


def states(*found: tuple[float, str]) -> list[Entry]:
    return [entry(at, Kind.STATE, phase) for at, phase in found]


def shape(day: NodeDay) -> list[tuple[str, float, float]]:
    return [(span.what.value, span.begins, span.ends) for span in day.spans]


def test_a_day_begins_with_what_was_seen_last_before_it() -> None:
    day = node_day(
        states((5, "asleep"), (120, "queued"), (130, "booting"), (150, "ready")), (), (), begins=100, ends=200
    )
    assert shape(day) == [("asleep", 100, 120), ("waking", 120, 150), ("awake", 150, 200)]


def test_of_a_node_that_nobody_spoke_of_nothing_is_known() -> None:
    assert shape(node_day([], (), (), begins=100, ends=200)) == [("unknown", 100, 200)]


def test_requests_show_only_while_the_node_is_awake() -> None:
    busy = [(160, 170), (90, 155), (165, 180), (195, 300), (198, 199)]
    day = node_day(
        states((0, "asleep"), (150, "ready"), (190, "asleep"), (196, "ready")), (), busy, begins=100, ends=200
    )
    assert shape(day) == [
        ("asleep", 100, 150),
        ("serving", 150, 155),
        ("awake", 155, 160),
        ("serving", 160, 180),
        ("awake", 180, 190),
        ("asleep", 190, 196),
        ("serving", 196, 200),
    ]


def test_a_failed_wake_is_a_moment_and_not_a_state() -> None:
    entries = states((0, "asleep"), (110, "queued"))
    entries += [entry(120, Kind.WAKE, "failed", "no such card"), *states((121, "asleep"))]
    day = node_day(entries, (), (), begins=100, ends=200)
    assert [(each.at, each.words) for each in day.failures] == [(120, "no such card")]
    assert shape(day) == [("asleep", 100, 110), ("waking", 110, 121), ("asleep", 121, 200)]


def test_while_the_service_did_not_run_nothing_is_known() -> None:
    entries = states((0, "ready"), (160, "ready"))
    day = node_day(entries, (Unwatched(130, 150),), (), begins=100, ends=200)
    assert shape(day) == [("awake", 100, 130), ("unknown", 130, 160), ("awake", 160, 200)]


def test_a_service_that_was_killed_ended_with_its_last_word() -> None:
    service = [
        entry(1, Kind.SERVICE, "started"),
        entry(9, Kind.SERVICE, "ended"),
        entry(20, Kind.SERVICE, "started"),
        entry(33, Kind.STEP, "done"),
        entry(50, Kind.SERVICE, "started"),
        entry(60, Kind.SERVICE, "ended"),
    ]
    assert unwatched(service) == (Unwatched(9, 20), Unwatched(33, 50), Unwatched(60, float("inf")))


def test_a_phase_of_a_later_version_is_unknown() -> None:
    assert shape(node_day(states((0, "levitating")), (), (), begins=1, ends=2)) == [("unknown", 1, 2)]


_TIMES = st.floats(0, 1000, allow_nan=False)


@given(
    st.lists(st.tuples(_TIMES, st.sampled_from([phase.value for phase in Phase])), max_size=20),
    st.lists(st.tuples(_TIMES, _TIMES).map(lambda pair: (min(pair), max(pair))), max_size=20),
    st.lists(st.tuples(_TIMES, _TIMES).map(lambda pair: Unwatched(min(pair), max(pair))), max_size=3),
)
def test_spans_cover_the_day_without_gap_or_overlap(
    seen: list[tuple[float, str]], busy: list[tuple[float, float]], gaps: list[Unwatched]
) -> None:
    day = node_day(states(*sorted(seen)), gaps, busy, begins=200, ends=800)
    assert (day.spans[0].begins, day.spans[-1].ends) == (200, 800)
    for one, two in pairwise(day.spans):
        assert one.ends == two.begins
        assert one.what is not two.what
    assert day.seconds(*Stretch) == sum(span.seconds for span in day.spans)
