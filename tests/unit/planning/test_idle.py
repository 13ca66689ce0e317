"""Who may sleep: every row is one node as seen, and the verdict with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.activity import ActivityRecord, EngineActivity
from provisioner.domain.conventions import TAG
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.names import HypervisorName, NodeName, Vmid
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.planning.idle import IdleVerdict, NodeUse, idle_decision
from tests.fleets import fleet_from

NOW = 1_800_000_000.0
QUIET = EngineActivity(0, 0, 100.0)
LONG_AGO = ActivityRecord(100.0, NOW - 3600)


@dataclass(frozen=True)
class Row:
    reason: str
    verdict: IdleVerdict
    power: Power = Power.RUNNING
    tags: frozenset[str] = frozenset({TAG})
    name: str = "llm-gpu-01"
    lock: str | None = None
    uptime: float = 86400.0
    activity: EngineActivity | None = QUIET
    last: ActivityRecord | None = LONG_AGO
    has_vm: bool = True


ROWS = [
    Row("quiet for 1 h, allowed are 20 min", IdleVerdict.SLEEP),
    Row("its VM is off", IdleVerdict.ASLEEP, power=Power.STOPPED),
    Row("it has no VM", IdleVerdict.ASLEEP, has_vm=False),
    Row("whether its VM runs is unknown", IdleVerdict.STAY, power=Power.UNKNOWN),
    Row("does not carry our tag", IdleVerdict.UNTOUCHED, tags=frozenset({"family"})),
    Row('VM 5001 is "other"', IdleVerdict.UNTOUCHED, name="other"),
    Row("its VM is locked (backup)", IdleVerdict.STAY, lock="backup"),
    Row("unknown counts as busy", IdleVerdict.STAY, activity=None),
    Row("1 requests running, 0 waiting", IdleVerdict.STAY, activity=EngineActivity(1, 0, 100.0)),
    Row("0 requests running, 3 waiting", IdleVerdict.STAY, activity=EngineActivity(0, 3, 100.0)),
    Row("up for only 30.0 s of at least 2 min", IdleVerdict.STAY, uptime=30.0),
    Row("quiet for 0 ms of 20 min", IdleVerdict.STAY, last=None),
    Row("quiet for 0 ms of 20 min", IdleVerdict.STAY, last=ActivityRecord(99.0, NOW - 3600)),
    # The engine restarted and its counters began anew: that, too, is no evidence of quiet.
    Row("quiet for 0 ms of 20 min", IdleVerdict.STAY, last=ActivityRecord(5000.0, NOW - 3600)),
    # The clock was set back: the recorded time lies in the future.
    Row("quiet for 0 ms of 20 min", IdleVerdict.STAY, last=ActivityRecord(100.0, NOW + 3600)),
    Row("quiet for 19 min 59 s of 20 min", IdleVerdict.STAY, last=ActivityRecord(100.0, NOW - 1199)),
    Row("quiet for 20 min, allowed are 20 min", IdleVerdict.SLEEP, last=ActivityRecord(100.0, NOW - 1200)),
]


def use(node: NodeSpec, row: Row) -> NodeUse:
    vm = VmSeen(Vmid(5001), row.name, HypervisorName("pve1"), row.power, row.tags, row.lock, row.uptime)
    return NodeUse(node, vm if row.has_vm else None, row.activity, "connection refused", row.last)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_every_node_gets_a_verdict_with_its_reason(node: NodeSpec, row: Row) -> None:
    decision = idle_decision(use(node, row), NOW)
    assert decision.verdict is row.verdict
    assert row.reason in decision.reason


def test_being_busy_begins_a_new_quiet_time(node: NodeSpec) -> None:
    decision = idle_decision(use(node, Row("", IdleVerdict.STAY, activity=EngineActivity(1, 0, 100.0))), NOW)
    assert decision.record == ActivityRecord(100.0, NOW)


@given(
    running=st.integers(0, 5),
    waiting=st.integers(0, 5),
    work=st.floats(0, 1e9),
    last_work=st.floats(0, 1e9),
    since=st.floats(-1e6, 1e6),
    uptime=st.floats(0, 1e7),
)
def test_a_node_only_sleeps_on_full_evidence(
    tmp_path_factory: pytest.TempPathFactory,
    running: int,
    waiting: int,
    work: float,
    last_work: float,
    since: float,
    uptime: float,
) -> None:
    node = fleet_from(tmp_path_factory.getbasetemp()).nodes[NodeName("llm-gpu-01")]
    row = Row(
        "",
        IdleVerdict.SLEEP,
        uptime=uptime,
        activity=EngineActivity(running, waiting, work),
        last=ActivityRecord(last_work, NOW - since),
    )
    if idle_decision(use(node, row), NOW).verdict is IdleVerdict.SLEEP:
        assert running == waiting == 0
        assert work == last_work
        assert since >= node.idle_after_seconds
        assert uptime >= node.min_uptime_seconds
