"""What the gateway stands on in the one process: the control loop's memory, and the desk where wakes are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError

from provisioner.domain.fleet import FleetSpec, SecretReference
from provisioner.domain.names import EngineName, NodeName
from provisioner.domain.serving import NodeNow
from provisioner.gateway.wakes import WakeDesk
from provisioner.ports.web import NO_HEADERS, Headers
from provisioner.services.engine_web import EngineKey
from provisioner.services.idling import WakeGivenUp
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


def from_threads(desk: WakeDesk) -> Callable[[NodeName], None]:
    """Return the desk as threads ask for wakes: what is given returns when the node's model has answered.

    For standing wishes such as awake hours, which are not asked for again within seconds: a wake that failed a moment
    ago does not put them off. To be called on the desk's event loop.

    It raises ProvisionerError when the node did not come, and WakeGivenUp when the service ends meanwhile.
    """
    loop = asyncio.get_running_loop()

    def wake(node: NodeName) -> None:
        asked = desk.wake(node, at_once=True)
        try:
            coming = asyncio.run_coroutine_threadsafe(asked, loop)
        except RuntimeError:
            asked.close()
            raise WakeGivenUp from None
        try:
            coming.result()
        except CancelledError:
            raise WakeGivenUp from None

    return wake


class KeysOfFleet:
    """The port `EngineKeys`: read once, when the service starts, where an engine of the node asks for one.

    A node may serve one mode with an engine that has a key and another with one that knows none; what is shown to the
    latter would only be given away.
    """

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        """Read them. Raises InputError."""
        self._keys: dict[tuple[NodeName, EngineName], EngineKey] = {}
        for name, node in fleet.nodes.items():
            secrets: dict[SecretReference, str] = {}
            for engine in dict.fromkeys(mode.engine for mode in fleet.modes_of(node)):
                key = EngineKey(node, world.engines[engine], secrets.__getitem__)
                if not key.is_needed or node.api_key is None:
                    continue
                if not secrets:
                    secrets[node.api_key] = world.secret(node.api_key, subject=f"api_key of {node.subject}")
                key.require()
                self._keys[name, engine] = key

    def headers(self, node: NodeName, engine: EngineName, path: str) -> Headers:
        """Return what a request for a path must carry."""
        key = self._keys.get((node, engine))
        return key.headers(path) if key is not None else NO_HEADERS
