"""What runs on a node: the mode that its VM's notes name, its engine and the engine's unit, for those who only look."""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.engines.base import InferenceEngine
from provisioner.planning import launches
from provisioner.services.noted_modes import noted
from provisioner.services.world import World


def as_noted(fleet: FleetSpec, world: World, node: NodeSpec) -> NodeSpec:
    """Return a node in the mode that its VM's notes name. Raises HypervisorError."""
    return noted(fleet, world.clusters[fleet.cluster_of(node).name], node)[0]


def engine_of(fleet: FleetSpec, world: World, node: NodeSpec) -> InferenceEngine:
    """Return the description of the engine that a node runs."""
    return world.engines[fleet.mode_of(node).engine]


def address_of(fleet: FleetSpec, world: World, node: NodeSpec) -> str:
    """Return where the engine that answers for a node listens, without a path."""
    return f"http://{fleet.answering(node).reach.address}:{engine_of(fleet, world, node).port}"


def unit_of(fleet: FleetSpec, world: World, node: NodeSpec) -> str:
    """Return the systemd unit that the engine runs as."""
    return launches.unit_of(fleet, node, world.engines).service
