"""What a service finds half done when it begins: nodes that its predecessor, or anybody, is shutting down.

Such a node still answers, and whoever is sent there is cut off in the midst of it. So its gate stays closed until it is
off: who asks meanwhile is held, and wakes it again.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName, Vmid
from provisioner.domain.serving import Phase
from provisioner.domain.snapshot import Power
from provisioner.errors import ProvisionerError
from provisioner.services.keeper import Keeper
from provisioner.services.world import World

# Seconds between two looks at a VM on its way down.
_PAUSE, _GROWTH, _LONGEST_PAUSE = 0.1, 1.5, 2.0
_WHY = "it is being shut down since before this service began"
_OFF = frozenset({Phase.ASLEEP, Phase.ABSENT})


class Resuming:
    """For the beginning of a service, after the first look and before the first request."""

    def __init__(self, fleet: FleetSpec, world: World, keeper: Keeper) -> None:
        self._fleet = fleet
        self._world = world
        self._keeper = keeper

    def begin(self) -> tuple[NodeName, ...]:
        """Close the gates of nodes on their way down, and have each opened when that is over; return which they are.

        One call per hypervisor with nodes that run; one that cannot be asked now is let be.
        """
        seen = self._keeper.seen()
        running = [node for node in self._fleet.nodes.values() if seen[node.name].phase not in _OFF]
        down: set[tuple[str, Vmid]] = set()
        for hypervisor in dict.fromkeys(node.hypervisor for node in running):
            api = self._world.clusters[self._fleet.hypervisors[hypervisor].cluster]
            with suppress(ProvisionerError):
                down |= {(hypervisor, vmid) for vmid in api.going_down(hypervisor)}
        leaving = [node for node in running if (node.hypervisor, node.vmid) in down]
        for node in leaving:
            gate = ExitStack()
            gate.callback(self._keeper.doubt, node.name)
            self._world.in_flight.close(node.name)
            gate.callback(self._world.in_flight.open, node.name)
            gate.enter_context(self._keeper.at_work(node.name, Phase.DRAINING, _WHY))
            threading.Thread(target=self._see_off, args=(node, gate), name=f"see off {node.name}", daemon=True).start()
        return tuple(node.name for node in leaving)

    def _see_off(self, node: NodeSpec, gate: ExitStack) -> None:
        api, clock = self._world.clusters[self._fleet.cluster_of(node).name], self._world.clock
        pause = _PAUSE
        with gate:
            while True:
                with suppress(ProvisionerError):
                    # In this order: a task that has ended has done what it could.
                    is_leaving = node.vmid in api.going_down(node.hypervisor)
                    vm = api.vm(node.hypervisor, node.vmid)
                    if vm is None or vm.power is Power.STOPPED:
                        self._keeper.found(node.name, Phase.ASLEEP, "its VM is off")
                        return
                    if not is_leaving:
                        # Its guest did not obey.
                        return
                clock.sleep(pause)
                pause = min(pause * _GROWTH, _LONGEST_PAUSE)
