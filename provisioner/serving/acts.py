"""The acts behind the API: the library's own calls, with what runs through this process taken into account."""

from __future__ import annotations

from collections.abc import Callable

from provisioner.domain.in_flight import InFlight
from provisioner.domain.lease import Hold
from provisioner.domain.names import NodeName
from provisioner.domain.orchestrator import Registration
from provisioner.domain.savings import Savings
from provisioner.errors import UnknownNameError
from provisioner.fleet import Fleet
from provisioner.planning.idle import IdleDecision
from provisioner.planning.model_table import ModelTable
from provisioner.planning.routing import Ask, Candidate
from provisioner.services.arbitration import Arbitration
from provisioner.services.events import OnEvent
from provisioner.services.idling import Idling
from provisioner.services.keeper import Keeper
from provisioner.services.mode_switching import ModeReport
from provisioner.services.sleeping import SleepReport
from provisioner.services.use_looks import UseLooks


class FleetActs:
    """The protocol `api.control.Acts`."""

    def __init__(
        self,
        fleet: Fleet,
        keeper: Keeper,
        in_flight: InFlight,
        table: ModelTable,
        trouble: Callable[[NodeName], str],
        wake: Callable[[NodeName], object],
    ) -> None:
        """Wire it.

        Args:
            fleet: the library's calls.
            keeper: what was last seen.
            in_flight: what is under way.
            table: who serves what.
            trouble: says why a node is avoided though it passes for ready.
            wake: wakes a node for its hours, in a thread. Raises ProvisionerError, WakeGivenUp.
        """
        self._fleet = fleet
        self._table = table
        self._trouble = trouble
        self._keeper = keeper
        self._in_flight = in_flight
        self._arbitration = Arbitration(fleet.spec, fleet.world)
        # Kept: its connections to guests stay open from pass to pass.
        self._idling = Idling(fleet.spec, fleet.world, wake_beside=wake)

    @property
    def looks(self) -> UseLooks:
        """The looks at guests of the idle passes, with their connections."""
        return self._idling.looks

    def close(self) -> None:
        """End the connections to guests."""
        self._idling.close()

    def sleep(self, node: NodeName, on_event: OnEvent, *, force: bool) -> SleepReport:
        """Shut a node down cleanly, unless it is busy."""
        return self._fleet.sleep(node, force=force, on_event=on_event)

    def mode(self, node: NodeName, mode: str, on_event: OnEvent, *, force: bool) -> ModeReport:
        """Switch what a node's GPUs are for."""
        return self._fleet.mode(node, mode, force=force, on_event=on_event)

    def idle(self, on_event: OnEvent, *, dry_run: bool) -> tuple[IdleDecision, ...]:
        """Make one idle pass."""
        return self._idling.idle(list(self._fleet.spec.nodes.values()), on_event, dry_run=dry_run)

    def hold(self, node: NodeName, *, by: str, seconds: float, why: str) -> Hold:
        """Keep a node as it is until a time."""
        return self._arbitration.hold(self._fleet.spec.node(node), by=by, seconds=seconds, why=why)

    def release(self, node: NodeName, *, by: str) -> tuple[Hold, ...]:
        """Drop a person's hold; return those of others."""
        return self._arbitration.release(self._fleet.spec.node(node), by=by)

    def holds(self) -> dict[NodeName, tuple[Hold, ...]]:
        """Return who keeps which nodes as they are."""
        page, now = self._fleet.world.leases.read(), self._fleet.world.clock.now()
        return {node: holds for node in {hold.node for hold in page.holds} if (holds := page.holds_on(node, now))}

    def registrations(self) -> tuple[Registration, ...]:
        """Return what became of telling the orchestrators."""
        return self._fleet.registrations()

    def health_url(self, node: NodeName) -> str:
        """Return where a node's engine says whether it is well, in the mode that it is in."""
        mode = self._keeper.seen()[node].mode
        offers = [offer for offer in self._table.offers if offer.node == node]
        now = next((offer for offer in offers if offer.mode == mode), offers[0])
        return f"http://{now.host}:{now.port}{now.health_path}"

    def savings(self, *, days: int | None) -> Savings:
        """Return what sleeping saved."""
        return self._fleet.savings(days=days)

    def candidates(self, model: str) -> tuple[list[Candidate], Ask]:
        """Return who may serve a model, each once, in the mode that it is in if that has the model."""
        entry = self._table.find(model)
        if entry is None:
            # Says which models there are.
            self._fleet.spec.nodes_serving(model)
            raise UnknownNameError(
                f'cannot find a node that serves model "{model}"',
                subject=f"fleet file {self._fleet.spec.path}",
                next_step=f"use one of: {', '.join(self._table.names)}",
            )
        seen = self._keeper.seen()
        found: dict[NodeName, Candidate] = {}
        for offer in entry.offers:
            known, now = found.get(offer.node), seen[offer.node]
            if known is None or (not known.is_in_mode and now.mode == offer.mode):
                found[offer.node] = Candidate(
                    now,
                    offer.mode,
                    offer.model,
                    offer.has_gpu,
                    offer.room,
                    offer.stands_in,
                    self._in_flight.of(offer.node),
                    self._trouble(offer.node),
                )
        return list(found.values()), Ask(entry.name, entry.policy.away, entry.policy.prefers_gpu)
