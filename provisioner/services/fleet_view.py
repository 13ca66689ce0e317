"""Gathers what is wanted and what is seen of every node, for `status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.lease import Hold, Lease, LeasePage
from provisioner.domain.names import ClusterName
from provisioner.domain.snapshot import ClusterSnapshot, Power
from provisioner.errors import ProvisionerError
from provisioner.planning.lease_words import page_words, slots_of
from provisioner.planning.ownership import Act, Why, objection
from provisioner.services.engine_web import engine_web
from provisioner.services.noted_modes import noted
from provisioner.services.proving import EngineProbe
from provisioner.services.world import World

_MOST_PROBES_AT_ONCE = 32


class NodeState(Enum):
    """A node in one word."""

    ABSENT = "absent"
    ASLEEP = "asleep"
    STARTING = "starting"
    SERVING = "serving"
    LOCKED = "locked"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node as it is, with the reason for calling it so."""

    node: NodeSpec
    state: NodeState
    reason: str
    model: str
    url: str | None = None
    uptime_seconds: float = 0.0
    needs_key: bool = False
    """Clients must send the node's API key to `url`."""
    claims: str = ""
    """Who holds it, whom it gives way to, who has its GPU; in words."""
    holds: tuple[Hold, ...] = ()
    leases: tuple[Lease, ...] = ()
    """Of its GPUs, whoever has them, as last written down."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node.name,
            "vmid": self.node.vmid,
            "hypervisor": self.node.hypervisor,
            "address": str(self.node.address),
            "gpus": list(self.node.gpus),
            "state": self.state.value,
            "reason": self.reason,
            "mode": str(self.node.mode),
            "model": self.model,
            "url": self.url,
            "needs_key": self.needs_key,
            "uptime_seconds": round(self.uptime_seconds),
            "claims": self.claims,
            "holds": [hold.as_dict() for hold in self.holds],
            "leases": [lease.as_dict() for lease in self.leases],
        }


class FleetView:
    """`status`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def status(self, nodes: Sequence[NodeSpec]) -> tuple[NodeStatus, ...]:
        """Look at the nodes: one API call per cluster, one probe per running node.

        A cluster that does not answer makes its nodes unknown; the others are still shown.
        """
        snapshots = {name: self._snapshot(name) for name in {self._fleet.cluster_of(node).name for node in nodes}}
        if not nodes:
            return ()
        with ThreadPoolExecutor(min(len(nodes), _MOST_PROBES_AT_ONCE)) as pool:
            found = pool.map(lambda node: self._status(node, snapshots[self._fleet.cluster_of(node).name]), nodes)
            page, now = self._world.leases.read(), self._world.clock.now()
            return tuple(self._with_claims(status, snapshots, page, now) for status in found)

    def _with_claims(
        self,
        status: NodeStatus,
        snapshots: Mapping[ClusterName, ClusterSnapshot | str],
        page: LeasePage,
        now: float,
    ) -> NodeStatus:
        node, snapshot = status.node, snapshots[self._fleet.cluster_of(status.node).name]
        if isinstance(snapshot, str):
            # Who is off is not known; a hold counts all the same.
            snapshot = ClusterSnapshot({}, {}, {})
        return replace(
            status,
            claims=page_words(page, node, snapshot.vms, now),
            holds=page.holds_on(node.name, now),
            leases=page.leases_of(slots_of(node)),
        )

    def _snapshot(self, name: ClusterName) -> ClusterSnapshot | str:
        try:
            return self._world.clusters[name].snapshot()
        except ProvisionerError as error:
            return error.summary

    def _status(self, node: NodeSpec, snapshot: ClusterSnapshot | str) -> NodeStatus:
        model = self._fleet.mode_of(node).model
        if isinstance(snapshot, str):
            return NodeStatus(node, NodeState.UNKNOWN, snapshot, model)
        vm = snapshot.vms.get(node.vmid)
        if vm is None:
            reason = "there is no such VM to adopt" if node.adopt else f"no VM yet: provisioner up {node.name}"
            return NodeStatus(node, NodeState.ABSENT, reason, model)
        found = objection(node, vm, Act.SLEEP)
        # What Proxmox has not heard of for a while shows no name: whose it is cannot be judged.
        if found is not None and not (vm.power is Power.UNKNOWN and not vm.name):
            state = NodeState.LOCKED if found.why is Why.LOCKED else NodeState.FOREIGN
            return NodeStatus(node, state, found.reason, model)
        if vm.power is Power.UNKNOWN:
            return NodeStatus(node, NodeState.UNKNOWN, f"{vm.hypervisor} has not reported for a while", model)
        try:
            node, _ = noted(self._fleet, self._world.clusters[self._fleet.cluster_of(node).name], node)
        except ProvisionerError as error:
            return NodeStatus(node, NodeState.UNKNOWN, error.summary, model)
        model = self._fleet.mode_of(node).model
        if vm.power is Power.STOPPED:
            release = self._fleet.release_of(node)
            given = f', its GPUs are given to VM {release.vmid} (mode "{release.name}")' if release else ""
            return NodeStatus(node, NodeState.ASLEEP, f"the VM is off{given}", model)
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
        try:
            trouble = probe.health()
        except ProvisionerError as error:
            return NodeStatus(node, NodeState.UNKNOWN, error.summary, model, None, vm.uptime_seconds)
        head = self._fleet.answering(node).name
        whose = f"{head} answers for it: " if head != node.name else ""
        if trouble:
            reason = f"{whose}{engine.name}: {trouble}"
            return NodeStatus(node, NodeState.STARTING, reason, model, None, vm.uptime_seconds)
        return NodeStatus(
            node,
            NodeState.SERVING,
            f"{whose}{engine.name} is healthy",
            model,
            probe.endpoint.url,
            vm.uptime_seconds,
            probe.endpoint.needs_key,
        )
