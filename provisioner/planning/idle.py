"""Who may sleep, and for the others, why not. Pure: everything seen, and `now`, come in as values.

Unknown counts as busy: a node is put to sleep on evidence, never for lack of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from provisioner.domain.activity import ActivityRecord, EngineActivity
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.quantities import duration_text
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.planning.ownership import Act, Why, objection


class IdleVerdict(Enum):
    """What becomes of a node in an idle pass."""

    SLEEP = "sleep"
    STAY = "stay"
    ASLEEP = "asleep"
    FAILED = "failed"
    UNTOUCHED = "untouched"


@dataclass(frozen=True, slots=True)
class NodeUse:
    """What is known of one node's use. `activity` is None when its engine did not tell, `why_unknown` says why."""

    node: NodeSpec
    vm: VmSeen | None
    activity: EngineActivity | None
    why_unknown: str
    last: ActivityRecord | None


@dataclass(frozen=True, slots=True)
class IdleDecision:
    """The verdict on one node with its reason, and what to remember of it."""

    node: NodeSpec
    verdict: IdleVerdict
    reason: str
    record: ActivityRecord | None = None

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
        return _stay(use, "whether its VM runs is unknown, and unknown counts as busy")
    found = objection(node, vm, Act.SLEEP)
    if found is not None and found.why is Why.FOREIGN:
        whose = "was made for another node" if vm.is_ours else "does not carry our tag"
        return IdleDecision(node, IdleVerdict.UNTOUCHED, f'VM {vm.vmid} is "{vm.name}" and {whose}')
    if found is not None and found.why is Why.ELSEWHERE:
        return IdleDecision(node, IdleVerdict.UNTOUCHED, found.reason)
    if vm.power is Power.STOPPED:
        return IdleDecision(node, IdleVerdict.ASLEEP, "its VM is off")
    if vm.power is Power.UNKNOWN:
        return _stay(use, "whether its VM runs is unknown, and unknown counts as busy")
    if found is not None:
        return _stay(use, found.reason)
    if use.activity is None:
        return _stay(use, f"its engine does not say whether it is busy ({use.why_unknown}), and unknown counts as busy")
    record = _record(use.activity, use.last, now)
    if use.activity.is_busy:
        running, waiting = use.activity.running, use.activity.waiting
        busy = ActivityRecord(use.activity.work_total, now)
        return IdleDecision(node, IdleVerdict.STAY, f"{running} requests running, {waiting} waiting", busy)
    if use.activity.doubt:
        in_doubt = ActivityRecord(use.activity.work_total, now)
        return IdleDecision(node, IdleVerdict.STAY, f"{use.activity.doubt}, and unknown counts as busy", in_doubt)
    if vm.uptime_seconds < node.min_uptime_seconds:
        up, least = duration_text(vm.uptime_seconds), duration_text(node.min_uptime_seconds)
        return IdleDecision(node, IdleVerdict.STAY, f"up for only {up} of at least {least}", record)
    quiet = now - record.quiet_since
    wanted = duration_text(node.idle_after_seconds)
    if quiet < node.idle_after_seconds:
        return IdleDecision(node, IdleVerdict.STAY, f"quiet for {duration_text(quiet)} of {wanted}", record)
    return IdleDecision(node, IdleVerdict.SLEEP, f"quiet for {duration_text(quiet)}, allowed are {wanted}", record)


def _stay(use: NodeUse, reason: str) -> IdleDecision:
    return IdleDecision(use.node, IdleVerdict.STAY, reason)


def _record(seen: EngineActivity, last: ActivityRecord | None, now: float) -> ActivityRecord:
    """Carry on a quiet time that nothing has broken, else begin one now.

    A clock set back would make the quiet time negative, and one set forward
    would make it too long; the first is mended here, the second costs one
    early sleep of a node that is quiet anyway.
    """
    if last is None or last.work_total != seen.work_total or last.quiet_since > now:
        return ActivityRecord(seen.work_total, now)
    return last
