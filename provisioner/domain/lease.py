"""Who has a GPU, who waits for one, and whom a person keeps awake: one page, and the laws by which it is turned.

A slot's fencing number only grows. Whoever was given a slot may act on it while the number is still the one that he
was given; once another has taken the slot over, acting late is refused. Pure: the page is a value, and every law
returns a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from provisioner.domain.names import GpuName, HypervisorName, NodeName, Vmid
from provisioner.errors import OvertakenError, RefusedError


@dataclass(frozen=True, slots=True, order=True)
class GpuSlot:
    """A passthrough device on a hypervisor that one running VM may hold."""

    hypervisor: HypervisorName
    gpu: GpuName

    def __str__(self) -> str:
        return f"{self.gpu} on {self.hypervisor}"


class LeasePhase(Enum):
    """Where a slot is between free and held."""

    TAKING = "taking"
    """It was granted; its VM is about to be started, or being started."""
    HELD = "held"
    """Its VM runs with it."""
    FREEING = "freeing"
    """Its VM takes no new work, and is being drained or shut down."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot in use. Without one, a slot is free.

    `owner` is the process at work on it; empty while the VM runs and nobody does anything.
    """

    slot: GpuSlot
    fence: int
    vmid: Vmid
    name: str
    """The node's, or what Proxmox calls a VM that is no node."""
    phase: LeasePhase
    since: float
    """UNIX seconds of the grant, or of the moment when it was found in use."""
    owner: str = ""
    issued: bool = False
    """Its start is sent, or about to be, perhaps once more, and not all that was sent is known to be with Proxmox."""
    adopted: bool = False
    """It was found running: nobody asked us for the slot."""
    wanted_by: str = ""
    """Whom it is freed for."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "hypervisor": self.slot.hypervisor,
            "gpu": self.slot.gpu,
            "fence": self.fence,
            "vmid": self.vmid,
            "holder": self.name,
            "phase": self.phase.value,
            "since": self.since,
            "adopted": self.adopted,
            "wanted_by": self.wanted_by or None,
        }


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody who wants all the slots of a VM. `number` tells who came first, and never comes twice."""

    number: int
    name: str
    vmid: Vmid
    slots: tuple[GpuSlot, ...]
    priority: int
    since: float
    until: float
    """UNIX seconds; granted or told no by then."""
    owner: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A person's claim that a node stays as it is until a time (UNIX seconds)."""

    node: NodeName
    by: str
    since: float
    until: float
    why: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {"node": self.node, "by": self.by, "since": self.since, "until": self.until, "why": self.why}


@dataclass(frozen=True, slots=True)
class LeasePage:
    """All that the arbiter remembers. `fences` are the last numbers given out, of free slots too."""

    leases: Mapping[GpuSlot, Lease] = field(default_factory=dict)
    fences: Mapping[GpuSlot, int] = field(default_factory=dict)
    waiters: tuple[Waiter, ...] = ()
    """In the order in which they came."""
    holds: tuple[Hold, ...] = ()
    last_number: int = 0

    def leases_of(self, slots: Iterable[GpuSlot]) -> tuple[Lease, ...]:
        """Return the leases of those slots that are not free."""
        return tuple(self.leases[slot] for slot in slots if slot in self.leases)

    def held_by(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[Lease, ...]:
        """Return the leases of one VM."""
        return tuple(
            lease for lease in self.leases.values() if (lease.slot.hypervisor, lease.vmid) == (hypervisor, vmid)
        )

    def holds_on(self, node: NodeName, now: float) -> tuple[Hold, ...]:
        """Return the holds on a node that still count, the longest first.

        One that begins later than `now` counts: the clock was set back, and a person's word outlives that.
        """
        counting = (hold for hold in self.holds if hold.node == node and now < hold.until)
        return tuple(sorted(counting, key=lambda hold: -hold.until))


def granted(
    page: LeasePage, slots: Iterable[GpuSlot], vmid: Vmid, name: str, *, owner: str, now: float
) -> tuple[LeasePage, tuple[Lease, ...]]:
    """Give slots, all of them or none, to a VM that is about to be started.

    A VM that has one already gets it anew: whoever was at work on it is too late from now on.

    Raises:
        RefusedError: another VM has one of them.
    """
    leases, fences = dict(page.leases), dict(page.fences)
    given = []
    for slot in slots:
        other = leases.get(slot)
        if other is not None and other.vmid != vmid:
            raise RefusedError(
                f"cannot give out {slot}: {other.name} (vm {other.vmid}) has it",
                subject=name,
                next_step=f"free it: provisioner sleep {other.name}",
                retryable=True,
            )
        fences[slot] = fences.get(slot, 0) + 1
        leases[slot] = Lease(slot, fences[slot], vmid, name, LeasePhase.TAKING, now, owner)
        given.append(leases[slot])
    return replace(page, leases=leases, fences=fences), tuple(given)


def adopted(page: LeasePage, slots: Iterable[GpuSlot], vmid: Vmid, name: str, *, now: float) -> LeasePage:
    """Write down that a VM runs with slots that we gave to nobody, or to another: whoever had them is too late."""
    leases, fences = dict(page.leases), dict(page.fences)
    for slot in slots:
        if slot in leases and leases[slot].vmid == vmid:
            leases[slot] = replace(leases[slot], phase=LeasePhase.HELD, owner="", wanted_by="")
            continue
        fences[slot] = fences.get(slot, 0) + 1
        leases[slot] = Lease(slot, fences[slot], vmid, name, LeasePhase.HELD, now, adopted=True)
    return replace(page, leases=leases, fences=fences)


def issuing(page: LeasePage, leases: Iterable[Lease]) -> LeasePage:
    """Note right before a start is sent that it is. Raises OvertakenError."""
    return _changed(page, leases, lambda lease: replace(lease, issued=True))


def arrived(page: LeasePage, leases: Iterable[Lease]) -> LeasePage:
    """Note that Proxmox has taken the start: what becomes of it shows there. Raises OvertakenError."""
    return _changed(page, leases, lambda lease: replace(lease, issued=False))


def held(page: LeasePage, leases: Iterable[Lease]) -> LeasePage:
    """Note that the VM runs, or that its power stays on after all. Raises OvertakenError."""
    return _changed(
        page, leases, lambda lease: replace(lease, phase=LeasePhase.HELD, owner="", wanted_by="", issued=False)
    )


def freeing(page: LeasePage, leases: Iterable[Lease], *, owner: str, wanted_by: str = "") -> LeasePage:
    """Note that the VM is to give its slots up; the fencing number grows. Raises OvertakenError."""
    fences = dict(page.fences)
    leases = tuple(leases)
    for lease in leases:
        fences[lease.slot] = fences.get(lease.slot, 0) + 1

    def freed(lease: Lease) -> Lease:
        return replace(
            lease, phase=LeasePhase.FREEING, owner=owner, wanted_by=wanted_by, fence=fences[lease.slot], issued=False
        )

    return replace(_changed(page, leases, freed), fences=fences)


def kept(page: LeasePage, leases: Iterable[Lease]) -> LeasePage:
    """Note that a VM keeps its slots whatever was planned with it: whoever was shutting it down is too late."""
    fences, changed = dict(page.fences), dict(page.leases)
    for lease in leases:
        fences[lease.slot] = fences.get(lease.slot, 0) + 1
        changed[lease.slot] = replace(
            lease, phase=LeasePhase.HELD, owner="", wanted_by="", fence=fences[lease.slot], issued=False
        )
    return replace(page, leases=changed, fences=fences)


def abandoned(page: LeasePage, leases: Iterable[Lease]) -> LeasePage:
    """Note that nobody is at work on slots any more, and that how it ended is not known. Raises OvertakenError."""
    return _changed(page, leases, lambda lease: replace(lease, owner=""))


def freed(page: LeasePage, leases: Iterable[Lease]) -> LeasePage:
    """Note that slots are free. Raises OvertakenError."""
    leases = tuple(leases)
    require_current(page, leases)
    gone = {lease.slot for lease in leases}
    return replace(page, leases={slot: lease for slot, lease in page.leases.items() if slot not in gone})


def require_current(page: LeasePage, leases: Iterable[Lease]) -> None:
    """Let an act pass only if nobody has taken the slots over since they were given. Raises OvertakenError."""
    for lease in leases:
        now = page.leases.get(lease.slot)
        if now is not None and now.fence == lease.fence:
            continue
        what = f"{now.name} (vm {now.vmid}) has it, with number {now.fence}" if now is not None else "it is free again"
        raise OvertakenError(
            f"cannot go on: {lease.slot} was given to {lease.name} with number {lease.fence}, and by now {what}",
            subject=lease.name,
            next_step="run the same command again",
            retryable=True,
        )


def joined(page: LeasePage, waiter: Waiter) -> tuple[LeasePage, Waiter]:
    """Put somebody at the end of those who wait; the number is given here."""
    numbered = replace(waiter, number=page.last_number + 1)
    return replace(page, waiters=(*page.waiters, numbered), last_number=numbered.number), numbered


def rejoined(page: LeasePage, waiter: Waiter) -> LeasePage:
    """Have somebody who waits stand in his place, by his number, under the name that he has now."""
    others = [each for each in page.waiters if each.number != waiter.number]
    return replace(page, waiters=tuple(sorted((*others, waiter), key=lambda each: each.number)))


def left(page: LeasePage, number: int) -> LeasePage:
    """Take somebody off those who wait."""
    return replace(page, waiters=tuple(waiter for waiter in page.waiters if waiter.number != number))


def holding(page: LeasePage, hold: Hold) -> LeasePage:
    """Keep a hold; one by the same person on the same node is replaced."""
    others = tuple(each for each in page.holds if (each.node, each.by) != (hold.node, hold.by))
    return replace(page, holds=(*others, hold))


def released(page: LeasePage, node: NodeName, by: str | None, *, now: float) -> LeasePage:
    """Drop one person's hold on a node, or everybody's, and every hold whose time is over."""
    kept = tuple(each for each in page.holds if now < each.until and not (each.node == node and by in (None, each.by)))
    return replace(page, holds=kept)


def _changed(page: LeasePage, leases: Iterable[Lease], change: Callable[[Lease], Lease]) -> LeasePage:
    leases = tuple(leases)
    require_current(page, leases)
    return replace(page, leases=dict(page.leases) | {lease.slot: change(page.leases[lease.slot]) for lease in leases})
