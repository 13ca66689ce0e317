"""Do a node's modes run on cards of its cards' maker? As far as mappings and the fleet file's driver tell; pure."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gpu_driver import DriverKind
from provisioner.domain.gpu_reading import AMD
from provisioner.domain.names import MappingId
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import MappingSeen
from provisioner.planning.gpu.driver import ids_of_mapping, wish_of
from provisioner.planning.launches import Engines


def cards_of_another_maker(
    fleet: FleetSpec, node: NodeSpec, engines: Engines, mappings: Mapping[MappingId, MappingSeen]
) -> Refusal | None:
    """Return why an engine of a node's modes has no use for its cards; None as far as can be told.

    Args:
        fleet: what is wanted.
        node: where.
        engines: those that are known.
        mappings: those that were looked at; without them only the driver that is asked for tells.
    """
    why = _sign_of_amd(fleet, node, mappings)
    if not why:
        return None
    for mode in fleet.modes_of(node):
        if engines[mode.engine].traits.needs_cuda:
            return Refusal(
                f'mode "{mode.name}" cannot run on it: what is laid down of {mode.engine} computes on NVIDIA\'s cards '
                f"alone, and {why}",
                f'serve "{mode.name}" with ollama or llama.cpp, which compute on AMD\'s cards too; or give {node.name} '
                "a card of NVIDIA's",
            )
    return None


def _sign_of_amd(fleet: FleetSpec, node: NodeSpec, mappings: Mapping[MappingId, MappingSeen]) -> str:
    for gpu in fleet.gpus_of(node):
        for vendor, device in ids_of_mapping(mappings[gpu.mapping], node.hypervisor) if gpu.mapping in mappings else ():
            if vendor == AMD:
                return f"its GPU {gpu.name} is AMD's ({vendor}:{device})"
    wish = wish_of(fleet, node)
    is_rocm = not isinstance(wish, Refusal) and wish.kind is DriverKind.ROCM
    return "driver: rocm is for AMD's" if is_rocm else ""
