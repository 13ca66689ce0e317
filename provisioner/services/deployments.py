"""What runs on a node: its mode, its engine and the engine's unit, for those who only look."""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.engines.base import InferenceEngine
from provisioner.planning import launches
from provisioner.services.world import World


def engine_of(fleet: FleetSpec, world: World, node: NodeSpec) -> InferenceEngine:
    """Return the description of the engine that a node runs."""
    return world.engines[fleet.mode_of(node).engine]


def unit_of(fleet: FleetSpec, world: World, node: NodeSpec) -> str:
    """Return the systemd unit that the engine runs as."""
    return launches.unit_of(fleet, node, world.engines).service
