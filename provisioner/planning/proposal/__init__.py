"""A discovered cluster -> the fleet file to propose; pure. What nobody could see is said, never guessed silently."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from provisioner.domain.discovery import Discovery, HypervisorFound
from provisioner.domain.fleet import TlsTrust
from provisioner.domain.name_rules import HYPERVISOR, WORD, fits
from provisioner.domain.proposal import (
    FleetProposal,
    GpuSlot,
    HypervisorProposal,
    Sizes,
    TokenChoice,
)
from provisioner.domain.quantities import GIB
from provisioner.errors import HypervisorError
from provisioner.planning.proposal.gpus import gpu_slots
from provisioner.planning.proposal.network import bridge_choice, network_of
from provisioner.planning.proposal.nodes import node_proposals
from provisioner.planning.proposal.sight import hidden
from provisioner.planning.proposal.storages import storage_choices

__all__ = ["FleetProposal", "GpuSlot", "HypervisorProposal", "TokenChoice", "cluster_name", "propose_fleet"]

_USUAL_CLUSTER = "homelab"
_USUAL = Sizes(cores=12, memory_bytes=48 * GIB, disk_bytes=200 * GIB)
"""The sizes that the product's documents use; a smaller server gets less."""
_UNKNOWN = Sizes(cores=4, memory_bytes=16 * GIB, disk_bytes=64 * GIB)
_LEAST_MEMORY = 2 * GIB
_LEAST_DISK = 16 * GIB

# Disk images of content type "import" can be uploaded and fetched since pve-storage 8.3.6, which is Proxmox VE 8.4.
_FIRST_VERSION = (8, 4)


def propose_fleet(discovery: Discovery, token: TokenChoice, tls: TlsTrust) -> FleetProposal:
    """Return a fleet for what was discovered.

    Args:
        discovery: what somebody's rights showed.
        token: what the fleet will log in with.
        tls: how the cluster's certificate is trusted.

    Raises:
        HypervisorError: no server was seen that the fleet file could name.
    """
    named = [each for each in discovery.hypervisors if fits(HYPERVISOR, each.name)]
    if not named:
        raise HypervisorError(
            "cannot propose a fleet: the cluster shows no server",
            subject=discovery.api_url,
            next_step="check that this is a Proxmox VE server and not another Proxmox product",
        )
    slots = gpu_slots(discovery)
    hypervisors = tuple(
        HypervisorProposal(
            each.name, each.address, slots.get(each.name, ()), tuple(_hypervisor_notes(each, each.name in slots))
        )
        for each in named
    )
    homes = _homes(named, slots)
    disks, images, iso = storage_choices(discovery.storages, [each.name for each in homes])
    bridge = bridge_choice(homes)
    network = network_of(discovery, bridge.name, homes)
    free = [each.free_bytes for each in discovery.storages if each.name == disks.name and each.free_bytes is not None]
    nameservers = tuple(
        dict.fromkeys(address for each in named for address in each.nameservers if not address.is_loopback)
    )
    return FleetProposal(
        discovery=discovery,
        cluster=cluster_name(discovery),
        token=token,
        tls=tls,
        disks=disks,
        images=images,
        iso=iso,
        bridge=bridge,
        hypervisors=hypervisors,
        sizes=_sizes(homes, min(free, default=None)),
        gateway=network.gateway if network else None,
        nameservers=nameservers,
        nodes=node_proposals(discovery, hypervisors, network),
        notes=tuple(_notes(discovery, has_network=network is not None)),
        unseen=(*discovery.unseen, *hidden(discovery)),
    )


def cluster_name(discovery: Discovery) -> str:
    """Return the cluster's own name where the fleet file can hold it; a single server has none."""
    name = discovery.cluster_name
    return name if name is not None and fits(WORD, name) else _USUAL_CLUSTER


def _homes(named: list[HypervisorFound], slots: Mapping[str, tuple[GpuSlot, ...]]) -> list[HypervisorFound]:
    """Return the servers where nodes will live: those with GPUs, else those that answer, else all."""
    with_gpus = [each for each in named if any(not gpu.is_integrated for gpu in slots.get(each.name, ()))]
    return with_gpus or [each for each in named if each.is_online] or named


def _hypervisor_notes(found: HypervisorFound, devices_seen: bool) -> Iterator[str]:
    if not found.is_online:
        yield "was offline: run provisioner init again, with another --output, to see its GPUs"
    elif not devices_seen:
        yield "its devices could not be seen, so its GPUs are missing here"


def _sizes(homes: Sequence[HypervisorFound], free_bytes: int | None) -> Sizes:
    """Return half of what the smallest server has, at most the usual: a passed-through GPU pins its VM's memory."""
    threads = min((each.threads for each in homes if each.threads is not None), default=None)
    memory = min((each.memory_bytes for each in homes if each.memory_bytes is not None), default=None)
    return Sizes(
        _UNKNOWN.cores if threads is None else max(1, min(_USUAL.cores, threads // 2)),
        _half(memory, _USUAL.memory_bytes, _LEAST_MEMORY, _UNKNOWN.memory_bytes),
        _half(free_bytes, _USUAL.disk_bytes, _LEAST_DISK, _UNKNOWN.disk_bytes),
    )


def _half(there: int | None, most: int, least: int, unknown: int) -> int:
    return unknown if there is None else max(least, min(most, there // 2 // GIB * GIB))


def _notes(discovery: Discovery, *, has_network: bool) -> Iterator[str]:
    version = re.match(r"(\d+)\.(\d+)", discovery.version)
    if version is None or (int(version[1]), int(version[2])) < _FIRST_VERSION:
        yield f"Proxmox VE {discovery.version or 'of unknown version'}: importing a cloud image takes 8.4 or newer"
    for each in discovery.hypervisors:
        if not fits(HYPERVISOR, each.name):
            yield f'server "{each.name}" is left out: its name is none that a fleet file can hold'
    if not has_network:
        yield "the bridge has no address on any server that was seen, so nodes have none here: give each its own"
