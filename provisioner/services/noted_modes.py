"""Which mode a node is in: what its VM's notes say, asked for only where a node has more than one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.notes import NodeNotes, read_notes

if TYPE_CHECKING:
    # It speaks of all that can be done to a VM; loading that would take longer than `status` may.
    from provisioner.ports.hypervisors import Hypervisors

_NOTHING = NodeNotes(host_key=None, seed_is_sealed=False)


def noted(fleet: FleetSpec, api: Hypervisors, node: NodeSpec) -> tuple[NodeSpec, NodeNotes]:
    """Return a node in the mode that is noted, with its notes; one API call, and none for a node with one mode.

    Args:
        fleet: what is wanted.
        api: the node's cluster.
        node: one whose VM exists.
    """
    if len(node.modes) < 2 or node.adopt:
        return node, _NOTHING
    notes = read_notes(api.config(node.hypervisor, node.vmid).notes)
    return fleet.in_mode(node, notes.mode), notes
