"""Writes which mode a node is in to its VM's notes, where everybody reads it."""

from __future__ import annotations

from dataclasses import replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.planning.vm_shape import serving
from provisioner.services.vm_writer import VmWriter
from provisioner.services.world import World


def note_mode(fleet: FleetSpec, world: World, node: NodeSpec, *, waits: bool) -> None:
    """Note the mode that a node is in; `waits` while its guest does not know of it. Raises HypervisorError."""
    mode = fleet.mode_of(node)
    shown = serving(node, world.engines[mode.engine], mode.model)
    VmWriter(node, world.clusters[fleet.cluster_of(node).name], None).write_notes_of(
        lambda notes: replace(notes, mode=node.mode, mode_waits=waits, serving=shown)
    )
