"""Every trace of activity, with passes at phases of their own: no node in use is stopped, and no other stays long."""

from __future__ import annotations

import pytest

from provisioner.domain.fleet import FleetSpec
from tests.traces import Trace, play, traces

LOOP = 60.0


@pytest.mark.parametrize("trace", traces(), ids=lambda trace: trace.name)
@pytest.mark.parametrize("phase", [0.0, 1.0, 37.5])
def test_a_node_is_stopped_neither_in_use_nor_late(fleet: FleetSpec, trace: Trace, phase: float) -> None:
    played = play(trace, fleet, loop=LOOP, phase=phase)
    told = "\n".join(played.reasons)
    assert not played.is_false_stop, told
    assert played.late_by <= LOOP, told
    if trace.stays:
        assert played.stopped_at is None
        assert played.told_at is not None
        assert played.told_at <= 45 * 60, told
    else:
        assert played.told_at is None, told


def test_there_are_as_many_traces_as_promised_and_each_says_what_it_is() -> None:
    found = traces()
    assert len(found) >= 12
    assert all(len(trace.what) > 40 and "idle_after" in trace.facts and "then" in trace.facts for trace in found)
