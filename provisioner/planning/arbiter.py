"""Who gets a GPU slot, who waits and why, and who gives way. Pure: the book's page and all that was seen come in.

The rule. A slot has one VM at a time. Whoever asks first is next, unless another's priority is higher; who has waited
for half of his time goes before all who have not, so nobody starves. A VM gives way once it has had the slot for its
minimum residence and nobody uses it; one that is in use gives way to a higher priority, or to one who has waited for
half of his time, but only after it was drained. Held by a person, not ours to shut down, or of unknown use: it stays.

Proxmox's word wins: what runs has its slots, whatever the page says. What was seen counts only for slots whose lease
has not changed since before the look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from provisioner.domain.lease import (
    GpuSlot,
    Lease,
    LeasePage,
    LeasePhase,
    Waiter,
    adopted,
    freed,
    freeing,
    granted,
    held,
    kept,
    left,
)
from provisioner.domain.names import NodeName, Vmid
from provisioner.domain.quantities import duration_text
from provisioner.domain.snapshot import Power


class Use(Enum):
    """Whether somebody uses a VM. Unknown is never taken for quiet."""

    QUIET = "quiet"
    BUSY = "busy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HolderSeen:
    """A VM that has a slot, or may have one, as it is now.

    `slots` are those that it has while it runs. `stays` says why its power is
    not ours to take away, with `stays_next` for what to do; empty for none.
    A VM that is gone is seen as stopped.
    """

    vmid: Vmid
    name: str
    power: Power
    slots: tuple[GpuSlot, ...] = ()
    node: NodeName | None = None
    uptime_seconds: float = 0.0
    use: Use = Use.UNKNOWN
    use_words: str = "nobody has asked it"
    priority: int = 0
    min_residence_seconds: float = 0.0
    stays: str = ""
    stays_next: str = ""
    is_being_started: bool = False
    """Proxmox works on a start of it this moment."""


Fenced = frozenset[tuple[GpuSlot, int]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What was seen: the page as it stood before the look, the VMs, and the processes that have died.

    `settled` are starts of dead processes that can no longer arrive. `own` are
    the slots that the one who asks is freeing himself.
    """

    before: LeasePage
    seen: Mapping[Vmid, HolderSeen]
    dead: frozenset[str] = frozenset()
    settled: Fenced = frozenset()
    own: Fenced = frozenset()


class Verdict(Enum):
    """What becomes of a request for slots."""

    GRANT = "granted"
    RUNS = "runs already"
    JOIN = "being started"
    WAIT = "wait"
    DRAIN = "drain"
    """Somebody takes no new work for it, and is still in use."""
    YIELD = "give way"
    """Somebody is to be shut down for it now."""
    REFUSE = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict, with its reason in words that are shown as they are.

    `leases` are what was granted; `yielding` those that are being freed.
    """

    verdict: Verdict
    reason: str
    next_step: str = ""
    leases: tuple[Lease, ...] = ()
    yielding: tuple[Lease, ...] = field(default=())


def reconciled(page: LeasePage, scene: Scene, now: float) -> LeasePage:
    """Return the page as Proxmox's word and the deaths of processes make it.

    Args:
        page: as it stands in this turn.
        scene: what was seen before it.
        now: UNIX seconds.
    """
    for lease in page.leases.values():
        holder = scene.seen.get(lease.vmid)
        if holder is not None and _unchanged(page, scene.before, lease.slot):
            page = _settled(page, lease, holder, scene)
    for holder in scene.seen.values():
        if holder.power is not Power.RUNNING:
            continue
        taken = tuple(slot for slot in holder.slots if _is_its(page, scene, holder, slot))
        page = adopted(page, taken, holder.vmid, holder.name, now=now)
    alive = tuple(waiter for waiter in page.waiters if waiter.owner not in scene.dead)
    return replace(page, waiters=alive)


def decided(page: LeasePage, waiter: Waiter, scene: Scene, now: float) -> tuple[LeasePage, Answer]:
    """Answer one who asks for slots; the page comes back with all that the answer means.

    Args:
        page: as it stands in this turn; the waiter is on it.
        waiter: who asks.
        scene: what was seen before this turn.
        now: UNIX seconds.
    """
    page = reconciled(page, scene, now)
    answer = _answer(page, waiter, scene, now)
    match answer.verdict:
        case Verdict.GRANT:
            page, leases = granted(page, waiter.slots, waiter.vmid, waiter.name, owner=waiter.owner, now=now)
            return left(page, waiter.number), replace(answer, leases=leases)
        case Verdict.DRAIN | Verdict.YIELD:
            fresh = [lease for lease in answer.yielding if (lease.slot, lease.fence) not in scene.own]
            page = freeing(page, fresh, owner=waiter.owner, wanted_by=waiter.name)
            return page, replace(answer, yielding=tuple(page.leases[lease.slot] for lease in answer.yielding))
        case Verdict.WAIT:
            # What was being freed for it stays after all, for the time being.
            return _given_back(page, scene), answer
        case Verdict.RUNS | Verdict.JOIN | Verdict.REFUSE:
            return left(_given_back(page, scene), waiter.number), answer


def given_up(page: LeasePage, waiter: Waiter, own: Fenced) -> LeasePage:
    """Return the page without one who waits no longer; what was being freed for it stays."""
    return left(_given_back(page, Scene(page, {}, own=own)), waiter.number)


def next_in_line(waiters: Sequence[Waiter], now: float) -> tuple[Waiter, ...]:
    """Return those who wait, the next one first."""
    return tuple(sorted(waiters, key=lambda waiter: _rank(waiter, now)))


def _answer(page: LeasePage, waiter: Waiter, scene: Scene, now: float) -> Answer:
    me = scene.seen.get(waiter.vmid)
    own = [lease for lease in page.leases_of(waiter.slots) if lease.vmid == waiter.vmid]
    if any(lease.phase is LeasePhase.FREEING for lease in own):
        for_whom = f" for {own[0].wanted_by}" if own[0].wanted_by else ""
        return Answer(Verdict.WAIT, f"it is being shut down{for_whom}, and starts again after that")
    if me is not None and me.power is Power.RUNNING:
        return Answer(Verdict.RUNS, "its VM runs already", leases=tuple(own))
    taking = [lease for lease in own if lease.phase is LeasePhase.TAKING]
    if any(lease.owner and lease.owner not in scene.dead for lease in taking):
        return Answer(Verdict.JOIN, "somebody else is starting it already", leases=tuple(own))
    if taking and me is not None and me.is_being_started:
        return Answer(Verdict.JOIN, "Proxmox is starting it already", leases=tuple(own))
    if taking:
        return Answer(Verdict.WAIT, "whoever was starting it is gone; that start may still arrive at Proxmox")
    if me is None and any(lease.phase is LeasePhase.HELD for lease in own):
        return Answer(Verdict.WAIT, "somebody else has just started it")
    before = _before(page, waiter, now)
    if before is not None:
        return Answer(Verdict.WAIT, before)
    blocking = [lease for lease in page.leases_of(waiter.slots) if lease.vmid != waiter.vmid]
    if not blocking:
        slots = ", ".join(str(slot) for slot in waiter.slots)
        return Answer(Verdict.GRANT, f"{slots} {'is' if len(waiter.slots) == 1 else 'are'} free")
    answers = [_blocked(page, lease, waiter, scene, now) for lease in blocking]
    worst = (Verdict.REFUSE, Verdict.WAIT, Verdict.DRAIN, Verdict.YIELD)
    first = min(answers, key=lambda answer: worst.index(answer.verdict))
    if first.verdict in (Verdict.DRAIN, Verdict.YIELD):
        # A VM that goes off gives up all it has, not only what is asked for.
        giving = {lease.vmid for lease in blocking}
        hypervisor = waiter.slots[0].hypervisor
        return replace(first, yielding=tuple(each for vmid in giving for each in page.held_by(hypervisor, vmid)))
    return first


def _before(page: LeasePage, waiter: Waiter, now: float) -> str | None:
    """Say who else is to get one of the slots first."""
    line = next_in_line(page.waiters, now)
    ahead = [
        other
        for other in line
        if other.vmid != waiter.vmid
        and _rank(other, now) < _rank(waiter, now)
        and not set(other.slots).isdisjoint(waiter.slots)
    ]
    if not ahead:
        return None
    other = ahead[0]
    shared = next(slot for slot in waiter.slots if slot in other.slots)
    because = "it came first"
    if _is_overdue(other, now):
        because = "it has waited for long"
    elif other.priority > waiter.priority:
        because = f"its priority is {other.priority} and not {waiter.priority}"
    return f"{other.name} is to get {shared} before it: {because}"


def _blocked(page: LeasePage, lease: Lease, waiter: Waiter, scene: Scene, now: float) -> Answer:
    """Say what becomes of one slot that another VM has."""
    is_own = (lease.slot, lease.fence) in scene.own
    if lease.phase is LeasePhase.TAKING:
        if lease.owner and lease.owner not in scene.dead:
            return Answer(Verdict.WAIT, f"{lease.name} is being started with {lease.slot}")
        return Answer(
            Verdict.WAIT,
            f"whoever was starting {lease.name} with {lease.slot} is gone; its start may still arrive at Proxmox",
        )
    if lease.phase is LeasePhase.FREEING and not is_own:
        return Answer(Verdict.WAIT, f"{lease.name} is being shut down, then {lease.slot} is free")
    holder = scene.seen.get(lease.vmid)
    if holder is None or holder.power is Power.UNKNOWN:
        return Answer(Verdict.WAIT, f"{lease.name} has {lease.slot}, and whether it still runs is not known")
    return _giving_way(page, lease, holder, waiter, now)


def _giving_way(page: LeasePage, lease: Lease, holder: HolderSeen, waiter: Waiter, now: float) -> Answer:
    if holder.node is None or holder.stays:
        why = holder.stays or "it is no node of this fleet, so it is not ours to shut down"
        next_step = holder.stays_next or f"shut it down in Proxmox (VM {holder.vmid}), then run the same command again"
        return Answer(Verdict.REFUSE, f"{holder.name} (vm {holder.vmid}) has {lease.slot}, and stays: {why}", next_step)
    holds = page.holds_on(holder.node, now)
    if holds:
        hold = holds[0]
        why = f" ({hold.why})" if hold.why else ""
        if hold.until < waiter.until:
            return Answer(Verdict.WAIT, f"{hold.by} holds {holder.name}{why}")
        reason = f"{hold.by} holds {holder.name} for another {duration_text(hold.until - now)}{why}"
        return Answer(Verdict.REFUSE, reason, f"ask {hold.by}, or: provisioner release {holder.name} --by {hold.by}")
    least = holder.min_residence_seconds
    if holder.uptime_seconds < least:
        # Words that stay the same while one waits: they are shown when they change.
        return Answer(Verdict.WAIT, f"{holder.name} keeps {lease.slot} for at least {duration_text(least)}")
    if holder.use is Use.UNKNOWN:
        return Answer(
            Verdict.WAIT, f"whether {holder.name} is in use is not known ({holder.use_words}); unknown counts as busy"
        )
    overdue = _is_overdue(waiter, now)
    if holder.use is Use.BUSY:
        if overdue or waiter.priority > holder.priority:
            because = "has waited for long" if overdue else f"has priority {waiter.priority} over {holder.priority}"
            return Answer(
                Verdict.DRAIN,
                f"{holder.name} is drained ({holder.use_words}), because {waiter.name} {because}",
                yielding=(lease,),
            )
        return Answer(Verdict.WAIT, f"{holder.name} has {lease.slot} and is in use: {holder.use_words}")
    if holder.priority > waiter.priority and not overdue:
        half = duration_text((waiter.until - waiter.since) / 2)
        return Answer(
            Verdict.WAIT,
            f"{holder.name} has {lease.slot} with priority {holder.priority} over {waiter.priority}; "
            f"it gives way, if quiet, to one who has waited for {half}",
        )
    return Answer(Verdict.YIELD, f"{holder.name} is quiet and gives way to {waiter.name}", yielding=(lease,))


def _is_overdue(waiter: Waiter, now: float) -> bool:
    return now - waiter.since >= (waiter.until - waiter.since) / 2


def _rank(waiter: Waiter, now: float) -> tuple[bool, int, int]:
    overdue = _is_overdue(waiter, now)
    return (not overdue, 0 if overdue else -waiter.priority, waiter.number)


def _unchanged(page: LeasePage, before: LeasePage, slot: GpuSlot) -> bool:
    """Say whether what was seen of a slot is as new as its lease."""
    same_lease = page.leases.get(slot) == before.leases.get(slot)
    return same_lease and page.fences.get(slot) == before.fences.get(slot)


def _settled(page: LeasePage, lease: Lease, holder: HolderSeen, scene: Scene) -> LeasePage:
    """Bring one lease up to what its VM does."""
    orphaned = not lease.owner or lease.owner in scene.dead
    is_over = not lease.issued or (lease.slot, lease.fence) in scene.settled
    if holder.power is Power.RUNNING:
        if lease.phase is LeasePhase.TAKING:
            # Another's hand may have started it, with our own start still on its way: given on before that can no
            # longer arrive, the slot could see it come after another VM's.
            return held(page, [lease]) if orphaned and is_over else page
        return kept(page, [lease]) if orphaned and lease.phase is LeasePhase.FREEING else page
    if holder.power is Power.STOPPED:
        if lease.phase is LeasePhase.TAKING:
            return freed(page, [lease]) if orphaned and is_over and not holder.is_being_started else page
        is_own = (lease.slot, lease.fence) in scene.own
        return freed(page, [lease]) if orphaned or is_own or lease.phase is LeasePhase.HELD else page
    return page


def _is_its(page: LeasePage, scene: Scene, holder: HolderSeen, slot: GpuSlot) -> bool:
    """Say whether a VM that runs is to be written down as the one that has a slot."""
    if not _unchanged(page, scene.before, slot):
        # Freed in this very turn, because its VM is off, is as good as free all along.
        lease = scene.before.leases.get(slot)
        if slot in page.leases or lease is None or page.fences.get(slot) != scene.before.fences.get(slot):
            return False
    lease = page.leases.get(slot)
    if lease is None:
        return True
    if lease.vmid == holder.vmid:
        return False
    other = scene.seen.get(lease.vmid)
    # A start that may be on its way keeps its slot: Proxmox will refuse it, and that is told to whoever sent it.
    is_safe = lease.phase is LeasePhase.TAKING and not lease.issued
    return is_safe and other is not None and other.power is Power.STOPPED


def _given_back(page: LeasePage, scene: Scene) -> LeasePage:
    """Return the page with what the waiter was freeing back in use, where that still is the state of things."""
    mine = [
        lease
        for lease in page.leases.values()
        if lease.phase is LeasePhase.FREEING and (lease.slot, lease.fence) in scene.own
    ]
    return kept(page, mine)
