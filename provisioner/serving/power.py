"""What the gateway stands on in the one process: the control loop's memory, and the desk where wakes are asked for."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import NodeName
from provisioner.domain.serving import NodeNow
from provisioner.gateway.wakes import WakeDesk
from provisioner.services.keeper import Keeper
from provisioner.services.world import World


class ServicePower:
    """The port `gateway.power.Power`."""

    def __init__(self, keeper: Keeper, desk: WakeDesk) -> None:
        self._keeper = keeper
        self._desk = desk

    def seen(self) -> Mapping[NodeName, NodeNow]:
        """Return every node as last seen."""
        return self._keeper.seen()

    async def wake(self, node: NodeName) -> None:
        """Return when the node's model has answered."""
        await self._desk.wake(node)

    def retry_seconds(self, node: NodeName) -> float | None:
        """Return how long a failed wake is not tried again."""
        return self._desk.retry_seconds(node)

    def doubt(self, node: NodeName) -> None:
        """Have a node looked at out of turn."""
        self._keeper.doubt(node)


class KeysOfFleet:
    """The port `EngineKeys`: read once, when the service starts."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        """Read them. Raises InputError."""
        self._keys = {
            name: world.secret(node.api_key, subject=f"api_key of {node.subject}")
            for name, node in fleet.nodes.items()
            if node.api_key is not None
        }

    def key(self, node: NodeName) -> str:
        """Return what a node's engine asks for; empty where it asks for nothing."""
        return self._keys.get(node, "")
