"""Who may sleep, and for the others, why not. Pure: everything seen, and `now`, come in as values.

Unknown counts as busy: a node is put to sleep on evidence, never for lack of
it, and one of which nothing is known for too long is reported instead. Quiet
time is measured by two clocks, this machine's and the VM's own uptime, and the
shorter counts: a clock that is set forward puts nobody to sleep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from provisioner.domain.activity import ActivityRecord, EngineActivity, Evidence, HoursServed, Signal
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.quantities import duration_text
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.planning.awake import Occasion
from provisioner.planning.least_uptime import least_uptime
from provisioner.planning.ownership import Act, Why, objection

# A guest that reboots, an engine that loads: both are over by then, or somebody has to look.
_UNKNOWN_TOO_LONG_SECONDS = 1800.0
# A wake for awake hours that failed: its cause seldom mends itself within minutes.
_TRY_AGAIN_SECONDS = 900.0
_UNKNOWN_IS_BUSY = "and unknown counts as busy"


class IdleVerdict(Enum):
    """What becomes of a node in an idle pass."""

    SLEEP = "sleep"
    REST = "rest"
    """Its model is taken out of the GPU's memory; the VM stays on."""
    WAKE = "wake"
    STAY = "stay"
    UNKNOWN = "unknown"
    """It stays, and has not said for too long whether it is in use."""
    ASLEEP = "asleep"
    FAILED = "failed"
    UNTOUCHED = "untouched"


@dataclass(frozen=True, slots=True)
class Ladder:
    """What there is between a node that serves and one that is off.

    `can_rest` says that its engine lets go of the GPU's memory when told to,
    `rests` that it has. `lost_by_stop` are its GPUs that would not come back
    from a stop of the VM: with any, the VM stays on.
    """

    can_rest: bool = False
    rests: bool = False
    lost_by_stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeUse:
    """What is known of one node's use. `activity` is None when its engine did not tell, `why_unknown` says why.

    `signals` are all other sources, `claims` what people hold it for, `wakes` how many seconds its last wakes took.
    """

    node: NodeSpec
    vm: VmSeen | None
    activity: EngineActivity | None
    why_unknown: str
    last: ActivityRecord | None
    signals: tuple[Signal, ...] = ()
    claims: tuple[str, ...] = ()
    occasion: Occasion | None = None
    hours_served: HoursServed | None = None
    wakes: tuple[float, ...] = ()
    ladder: Ladder = Ladder()


@dataclass(frozen=True, slots=True)
class IdleDecision:
    """The verdict on one node with its reason, and what to remember of it."""

    node: NodeSpec
    verdict: IdleVerdict
    reason: str
    record: ActivityRecord | None = None
    occasion: Occasion | None = None
    """The awake hours that it is on in, or is to be woken for."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {"node": self.node.name, "verdict": self.verdict.value, "reason": self.reason}

    def __str__(self) -> str:
        return f"{self.node.name}: {self.verdict.value} — {self.reason}"


def idle_decision(use: NodeUse, now: float) -> IdleDecision:
    """Judge one node.

    Args:
        use: what is known of it.
        now: UNIX seconds.
    """
    node, vm = use.node, use.vm
    if vm is None:
        return IdleDecision(node, IdleVerdict.ASLEEP, "it has no VM")
    if vm.power is Power.UNKNOWN and not vm.name:
        # Proxmox has not heard of it for minutes and shows no name: whose it is cannot be judged.
        return _unknown(use, now, "whether its VM runs is unknown")
    found = objection(node, vm, Act.SLEEP)
    if found is not None and found.why is Why.FOREIGN:
        whose = "was made for another node" if vm.is_ours else "does not carry our tag"
        return IdleDecision(node, IdleVerdict.UNTOUCHED, f'VM {vm.vmid} is "{vm.name}" and {whose}')
    if found is not None and found.why is Why.ELSEWHERE:
        return IdleDecision(node, IdleVerdict.UNTOUCHED, found.reason)
    if vm.power is Power.STOPPED:
        locked = objection(node, vm, Act.WAKE)
        # What waits for its hours waits for the end of its backup too; one put to disk could be started.
        return _off(use, now) if locked is None else IdleDecision(node, IdleVerdict.ASLEEP, locked.reason)
    if vm.power is Power.UNKNOWN:
        return _unknown(use, now, "whether its VM runs is unknown")
    if found is not None:
        return IdleDecision(node, IdleVerdict.STAY, found.reason)
    return replace(_running(use, vm, now), occasion=use.occasion)


def busy_reasons(activity: EngineActivity | None, signals: Iterable[Signal]) -> tuple[str, ...]:
    """Return what a node is in use for, as far as anybody says."""
    requests: tuple[str, ...] = ()
    if activity is not None and activity.is_busy:
        requests = (f"{activity.running} requests running, {activity.waiting} waiting",)
    return (*requests, *(each.reason for each in signals if each.evidence is Evidence.BUSY))


def unknown_reasons(activity: EngineActivity | None, why_unknown: str, signals: Iterable[Signal]) -> tuple[str, ...]:
    """Return who does not say whether a node is in use, and why."""
    silent = (f"its engine does not say whether it is busy ({why_unknown})",) if activity is None else ()
    unsaid = (
        f"its {each.source} does not say whether it is busy ({each.reason})"
        for each in signals
        if each.evidence is Evidence.UNKNOWN
    )
    return (*silent, *unsaid)


def _off(use: NodeUse, now: float) -> IdleDecision:
    hours, served, before = use.occasion, use.hours_served, use.node.awake.pre_wake_seconds
    if hours is None or before is None:
        return IdleDecision(use.node, IdleVerdict.ASLEEP, "its VM is off")
    if served is not None and served.begins == hours.begins:
        if served.failed_at is None:
            # Who put it to sleep since then knew what the hours are.
            reason = f"its VM is off; it was on for {hours.text} and somebody put it to sleep"
            return IdleDecision(use.node, IdleVerdict.ASLEEP, reason)
        if now < served.failed_at + _TRY_AGAIN_SECONDS:
            left = duration_text(served.failed_at + _TRY_AGAIN_SECONDS - now)
            reason = f"its VM is off; waking it for {hours.text} failed, the next try is in {left}"
            return IdleDecision(use.node, IdleVerdict.ASLEEP, reason)
    when = "are now" if hours.has_begun(now) else f"begin in {duration_text(hours.begins - now)}"
    return IdleDecision(use.node, IdleVerdict.WAKE, f"its hours {hours.text} {when}", occasion=hours)


def _running(use: NodeUse, vm: VmSeen, now: float) -> IdleDecision:
    node, seen = use.node, use.activity
    busy = busy_reasons(seen, use.signals)
    if busy:
        return IdleDecision(node, IdleVerdict.STAY, "; ".join(busy), _in_use(use, vm, now))
    unknown = unknown_reasons(seen, use.why_unknown, use.signals)
    if unknown or seen is None:
        return _unknown(use, now, "; ".join(unknown))
    if seen.doubt:
        return IdleDecision(node, IdleVerdict.STAY, f"{seen.doubt}, {_UNKNOWN_IS_BUSY}", _in_use(use, vm, now))
    record = _carried_on(use, vm, seen, now)
    quiet = max(0.0, min(now - record.quiet_since, vm.uptime_seconds - record.quiet_uptime))
    if use.claims:
        return IdleDecision(node, IdleVerdict.STAY, "; ".join(use.claims), record)
    if use.occasion is not None:
        kept = f"it is to be awake {use.occasion.text}"
        return IdleDecision(node, IdleVerdict.STAY, kept, record)
    least = least_uptime(node.min_uptime_seconds, use.wakes)
    if vm.uptime_seconds < least.seconds:
        up = f"up for only {duration_text(vm.uptime_seconds)} of at least {duration_text(least.seconds)}"
        return IdleDecision(node, IdleVerdict.STAY, up + least.because, record)
    return _next_rung(use, quiet, record)


def _next_rung(use: NodeUse, quiet: float, record: ActivityRecord) -> IdleDecision:
    """Decide how far down a node goes that has been quiet for so long (seconds)."""
    node, ladder = use.node, use.ladder
    allowed = node.idle_after_seconds
    if ladder.lost_by_stop and quiet >= allowed:
        lost = f"{', '.join(ladder.lost_by_stop)} would not come back from a stop of its VM"
        if ladder.rests:
            return IdleDecision(node, IdleVerdict.STAY, f"its model is out of memory, and {lost}", record)
        if ladder.can_rest:
            return IdleDecision(node, IdleVerdict.REST, f"quiet for {duration_text(quiet)}; {lost}", record)
        return IdleDecision(node, IdleVerdict.STAY, f"{lost}, and its engine cannot let go of its model", record)
    if quiet >= allowed:
        reason = f"quiet for {duration_text(quiet)}, allowed are {duration_text(allowed)}"
        return IdleDecision(node, IdleVerdict.SLEEP, reason, record)
    reason = f"quiet for {duration_text(quiet)} of {duration_text(allowed)}"
    if node.rest_after_seconds is not None and ladder.can_rest and not ladder.rests:
        if quiet >= node.rest_after_seconds:
            after = duration_text(node.rest_after_seconds)
            return IdleDecision(node, IdleVerdict.REST, f"{reason}; its model rests after {after}", record)
    elif ladder.rests:
        reason += "; its model is out of memory"
    return IdleDecision(node, IdleVerdict.STAY, reason, record)


def _unknown(use: NodeUse, now: float, reason: str) -> IdleDecision:
    """Judge a node of which nobody says whether it is in use: it stays, and after too long it is reported."""
    node, last = use.node, use.last
    since = now if last is None or last.unknown_since is None else min(last.unknown_since, now)
    record = replace(_in_use(use, use.vm, now), unknown_since=since)
    dark = now - since
    if dark < max(_UNKNOWN_TOO_LONG_SECONDS, node.patience.boot_seconds + node.patience.engine_seconds):
        return IdleDecision(node, IdleVerdict.STAY, f"{reason}, {_UNKNOWN_IS_BUSY}", record)
    told = (
        f"{reason}, for {duration_text(dark)} now; it stays on until somebody looks: "
        f"provisioner status {node.name}; provisioner test {node.name}"
    )
    return IdleDecision(node, IdleVerdict.UNKNOWN, told, record)


def _fresh(use: NodeUse, vm: VmSeen | None, now: float) -> ActivityRecord:
    """Begin a quiet time now."""
    seen, last = use.activity, use.last
    work = seen.work_total if seen is not None else last.work_total if last is not None else 0.0
    uptime = vm.uptime_seconds if vm is not None else 0.0
    return ActivityRecord(work, now, uptime, now, _marks(use.signals, last))


def _in_use(use: NodeUse, vm: VmSeen | None, now: float) -> ActivityRecord:
    return replace(_fresh(use, vm, now), is_quiet=False)


def _carried_on(use: NodeUse, vm: VmSeen, seen: EngineActivity, now: float) -> ActivityRecord:
    """Carry on a quiet time that nothing has broken, else begin one now."""
    last = use.last
    if (
        last is None
        or not last.is_quiet
        or last.work_total != seen.work_total
        or _has_moved(use.signals, last.mark)
        # Its VM was started anew, and nobody saw what happened before that.
        or vm.uptime_seconds < last.quiet_uptime
    ):
        return _fresh(use, vm, now)
    since = last.quiet_since
    if now < max(last.seen_at, since):
        # Our clock was set back; the VM's knows how long it really was.
        since = now - (vm.uptime_seconds - last.quiet_uptime)
    return replace(last, quiet_since=since, seen_at=now, mark=_marks(use.signals, last), unknown_since=None)


def _has_moved(signals: Iterable[Signal], before: str) -> bool:
    """Say whether a mark is another one than the last; one that has come or gone tells nothing."""
    old = _by_source(before)
    return any(each.mark and each.mark != old.get(each.source, each.mark) for each in signals)


def _marks(signals: Iterable[Signal], last: ActivityRecord | None) -> str:
    marks = _by_source(last.mark) if last is not None else {}
    marks |= {each.source: each.mark for each in signals if each.mark}
    return ";".join(f"{source}={mark}" for source, mark in sorted(marks.items()))


def _by_source(marks: str) -> dict[str, str]:
    return dict(each.split("=", 1) for each in marks.split(";") if "=" in each)
