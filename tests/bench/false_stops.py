"""How often idle passes stop a node that is in use, and how long one stays on that is not."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.harness import Bench, Figures, Result
from tests.fleets import fleet_from
from tests.traces import all_played, traces

LOOP_SECONDS = 60.0
# Passes begin at any second of a trace's first minute; every seventh of these is played.
PHASES = range(0, 60, 7)


def measure(bench: Bench) -> Iterator[Result]:
    """Play every trace of activity to the real passes, over fakes that keep state and time that flies."""
    fleet = fleet_from(bench.folder)
    bench.say(f"{len(traces())} traces, passes every {LOOP_SECONDS:g} s from {len(PHASES)} phases")
    played = list(all_played(fleet, LOOP_SECONDS, PHASES))
    wrong = sorted({each.trace.name for each in played if each.is_false_stop})
    note = f"{len(traces())} traces written by hand, {len(played)} plays; wrong: {', '.join(wrong) or 'none'}"
    stops = sum(each.is_false_stop for each in played)
    yield Result("wake.false_stops", "stops", "0", Figures.of([float(stops)]), {}, stops == 0, note)
    late = Figures.of([each.late_by for each in played if not each.trace.stays])
    most = max(late.samples)
    target = f"<= {LOOP_SECONDS:g} (one loop)"
    yield Result("wake.late_stop", "s", target, late, {}, most <= LOOP_SECONDS, f"most {most:g} s")
