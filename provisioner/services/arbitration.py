"""The one way to take or free a GPU slot: what is decided in planning is written in the lease book, then carried out.

Every command and the service itself are clients of the same book, so it does not matter who asks. Whoever dies leaves
his number behind; the next one looks at Proxmox, and goes on from what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.lease import (
    GpuSlot,
    Hold,
    Lease,
    LeasePage,
    LeasePhase,
    abandoned,
    adopted,
    arrived,
    freed,
    freeing,
    held,
    holding,
    issuing,
    kept,
    released,
    require_current,
)
from provisioner.domain.names import HypervisorName, NodeName, Vmid
from provisioner.domain.quantities import duration_text
from provisioner.domain.snapshot import Power
from provisioner.errors import (
    GpuTakenError,
    HypervisorError,
    InputError,
    OutcomeUnknownError,
    OvertakenError,
    ProvisionerError,
    RefusedError,
    TaskOverdueError,
    UnreachableError,
)
from provisioner.planning.lease_words import held_words, slots_of
from provisioner.planning.ownership import Act
from provisioner.ports.hypervisors import Hypervisors, Ticket
from provisioner.ports.lease_book import LeaseBook, LeaseTurn
from provisioner.services.world import World

# The longest that a person may keep a node; who needs it longer says so again.
LONGEST_HOLD_SECONDS = 30 * 86400.0

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Claim:
    """A VM that is to run with GPU slots. `subject` is the VM, in the words of every message."""

    hypervisor: HypervisorName
    vmid: Vmid
    name: str
    subject: str
    slots: tuple[GpuSlot, ...]
    priority: int = 0
    wait_seconds: float = 0.0


def claim_of(fleet: FleetSpec, node: NodeSpec) -> Claim:
    """Return what a node that wakes asks for."""
    return Claim(
        node.hypervisor,
        node.vmid,
        node.name,
        node.subject,
        slots_of(node),
        fleet.priority_of(node),
        node.gpu_wait_seconds,
    )


@contextmanager
def last_turn(book: LeaseBook) -> Iterator[LeaseTurn]:
    """Take a turn that says how an act ended.

    If that cannot be written, the disk is full for instance, nobody may believe that this process is still at work:
    it does not end for that, and would be waited for as long as it lives.
    """
    try:
        with book.turn() as turn:
            yield turn
    except InputError:
        book.renounce()
        raise


class Arbitration:
    """Leases and holds, and the acts that they fence."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def start(self, api: Hypervisors, claim: Claim, leases: tuple[Lease, ...]) -> Ticket:
        """Start a VM whose slots were granted; Proxmox has accepted it when this returns.

        Raises:
            OvertakenError: another has one of the slots by now; nothing was started.
            HypervisorError: Proxmox refused.
        """
        if not leases:
            return api.start_vm(claim.hypervisor, claim.vmid)
        with last_turn(self._world.leases) as turn:
            turn.page = issuing(turn.page, leases)
        ending = _Ending(self._world, api, claim, leases)
        try:
            ticket = LeasedTicket(api.start_vm(claim.hypervisor, claim.vmid), ending)
            ticket.take_note()
            return ticket
        except HypervisorError as error:
            ending.failed(error)
            raise
        except BaseException:
            ending.left()
            raise

    @contextmanager
    def shutting_down(
        self, api: Hypervisors, claim: Claim, yielding: tuple[Lease, ...] = (), *, despite_holds: bool = False
    ) -> Iterator[Callable[[], None]]:
        """Free a running VM's slots by the block, which shuts it down; if it does not, they stay.

        What is given to the block is to be called right before the power goes: it raises OvertakenError, or without
        slots RefusedError, when the node is to stay on after all, because somebody holds it.

        Args:
            api: its cluster.
            claim: the VM, with the slots that it has while it runs.
            yielding: its leases, where the arbiter has decided already that it gives way.
            despite_holds: whoever holds it is not asked.

        Raises:
            OvertakenError: the decision has been overtaken.
            RefusedError: somebody holds it.
        """
        book = self._world.leases
        if not claim.slots and not yielding:
            yield lambda: None if despite_holds else self._require_no_hold(book.read(), claim)
            return
        with book.turn() as turn:
            leases = yielding
            if yielding:
                require_current(turn.page, yielding)
            else:
                if not despite_holds:
                    # Asked for again, because now is when it counts: a hold from here on overtakes us.
                    self._require_no_hold(turn.page, claim)
                turn.page, leases = self._freeing(turn.page, claim)

        def require() -> None:
            page = book.read()
            require_current(page, leases)
            if not leases and not despite_holds:
                # There is nothing that a hold could overtake.
                self._require_no_hold(page, claim)

        ending = _Ending(self._world, api, claim, leases)
        try:
            yield require
        except OvertakenError:
            raise
        except BaseException:
            ending.stays_unless_off()
            raise
        with suppress(OvertakenError), last_turn(book) as turn:
            turn.page = freed(turn.page, leases)

    def _require_no_hold(self, page: LeasePage, claim: Claim) -> None:
        now = self._world.clock.now()
        holds = page.holds_on(NodeName(claim.name), now)
        if holds:
            raise RefusedError(
                f"cannot shut it down: {held_words(holds, now)}",
                subject=claim.subject,
                next_step=f"provisioner release {claim.name} --by {holds[0].by}, if that is agreed",
                retryable=True,
            )

    def _freeing(self, page: LeasePage, claim: Claim) -> tuple[LeasePage, tuple[Lease, ...]]:
        """Note that a VM that runs gives its slots up; it runs, so it has them, whether we knew that or not."""
        mine = page.held_by(claim.hypervisor, claim.vmid)
        if any(lease.phase is LeasePhase.TAKING and (lease.issued or self._is_alive(lease)) for lease in mine):
            # A start that was sent, or is about to be, keeps its slots until it is known how it ended.
            return page, ()
        owner = self._world.leases.owner
        unknown = [slot for slot in claim.slots if slot not in page.leases]
        page = adopted(page, unknown, claim.vmid, claim.name, now=self._world.clock.now())
        page = freeing(page, page.held_by(claim.hypervisor, claim.vmid), owner=owner)
        return page, page.held_by(claim.hypervisor, claim.vmid)

    def hold(self, node: NodeSpec, *, by: str, seconds: float, why: str = "") -> Hold:
        """Keep a node as it is until a time; a second hold by the same person replaces the first.

        Raises:
            InputError: the time is none, or longer than `LONGEST_HOLD_SECONDS`.
        """
        if not 0 < seconds <= LONGEST_HOLD_SECONDS:
            raise InputError(
                f"cannot hold the node for {duration_text(max(seconds, 0.0))}",
                subject=node.subject,
                next_step=f"say more than nothing and at most {duration_text(LONGEST_HOLD_SECONDS)}, such as 2h",
            )
        now = self._world.clock.now()
        hold = Hold(node.name, by, now, now + seconds, why)
        with self._world.leases.turn() as turn:
            going = [
                lease for lease in turn.page.held_by(node.hypervisor, node.vmid) if lease.phase is LeasePhase.FREEING
            ]
            # Whoever has not cut its power yet is too late to do so.
            turn.page = kept(holding(released(turn.page, node.name, by, now=now), hold), going)
        return hold

    def release(self, node: NodeSpec, *, by: str) -> tuple[Hold, ...]:
        """End a person's hold; return those of others that still count.

        Raises:
            RefusedError: that person holds nothing.
        """
        now = self._world.clock.now()
        with self._world.leases.turn() as turn:
            holds = turn.page.holds_on(node.name, now)
            if not any(hold.by == by for hold in holds):
                others = f"but {', '.join(hold.by for hold in holds)}" if holds else "nor does anybody"
                raise RefusedError(
                    f"cannot release the node: {by} does not hold it, {others}",
                    subject=node.subject,
                    next_step=f"provisioner release {node.name} --by {holds[0].by}"
                    if holds
                    else f"nothing to do; provisioner hold {node.name} --for 2h keeps it",
                )
            turn.page = released(turn.page, node.name, by, now=now)
        return tuple(hold for hold in holds if hold.by != by)

    def holds_on(self, node: NodeSpec) -> tuple[Hold, ...]:
        """Return who keeps a node as it is, the longest first."""
        return self._world.leases.read().holds_on(node.name, self._world.clock.now())

    def require_no_hold(self, node: NodeSpec, act: Act, *, way_out: str) -> None:
        """Let an act pass only if nobody holds the node. Raises RefusedError."""
        holds = self.holds_on(node)
        if not holds:
            return
        raise RefusedError(
            f"cannot {act.value}: {held_words(holds, self._world.clock.now())}",
            subject=node.subject,
            next_step=f"provisioner release {node.name} --by {holds[0].by}, if that is agreed{way_out}",
            retryable=True,
        )

    def _starting(self, page: LeasePage, claim: Claim) -> list[Lease]:
        """Return the leases of a VM that a living process is starting."""
        return [
            lease
            for lease in page.held_by(claim.hypervisor, claim.vmid)
            if lease.phase is LeasePhase.TAKING and self._is_alive(lease)
        ]

    def _is_alive(self, lease: Lease) -> bool:
        return self._world.leases.is_alive(lease.owner)

    def require_not_starting(self, node: NodeSpec, act: Act) -> None:
        """Let an act pass only if nobody else is starting the node. Raises RefusedError."""
        starting = self._starting(self._world.leases.read(), claim_of(self._fleet, node))
        if starting:
            raise RefusedError(
                f"cannot {act.value}: it is being started (process {starting[0].owner.partition('-')[0]})",
                subject=node.subject,
                next_step="let it finish, then run the same command again",
                retryable=True,
            )


class _Ending:
    """How an act on a VM's slots ends in the book. Whoever was overtaken writes nothing."""

    def __init__(self, world: World, api: Hypervisors, claim: Claim, leases: tuple[Lease, ...]) -> None:
        self._world = world
        self._api = api
        self._claim = claim
        self._leases = leases

    def arrived(self) -> None:
        """Proxmox has all that was sent of the start."""
        self._write(arrived)

    def issued_again(self) -> None:
        """The start is about to be sent once more. Raises OvertakenError."""
        with last_turn(self._world.leases) as turn:
            turn.page = issuing(turn.page, self._leases)

    def runs(self) -> None:
        """The VM runs. Raises OvertakenError."""
        with last_turn(self._world.leases) as turn:
            turn.page = held(turn.page, self._leases)

    def failed(self, error: HypervisorError, *, may_still_arrive: bool = False) -> None:
        """Proxmox says that it was not started, or nobody can tell."""
        if may_still_arrive or isinstance(error, (UnreachableError, OutcomeUnknownError, TaskOverdueError)):
            self._write(abandoned)
        else:
            self._write({Power.RUNNING: held, Power.STOPPED: freed, Power.UNKNOWN: abandoned}[self._power()])
        if isinstance(error, GpuTakenError) and error.holder is not None:
            self._adopt(Vmid(error.holder))

    def left(self) -> None:
        """Nobody watches the start any more; only Proxmox knows how it ends."""
        self._write(abandoned)

    def stays_unless_off(self) -> None:
        """The VM was not shut down, or not for certain."""
        self._write(freed if self._power() is Power.STOPPED else kept)

    def _adopt(self, vmid: Vmid) -> None:
        """Write down who has the GPU, as Proxmox names him. With several slots it does not say which."""
        if len(self._claim.slots) != 1:
            return
        with suppress(ProvisionerError):
            vm = self._api.vm(self._claim.hypervisor, vmid)
            if vm is None or vm.power is not Power.RUNNING:
                return
            with self._world.leases.turn() as turn:
                free = [slot for slot in self._claim.slots if slot not in turn.page.leases]
                turn.page = adopted(turn.page, free, vmid, vm.name, now=self._world.clock.now())

    def _power(self) -> Power:
        try:
            vm = self._api.vm(self._claim.hypervisor, self._claim.vmid)
        except HypervisorError:
            return Power.UNKNOWN
        return vm.power if vm is not None else Power.STOPPED

    def _write(self, law: Callable[[LeasePage, tuple[Lease, ...]], LeasePage]) -> None:
        with suppress(OvertakenError), last_turn(self._world.leases) as turn:
            require_current(turn.page, self._leases)
            turn.page = law(turn.page, self._leases)


class LeasedTicket:
    """A start whose end is written in the book, however its caller hears of it."""

    def __init__(self, ticket: Ticket, ending: _Ending) -> None:
        self._ticket = ticket
        self._ending = ending
        self._is_over = False
        # As the book has it: that was written before the first request.
        self._may_still_arrive = True

    @property
    def warnings(self) -> tuple[str, ...]:
        """What Proxmox warned of."""
        return self._ticket.warnings

    @property
    def may_still_arrive(self) -> bool:
        """Proxmox may get a request for it from now on."""
        return self._ticket.may_still_arrive

    def take_note(self) -> None:
        """Have the book say whether the start may still arrive. Raises OvertakenError: it must not be sent again."""
        self._note(self._ticket.may_still_arrive)

    def is_done(self) -> bool:
        """Ask once. Raises HypervisorError when the start has failed, OvertakenError before it is sent in vain."""
        done = self._concluded(self._ticket.is_done)
        if done:
            self.runs()
        elif not self._is_over:
            self.take_note()
        return done

    def wait(self) -> None:
        """Return when the VM runs. Raises HypervisorError when it failed, OvertakenError before it is sent in vain."""
        if not self._is_over:
            # It may be sent again in there, where nobody can be asked before.
            self._note(True)
        self._concluded(self._ticket.wait)
        self.runs()

    def overdue(self, seconds: float) -> HypervisorError:
        """Return the error of a caller who gives up; the start goes on without him."""
        self.leave()
        return self._ticket.overdue(seconds)

    def runs(self) -> None:
        """Hear that the VM runs from somebody else than Proxmox's task: its engine has answered."""
        if self._is_over:
            return
        self._is_over = True
        if self._ticket.may_still_arrive:
            # Off again and its slot given on, it could be started once more by a request from before.
            self._ending.left()
        else:
            self._ending.runs()

    def leave(self) -> None:
        """Watch it no longer."""
        if not self._is_over:
            self._is_over = True
            self._ending.left()

    def _concluded(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            return ask()
        except HypervisorError as error:
            if not self._is_over:
                self._is_over = True
                self._ending.failed(error, may_still_arrive=self._ticket.may_still_arrive)
            raise

    def _note(self, may_still_arrive: bool) -> None:
        if may_still_arrive == self._may_still_arrive:
            return
        self._may_still_arrive = may_still_arrive
        if may_still_arrive:
            self._ending.issued_again()
        else:
            self._ending.arrived()
