"""What nodes that serve one mode together must have in common, as far as their mappings tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import MappingId
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import MappingSeen
from provisioner.planning.gpu.driver import PciIds, ids_of_mapping
from provisioner.planning.launches import Engines


def unlike_cards(
    fleet: FleetSpec, node: NodeSpec, engines: Engines, mappings: Mapping[MappingId, MappingSeen]
) -> Refusal | None:
    """Return why a node's cards do not go together with those of the nodes that it shares a mode with.

    Cards that no mapping seen here names, those of another cluster for instance, are not judged.
    """
    own = _cards(fleet, node, mappings)
    for mode in fleet.modes_of(node):
        if not engines[mode.engine].traits.needs_equal_gpus:
            continue
        for other in fleet.span_of(node, mode):
            theirs = _cards(fleet, other, mappings)
            if own and theirs and set(own) != set(theirs):
                return Refusal(
                    f'mode "{mode.name}" cannot run on it: its cards are {_words(own)}, and those of {other.name} are '
                    f"{_words(theirs)}; {mode.engine} divides a model alike over all of them",
                    f'name nodes with the same cards under modes.{mode.name}.nodes, or give "{mode.name}" to one node',
                )
    return None


def _cards(fleet: FleetSpec, node: NodeSpec, mappings: Mapping[MappingId, MappingSeen]) -> tuple[PciIds, ...]:
    """Return the ids of a node's cards; nothing unless all of them are known."""
    found = [
        ids_of_mapping(mappings[gpu.mapping], node.hypervisor) if gpu.mapping in mappings else ()
        for gpu in fleet.gpus_of(node)
    ]
    return tuple(each for ids in found for each in ids) if all(found) else ()


def _words(cards: tuple[PciIds, ...]) -> str:
    return ", ".join(f"{vendor}:{device}" for vendor, device in dict.fromkeys(cards))
