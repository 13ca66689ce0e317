"""One look at all nodes: one call per cluster, one short knock at each engine that could answer.

Which mode a node is in stands in its VM's notes, and reading those is a call per node: it is remembered, and read again
when the VM's power has changed, when somebody says so, and now and then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import ClusterName, NodeName
from provisioner.domain.serving import Phase
from provisioner.domain.snapshot import ClusterSnapshot, Power, VmSeen
from provisioner.errors import ProvisionerError
from provisioner.planning.ownership import Act, Why, objection
from provisioner.services.engine_web import engine_web
from provisioner.services.noted_modes import noted
from provisioner.services.proving import EngineProbe
from provisioner.services.world import World

_MOST_KNOCKS_AT_ONCE = 32
# Modes are changed through this very process, or by a command elsewhere now and then.
_NOTES_HOLD_SECONDS = 600.0
_FOREIGN = (Why.FOREIGN, Why.ELSEWHERE, Why.MISSING)


@dataclass(frozen=True, slots=True)
class Looked:
    """One node as it was found. `node` is in the mode that its VM's notes say."""

    node: NodeSpec
    phase: Phase
    reason: str
    url: str | None = None
    uptime_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Noted:
    node: NodeSpec
    power: Power
    at: float


class Sight:
    """Looks. Safe to use from several threads."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._noted: dict[NodeName, _Noted] = {}
        self._off: set[NodeName] = set()
        """Nodes whose VM did not run when Proxmox last told."""
        self._lock = threading.Lock()

    def look(self, nodes: Iterable[NodeSpec]) -> dict[NodeName, Looked]:
        """Return how each node was found.

        Those of a cluster that does not answer are unknown, but for engines that answer all the same: requests need
        those, and not Proxmox.
        """
        nodes = tuple(nodes)
        names = {self._fleet.cluster_of(node).name for node in nodes}
        if not nodes:
            return {}
        with ThreadPoolExecutor(_MOST_KNOCKS_AT_ONCE) as pool:
            clusters = dict(zip(names, pool.map(self._snapshot, names), strict=True))
            found: dict[NodeName, Looked] = {}
            knock: list[tuple[NodeSpec, VmSeen | str]] = []
            for node in nodes:
                judged = self._judged(node, clusters[self._fleet.cluster_of(node).name])
                if isinstance(judged, Looked):
                    found[node.name] = judged
                else:
                    knock.append((node, judged))
            found |= {each.node.name: each for each in pool.map(lambda pair: self._knock(*pair), knock)}
        return {node.name: found[node.name] for node in nodes}

    def forget_mode(self, node: NodeName) -> None:
        """Read a node's notes anew at the next look."""
        with self._lock:
            self._noted.pop(node, None)

    def _snapshot(self, name: ClusterName) -> ClusterSnapshot | str:
        try:
            return self._world.clusters[name].snapshot()
        except ProvisionerError as error:
            return error.summary

    def _judged(self, node: NodeSpec, cluster: ClusterSnapshot | str) -> Looked | VmSeen | str:
        """Return what the cluster's word alone tells, or the VM when its notes or its engine must be asked too.

        Where the cluster has no word, that is why, and the engine alone is asked.
        """
        if isinstance(cluster, str):
            return Looked(node, Phase.UNKNOWN, cluster) if node.name in self._off else cluster
        vm = cluster.vms.get(node.vmid)
        if vm is None or vm.power is Power.STOPPED:
            self._off.add(node.name)
        elif vm.power is not Power.UNKNOWN:
            self._off.discard(node.name)
        if vm is None:
            reason = "there is no such VM to adopt" if node.adopt else f"no VM yet: provisioner up {node.name}"
            return Looked(node, Phase.ABSENT, reason)
        if vm.power is Power.UNKNOWN:
            reason = f"{vm.hypervisor} has not reported for a while"
            return Looked(node, Phase.UNKNOWN, reason) if node.name in self._off else reason
        found = objection(node, vm, Act.SLEEP)
        # A backup's lock does not keep an engine from answering.
        if found is not None and found.why in _FOREIGN:
            return Looked(node, Phase.ABSENT, found.reason)
        if vm.power is Power.STOPPED and len(node.modes) < 2:
            return Looked(node, Phase.ASLEEP, "its VM is off")
        return vm

    def _knock(self, node: NodeSpec, vm: VmSeen | str) -> Looked:
        try:
            return self._blindly(node, vm) if isinstance(vm, str) else self._knocked(node, vm)
        except ProvisionerError as error:
            # Something in front of one engine wants a password, say; the other nodes are looked at all the same.
            return Looked(node, Phase.UNKNOWN, error.summary)

    def _blindly(self, node: NodeSpec, why: str) -> Looked:
        """Ask an engine while Proxmox says nothing of its VM; it is in the mode that was last noted."""
        with self._lock:
            known = self._noted.get(node.name)
        node = known.node if known is not None else node
        if (known is None and len(node.modes) > 1) or self._fleet.release_of(node) is not None:
            return Looked(node, Phase.UNKNOWN, why)
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
        if probe.health():
            return Looked(node, Phase.UNKNOWN, why)
        return Looked(node, Phase.READY, f"{engine.name} is healthy; {why}", probe.endpoint.url)

    def _knocked(self, node: NodeSpec, vm: VmSeen) -> Looked:
        node = self._in_its_mode(node, vm.power)
        if vm.power is Power.STOPPED:
            release = self._fleet.release_of(node)
            if release is None:
                return Looked(node, Phase.ASLEEP, "its VM is off")
            given = f'its GPUs are given to VM {release.vmid} (mode "{release.name}")'
            return Looked(node, Phase.WITHHELD, given)
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
        trouble = probe.health()
        if not trouble and probe.rests():
            # It says that it is healthy, and refuses requests until it is woken.
            return Looked(node, Phase.ASLEEP, f"{engine.name} rests, its model out of the GPU", None, vm.uptime_seconds)
        if not trouble:
            return Looked(node, Phase.READY, f"{engine.name} is healthy", probe.endpoint.url, vm.uptime_seconds)
        # Whoever answers at all, if only to say "not yet", is up and loads its model.
        phase = Phase.LOADING if trouble.startswith("HTTP ") else Phase.BOOTING
        return Looked(node, phase, f"{engine.name}: {trouble}", None, vm.uptime_seconds)

    def _in_its_mode(self, node: NodeSpec, power: Power) -> NodeSpec:
        if len(node.modes) < 2:
            return node
        now = self._world.clock.monotonic()
        with self._lock:
            known = self._noted.get(node.name)
        if known is not None and known.power is power and now - known.at < _NOTES_HOLD_SECONDS:
            return known.node
        api = self._world.clusters[self._fleet.cluster_of(node).name]
        found = noted(self._fleet, api, node)[0]
        with self._lock:
            self._noted[node.name] = _Noted(found, power, now)
        return found
