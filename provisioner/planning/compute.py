"""What a node's GPUs can compute, by the PCI ids that their mappings name. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gpu_reading import NVIDIA
from provisioner.domain.names import MappingId
from provisioner.domain.snapshot import MappingSeen
from provisioner.planning.gpu.cards import chip_of
from provisioner.planning.gpu.driver import ids_of_mapping
from provisioner.planning.launches import Compute


def compute_of(fleet: FleetSpec, node: NodeSpec, mappings: Mapping[MappingId, MappingSeen]) -> Compute:
    """Return the lowest CUDA compute capability among a node's GPUs; None where none of them is known.

    A mapping that names several cards gives any of them, so the lowest counts there too.
    """
    found: list[tuple[int, int]] = []
    for gpu in fleet.gpus_of(node):
        if gpu.mapping not in mappings:
            continue
        for vendor, device in ids_of_mapping(mappings[gpu.mapping], node.hypervisor):
            chip = chip_of(device) if vendor == NVIDIA else None
            if chip is not None and chip.compute_capability:
                major, _, minor = chip.compute_capability.partition(".")
                found.append((int(major), int(minor)))
    return min(found, default=None)
