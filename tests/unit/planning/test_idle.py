"""Who may sleep: every row is one node as seen, and the verdict with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.activity import ActivityRecord, EngineActivity, Evidence, HoursServed, Signal
from provisioner.domain.conventions import TAG
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.names import HypervisorName, NodeName, Vmid
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.planning.awake import Occasion
from provisioner.planning.idle import IdleVerdict, Ladder, NodeUse, idle_decision
from provisioner.planning.least_uptime import LEAST_SECONDS
from tests.fleets import fleet_from

NOW = 1_800_000_000.0
QUIET = EngineActivity(0, 0, 100.0)
LONG_AGO = ActivityRecord(100.0, NOW - 3600)
LOGIN = Signal("login sessions", Evidence.BUSY, "alice is logged in (pts/0)")
COMPUTES = Signal("GPU", Evidence.BUSY, "the card computes")
SILENT = Signal("guest", Evidence.UNKNOWN, "no answer")
NO_LADDER = Ladder()
IN_THE_DARK = ActivityRecord(100.0, NOW - 60, 86340.0, NOW - 60, "", NOW - 31 * 60, is_quiet=False)
MARKED = ActivityRecord(100.0, NOW - 3600, mark="gateway=1;login sessions=5")
SAME = Signal("login sessions", Evidence.QUIET, mark="5")
WENT_AND_CAME = Signal("login sessions", Evidence.QUIET, mark="6")
HOURS = Occasion(NOW - 600, NOW + 600, "Mon-Fri 08:00-18:00 (Europe/Berlin)")
SOON = Occasion(NOW + 300, NOW + 600, "Mon-Fri 08:00-18:00 (Europe/Berlin)")
FAILED = HoursServed(HOURS.begins, NOW - 300)


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
    signals: tuple[Signal, ...] = ()
    claims: tuple[str, ...] = ()
    occasion: Occasion | None = None
    served: HoursServed | None = None
    ladder: Ladder = NO_LADDER


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
    # Our clock was set back: the VM's own tells how long it was.
    Row("quiet for 5 min of 20 min", IdleVerdict.STAY, last=ActivityRecord(100.0, NOW + 3600, 86100.0, NOW + 3700)),
    # Our clock was set forward by an hour: the VM's own tells how long it was.
    Row("quiet for 5 min of 20 min", IdleVerdict.STAY, last=ActivityRecord(100.0, NOW - 3900, 86100.0, NOW - 3660)),
    # The VM was stopped and started since.
    Row("quiet for 0 ms of 20 min", IdleVerdict.STAY, last=ActivityRecord(100.0, NOW - 3600, 90000.0, NOW - 60)),
    # The last look saw it in use, and when that ended nobody knows.
    Row("quiet for 0 ms of 20 min", IdleVerdict.STAY, last=ActivityRecord(100.0, NOW - 3600, is_quiet=False)),
    Row("alice is logged in (pts/0)", IdleVerdict.STAY, signals=(LOGIN,)),
    Row("alice is logged in (pts/0); the card computes", IdleVerdict.STAY, signals=(LOGIN, COMPUTES)),
    Row("its guest does not say whether it is busy (no answer), and unknown", IdleVerdict.STAY, signals=(SILENT,)),
    Row("alice is logged in (pts/0)", IdleVerdict.STAY, signals=(SILENT, LOGIN), last=IN_THE_DARK),
    Row("for 31 min now; it stays on until somebody looks", IdleVerdict.UNKNOWN, signals=(SILENT,), last=IN_THE_DARK),
    Row("for 31 min now", IdleVerdict.UNKNOWN, power=Power.UNKNOWN, last=IN_THE_DARK),
    Row("bob holds it until noon", IdleVerdict.STAY, claims=("bob holds it until noon",)),
    Row("it is to be awake Mon-Fri", IdleVerdict.STAY, occasion=HOURS),
    Row("quiet for 0 ms of 20 min", IdleVerdict.STAY, signals=(WENT_AND_CAME,), last=MARKED),
    Row("quiet for 1 h, allowed are 20 min", IdleVerdict.SLEEP, signals=(SAME,), last=MARKED),
    Row("its hours Mon-Fri 08:00-18:00 (Europe/Berlin) are now", IdleVerdict.WAKE, power=Power.STOPPED, occasion=HOURS),
    Row("begin in 5 min", IdleVerdict.WAKE, power=Power.STOPPED, occasion=SOON),
    Row("its VM is locked (backup)", IdleVerdict.ASLEEP, power=Power.STOPPED, occasion=HOURS, lock="backup"),
    Row("begin in 5 min", IdleVerdict.WAKE, power=Power.STOPPED, occasion=SOON, lock="suspended"),
    Row(
        "somebody put it to sleep",
        IdleVerdict.ASLEEP,
        power=Power.STOPPED,
        occasion=HOURS,
        served=HoursServed(HOURS.begins),
    ),
    Row("the next try is in 10 min", IdleVerdict.ASLEEP, power=Power.STOPPED, occasion=HOURS, served=FAILED),
    Row("are now", IdleVerdict.WAKE, power=Power.STOPPED, occasion=HOURS, served=HoursServed(HOURS.begins - 86400)),
    Row("GPU rtx3090 would not come back", IdleVerdict.REST, ladder=Ladder(True, False, ("GPU rtx3090",))),
    Row("its model is out of memory, and GPU", IdleVerdict.STAY, ladder=Ladder(True, True, ("GPU rtx3090",))),
    Row("cannot let go of its model", IdleVerdict.STAY, ladder=Ladder(False, False, ("GPU rtx3090",))),
    Row("quiet for 19 min 59 s of 20 min", IdleVerdict.STAY, last=ActivityRecord(100.0, NOW - 1199)),
    Row("quiet for 20 min, allowed are 20 min", IdleVerdict.SLEEP, last=ActivityRecord(100.0, NOW - 1200)),
]


def use(node: NodeSpec, row: Row) -> NodeUse:
    vm = VmSeen(Vmid(5001), row.name, HypervisorName("pve1"), row.power, row.tags, row.lock, row.uptime)
    return NodeUse(
        replace(node, awake=replace(node.awake, pre_wake_seconds=300.0)),
        vm if row.has_vm else None,
        row.activity,
        "connection refused",
        row.last,
        row.signals,
        row.claims,
        row.occasion,
        row.served,
        (),
        row.ladder,
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_every_node_gets_a_verdict_with_its_reason(node: NodeSpec, row: Row) -> None:
    decision = idle_decision(use(node, row), NOW)
    assert decision.verdict is row.verdict
    assert row.reason in decision.reason


def test_being_busy_begins_a_new_quiet_time(node: NodeSpec) -> None:
    decision = idle_decision(use(node, Row("", IdleVerdict.STAY, activity=EngineActivity(1, 0, 100.0))), NOW)
    assert decision.record == ActivityRecord(100.0, NOW, 86400.0, NOW, is_quiet=False)


def test_a_model_rests_before_its_node_sleeps_where_the_file_says_so(node: NodeSpec) -> None:
    row = Row("", IdleVerdict.REST, last=ActivityRecord(100.0, NOW - 600), ladder=Ladder(True, False))
    rests_early = replace(use(node, row), node=replace(node, rest_after_seconds=300.0))
    assert idle_decision(rests_early, NOW).verdict is IdleVerdict.REST
    rests = replace(rests_early, ladder=Ladder(True, True))
    decision = idle_decision(rests, NOW)
    assert (decision.verdict, decision.reason) == (
        IdleVerdict.STAY,
        "quiet for 10 min of 20 min; its model is out of memory",
    )
    assert idle_decision(replace(rests, last=LONG_AGO), NOW).verdict is IdleVerdict.SLEEP
    assert idle_decision(use(node, row), NOW).verdict is IdleVerdict.STAY


def test_what_a_wake_costs_is_worth_some_time_awake(node: NodeSpec) -> None:
    unsaid = replace(node, min_uptime_seconds=None)
    woken = replace(use(unsaid, Row("", IdleVerdict.STAY, uptime=500.0)), node=unsaid, wakes=(300.0, 280.0, 9000.0))
    decision = idle_decision(woken, NOW)
    assert decision.reason == "up for only 8 min 20 s of at least 10 min: waking it takes 5 min"
    said = replace(woken, node=replace(node, min_uptime_seconds=60.0))
    assert idle_decision(said, NOW).verdict is IdleVerdict.STAY
    assert "quiet for" in idle_decision(said, NOW).reason
    never_woken = replace(woken, wakes=())
    assert "at least" not in idle_decision(never_woken, NOW).reason


def test_a_silence_that_ends_is_forgotten(node: NodeSpec) -> None:
    first = idle_decision(use(node, Row("", IdleVerdict.STAY, activity=None, last=IN_THE_DARK)), NOW)
    assert first.record is not None
    assert first.record.unknown_since == IN_THE_DARK.unknown_since
    second = idle_decision(use(node, Row("", IdleVerdict.STAY, last=first.record)), NOW + 60)
    assert second.record is not None
    assert (second.record.unknown_since, second.record.quiet_since) == (None, NOW + 60)


@given(
    running=st.integers(0, 5),
    waiting=st.integers(0, 5),
    work=st.sampled_from((0.0, 1.0, 2.0)),
    last_work=st.sampled_from((0.0, 1.0)),
    since=st.floats(-1e4, 1e4),
    uptime=st.floats(0, 1e4),
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
        # A look that seems to lie ahead was made before our clock was set back: then the VM's own clock counts.
        assert (since if since >= 0 else uptime) >= node.idle_after_seconds
        assert uptime >= LEAST_SECONDS
        assert uptime >= node.idle_after_seconds
