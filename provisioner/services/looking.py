"""Looks at Proxmox for what planning needs to know of nodes, and at nothing it does not: every fact is a call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import MappingId, StorageName
from provisioner.domain.snapshot import ClusterSnapshot, MappingSeen, NodeSeen, Power, VmConfig, VmSeen
from provisioner.domain.vm_traits import NATIVE_DRIVE, Trait
from provisioner.planning.cloning import how_to_make
from provisioner.planning.creation import seed_of
from provisioner.ports.hypervisors import Hypervisors

_Value = TypeVar("_Value")


def find_vm(api: Hypervisors, node: NodeSpec) -> VmSeen | None:
    """Return the VM with a node's VMID as it is now, wherever in the cluster it is.

    One call where the VM is where it should be; only one that is not there is
    looked for elsewhere, so that a VM that has moved is never taken for gone.
    """
    return api.vm(node.hypervisor, node.vmid) or api.snapshot().vms.get(node.vmid)


def look(fleet: FleetSpec, api: Hypervisors, node: NodeSpec) -> NodeSeen:
    """Look at one node as closely as Proxmox lets us, before anything is done to it."""
    return Looker(fleet).look(api, node, closely=True)


class Looker:
    """Looks at many nodes: what they share is asked for once. Safe to use from several threads."""

    def __init__(self, fleet: FleetSpec) -> None:
        self._fleet = fleet
        self._lock = threading.Lock()
        self._asked: dict[Hashable, Future[Any]] = {}

    def look(self, api: Hypervisors, node: NodeSpec, *, closely: bool = False) -> NodeSeen:
        """Return what planning needs to know of one node.

        Args:
            api: its cluster.
            node: which.
            closely: ask for its power too; else what the cluster last reported counts, some seconds old, if it did.
        """
        here = node.hypervisor
        cluster = self._once(("snapshot", id(api)), api.snapshot)
        online = bool(cluster.hypervisors.get(here))
        vm = cluster.vms.get(node.vmid)
        if vm is not None and (vm.hypervisor != here or not online):
            vm = None
        if vm is not None and (closely or vm.power is Power.UNKNOWN):
            # What a server has not reported for a while is not off: the VM itself says.
            vm = api.vm(here, node.vmid)
        if node.adopt:
            # The rest is its maker's business.
            return NodeSeen(cluster, vm, None, {}, image_present=False, seed_present=True)
        config = api.config(here, node.vmid) if vm is not None and not vm.is_container else None
        if vm is not None and config is not None and not closely:
            vm = _named_by(vm, config)
        roles = self._fleet.cluster_of(node).storage
        image, seed = self._fleet.images[node.image].volume_name, seed_of(self._fleet, node, config)
        runs = vm is None or vm.power is Power.RUNNING
        has_own = config is not None and config.traits.get(Trait.CLOUD_INIT) == NATIVE_DRIVE
        making = how_to_make(self._fleet, node, cluster) if cluster.vms.get(node.vmid) is None and online else None
        permissions = None
        if making is not None and making.template is not None:
            permissions = self._once(("permissions", id(api)), api.permissions)
            making = how_to_make(self._fleet, node, cluster, permissions)
        needs_image = vm is None and (making is None or making.ready is None)
        mappings: Mapping[MappingId, MappingSeen] = {}
        if online and node.gpus:
            # Of a node that runs too: how its engine is started follows from what its cards can compute.
            mappings = self._once(("mappings", id(api), here), lambda: api.mappings(here))
        return NodeSeen(
            cluster=cluster,
            vm=vm,
            config=config,
            mappings=mappings,
            image_present=needs_image and image in self._volumes(api, cluster, node, roles.images, "import"),
            seed_present=runs or has_own or seed[1] in self._volumes(api, cluster, node, seed[0], "iso"),
            permissions=permissions,
        )

    def _volumes(
        self, api: Hypervisors, cluster: ClusterSnapshot, node: NodeSpec, storage: StorageName, content: str
    ) -> frozenset[str]:
        here = node.hypervisor
        seen = cluster.storages.get((here, storage))
        if seen is None or not seen.is_available:
            return frozenset()
        return self._once(("volumes", id(api), here, storage, content), lambda: api.volumes(here, storage, content))

    def _once(self, question: Hashable, ask: Callable[[], _Value]) -> _Value:
        """Ask, unless it was asked before; who comes while it is being asked waits for the answer."""
        with self._lock:
            answer = self._asked.get(question)
            is_mine = answer is None
            if answer is None:
                answer = self._asked[question] = Future()
        if is_mine:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)
                raise
        result: _Value = answer.result()
        return result


def _named_by(vm: VmSeen, config: VmConfig) -> VmSeen:
    """Return the VM with the name and tags that its configuration has; the cluster's report lags behind those."""
    return replace(vm, name=config.traits.get(Trait.NAME, vm.name), tags=config.tags)
