"""Waits for a node's GPU slots, has others give way where the arbiter says so, and starts the VM."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.lease import GpuSlot, Lease, LeasePage, LeasePhase, Waiter, joined, rejoined
from provisioner.domain.names import NodeName, Vmid
from provisioner.domain.quantities import duration_text
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import NotReadyError, OvertakenError, RefusedError
from provisioner.planning.arbiter import Answer, Fenced, HolderSeen, Scene, Use, Verdict, decided, given_up
from provisioner.planning.lease_words import slots_of
from provisioner.planning.ownership import Act, Why, objection
from provisioner.ports.hypervisors import Hypervisors, Ticket
from provisioner.services.arbitration import Arbitration, Claim, claim_of, last_turn
from provisioner.services.events import OnEvent, ignore
from provisioner.services.noted_modes import noted
from provisioner.services.sleeping import Sleeping
from provisioner.services.world import World

# Seconds from one look at who is in the way to the next.
_PAUSES = (0.1, 0.2, 0.5, 1.0)
_LATER_PAUSES = 2.0
# A request that a dead process has sent is with Proxmox by then: its proxy waits no longer for its daemon.
IN_FLIGHT_SECONDS = 30.0

Say = Callable[[str], None]
Look = Callable[[], None]


def always() -> None:
    """Be worth waiting for as long as it takes."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a request for slots. `leases` is empty where none are needed, or somebody else starts the VM."""

    verdict: Verdict
    reason: str
    leases: tuple[Lease, ...] = ()


class _Gates:
    """The gates of those who are drained for somebody: they take no new requests through this process."""

    def __init__(self, world: World) -> None:
        self._in_flight = world.in_flight
        self.closed: frozenset[NodeName] = frozenset()

    def close_only(self, nodes: Iterable[NodeName]) -> None:
        """Have the gates of just these nodes closed."""
        wanted = frozenset(nodes)
        for node in wanted - self.closed:
            self._in_flight.close(node)
        for node in self.closed - wanted:
            self._in_flight.open(node)
        self.closed = wanted


class SlotTaking:
    """Takes slots for VMs. One object may serve several threads."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._arbitration = Arbitration(fleet, world)
        self._sleeping = Sleeping(fleet, world)
        # Starts of dead processes, and when each was first noticed by a clock that never jumps.
        self._orphans: dict[tuple[GpuSlot, int], float] = {}

    def start_node(
        self, node: NodeSpec, say: Say, on_event: OnEvent = ignore, still_worth_it: Look = always
    ) -> Ticket | None:
        """Start a node's VM once its slots are its own; None if it runs, or somebody else is starting it.

        Args:
            node: which.
            say: told what it waits for.
            on_event: told about the steps of others, who give way.
            still_worth_it: called in every round before anything is taken; raises when nobody wants it any more.

        Raises:
            RefusedError: it does not get them; the reason says who has them.
            NotReadyError: nor did it within its `gpu_wait`.
            HypervisorError: Proxmox refused.
        """
        return self.start(claim_of(self._fleet, node), say, on_event, still_worth_it)

    def start(self, claim: Claim, say: Say, on_event: OnEvent = ignore, still_worth_it: Look = always) -> Ticket | None:
        """Do what `start_node` does for any VM."""
        api = self._api(claim)
        taken = self.take(claim, say, on_event, still_worth_it)
        if taken.verdict is not Verdict.GRANT:
            say(taken.reason)
            return None
        return self._arbitration.start(api, claim, taken.leases)

    def take(self, claim: Claim, say: Say, on_event: OnEvent = ignore, still_worth_it: Look = always) -> Taken:
        """Wait until a VM may be started with its slots; raises as `start_node`."""
        if not claim.slots:
            still_worth_it()
            return Taken(Verdict.GRANT, "it needs no GPU")
        book, clock = self._world.leases, self._world.clock
        now, deadline = clock.now(), clock.monotonic() + claim.wait_seconds
        waiter = Waiter(
            0, claim.name, claim.vmid, claim.slots, claim.priority, now, now + claim.wait_seconds, book.owner
        )
        own: Fenced = frozenset()
        said, unwilling = "", ""
        pauses = iter(_PAUSES)
        gates = _Gates(self._world)
        try:
            while True:
                scene = self._look(claim, own)
                # Here, and no later: what is granted is started, or the slot would wait for somebody who has left.
                still_worth_it()
                # Another thread may have renounced the name that we came with, and then we are on the page no more.
                waiter = replace(waiter, owner=book.owner)
                with book.turn() as turn:
                    page = turn.page
                    if waiter.number == 0:
                        page, waiter = joined(page, waiter)
                    else:
                        page = rejoined(page, waiter)
                    turn.page, answer = decided(page, waiter, scene, clock.now())
                own = frozenset((lease.slot, lease.fence) for lease in answer.yielding)
                if answer.verdict in (Verdict.GRANT, Verdict.RUNS, Verdict.JOIN):
                    return Taken(answer.verdict, answer.reason, answer.leases)
                if answer.verdict is Verdict.REFUSE:
                    raise RefusedError(
                        f"cannot start it: {answer.reason}", subject=claim.subject, next_step=answer.next_step
                    )
                reason = answer.reason
                if answer.verdict is Verdict.YIELD:
                    say(reason)
                    unwilling = self._make_way(claim, answer, say, on_event, gates.closed)
                    if not unwilling:
                        continue
                    reason = unwilling
                # What else than requests keeps a node on may last: then it goes on serving until it is drained again.
                drained = answer.yielding if answer.verdict is Verdict.DRAIN else ()
                gates.close_only(node.name for each in drained if (node := self._node(claim, each.vmid)) is not None)
                if reason != said:
                    say(reason)
                    said = reason
                left = deadline - clock.monotonic()
                if left <= 0:
                    raise self._too_late(claim, reason)
                clock.sleep(min(next(pauses, _LATER_PAUSES), left))
        finally:
            gates.close_only(())
            if waiter.number:
                with last_turn(book) as turn:
                    turn.page = given_up(turn.page, waiter, own)

    @staticmethod
    def _too_late(claim: Claim, reason: str) -> NotReadyError:
        return NotReadyError(
            f"cannot start it: it did not get its GPU within {duration_text(claim.wait_seconds)}: {reason}",
            subject=claim.subject,
            next_step="the same command waits again; gpu_wait in the fleet file says how long",
            retryable=True,
        )

    def _make_way(
        self, claim: Claim, answer: Answer, say: Say, on_event: OnEvent, drained: Collection[NodeName]
    ) -> str:
        """Put those to sleep who give way, some of them drained by now; return why one did not, or nothing."""
        for vmid in dict.fromkeys(lease.vmid for lease in answer.yielding):
            node = self._node(claim, vmid)
            if node is None:
                continue
            leases = tuple(lease for lease in answer.yielding if lease.vmid == vmid)
            try:
                self._sleeping.give_way(node, leases, on_event, is_drained=node.name in drained)
            except OvertakenError:
                return f"{node.name} stays after all"
            except RefusedError as busy:
                # A request came in, somebody holds it, or another process works on it.
                return f"{node.name} does not give way yet: {busy.summary.removeprefix('cannot ')}"
            say(f"{node.name} is off, for {claim.name}")
        return ""

    def _look(self, claim: Claim, own: Fenced) -> Scene:
        """Look at the VM itself and at all that may be in its way."""
        book, api = self._world.leases, self._api(claim)
        before = book.read()
        in_the_way = {lease.vmid for lease in before.leases_of(claim.slots)}
        rivals = {node.vmid for node in self._sharing(claim)}
        # In this order: what was seen must not be older than the death of whoever might have changed it.
        owners = {waiter.owner for waiter in before.waiters} | {lease.owner for lease in before.leases.values()}
        dead = frozenset(owner for owner in sorted(owners) if owner and not book.is_alive(owner))
        settled = self._settled(before, claim, dead)
        # Who asks has looked at the VM itself; again only where somebody may have started it since.
        seen = {vmid: self._holder(claim, api, vmid, before) for vmid in sorted(rivals | in_the_way)}
        return Scene(before, seen, dead, settled, own)

    def _settled(self, before: LeasePage, claim: Claim, dead: frozenset[str]) -> Fenced:
        now = self._world.clock.monotonic()
        orphans = {
            (lease.slot, lease.fence)
            for lease in before.leases_of(claim.slots)
            if lease.phase is LeasePhase.TAKING and (not lease.owner or lease.owner in dead)
        }
        for orphan in orphans:
            self._orphans.setdefault(orphan, now)
        return frozenset(orphan for orphan in orphans if now - self._orphans[orphan] >= IN_FLIGHT_SECONDS)

    def _holder(self, claim: Claim, api: Hypervisors, vmid: Vmid, before: LeasePage) -> HolderSeen:
        leases = before.held_by(claim.hypervisor, vmid)
        # Before the VM itself: a start that ends between the two looks would be seen by neither.
        taking = any(lease.phase is LeasePhase.TAKING for lease in leases)
        starting = taking and "qmstart" in api.active_tasks(claim.hypervisor, vmid)
        vm = api.vm(claim.hypervisor, vmid)
        node = self._node(claim, vmid)
        name = node.name if node is not None else vm.name if vm is not None else f"VM {vmid}"
        if vm is None or vm.power is Power.STOPPED:
            return HolderSeen(vmid, name, Power.STOPPED, is_being_started=starting)
        if vmid == claim.vmid:
            return HolderSeen(vmid, claim.name, vm.power, claim.slots, uptime_seconds=vm.uptime_seconds)
        found = objection(node, vm, Act.SLEEP) if node is not None else None
        if node is not None and found is not None and found.why is Why.LOCKED:
            return HolderSeen(
                vmid, name, vm.power, slots_of(node), node.name, vm.uptime_seconds,
                stays=found.reason, stays_next=found.next_step,
            )  # fmt: skip
        if node is None or found is not None:
            # Whether it has a GPU is known only if the book, or Proxmox's refusal, says so.
            return HolderSeen(vmid, vm.name, vm.power, uptime_seconds=vm.uptime_seconds)
        return self._rival(api, node, vm)

    def _rival(self, api: Hypervisors, node: NodeSpec, vm: VmSeen) -> HolderSeen:
        """Describe a node that runs with a slot that is wanted."""
        node, _ = noted(self._fleet, api, node)
        use, words = self._sleeping.use_of(node) if vm.power is Power.RUNNING else (Use.UNKNOWN, "")
        fragile = [gpu.name for gpu in self._fleet.gpus_of(node) if not gpu.survives_stop]
        stays = f"{', '.join(fragile)} does not survive a stop of its VM (survives_stop: false)" if fragile else ""
        return HolderSeen(
            node.vmid,
            node.name,
            vm.power,
            slots_of(node),
            node.name,
            vm.uptime_seconds,
            use,
            words,
            self._fleet.priority_of(node),
            node.min_residence_seconds,
            stays,
            f"only a reboot of {node.hypervisor} frees it for another" if fragile else "",
        )

    def _sharing(self, claim: Claim) -> Iterable[NodeSpec]:
        wanted = set(claim.slots)
        return (
            node
            for node in self._fleet.nodes.values()
            if node.hypervisor == claim.hypervisor and node.vmid != claim.vmid and not wanted.isdisjoint(slots_of(node))
        )

    def _node(self, claim: Claim, vmid: Vmid) -> NodeSpec | None:
        return next(
            (node for node in self._fleet.nodes.values() if node.vmid == vmid and node.hypervisor == claim.hypervisor),
            None,
        )

    def _api(self, claim: Claim) -> Hypervisors:
        return self._world.clusters[self._fleet.hypervisors[claim.hypervisor].cluster]
