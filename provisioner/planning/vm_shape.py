"""The VM that a node should have, and what is not like that about the one it has. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from provisioner.domain.cloud_init import CloudInit, NativeDrive
from provisioner.domain.conventions import TAG, mac_address
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import MappingId
from provisioner.domain.notes import NodeNotes, Serving, headline, noted_address, noted_node, read_notes, write_notes
from provisioner.domain.snapshot import NodeSeen, Power, VmConfig, VmSeen
from provisioner.domain.vm_traits import NONE, Drift, PassedDevice, Trait, Traits, VmShape, listed, wanted_traits
from provisioner.engines.base import InferenceEngine

_KEY_DIGITS = 12
"""More than a VMID can have, so that one seed's name never reads as another node's."""


def seed_volume(node: NodeSpec, host_key: str | None = None) -> str:
    """Return the name of the seed ISO that gives a guest this public host key; without one, its stem for plans.

    The VMID is in it: renamed nodes must not meet each other's seed. So is the key: two machines that make the node
    at the same moment must not either, or the VM of the one would boot with the key of the other.
    """
    if host_key is None:
        return f"{node.name}-{node.vmid}-seed.iso"
    digest = hashlib.sha256(" ".join(host_key.split()[:2]).encode()).hexdigest()
    return f"{node.name}-{node.vmid}-{digest[:_KEY_DIGITS]}-seed.iso"


def is_seed_of(node: NodeSpec, volume: str) -> bool:
    """Say whether an ISO is a seed that was once made for a node; those named by the stem alone are older."""
    return (
        re.fullmatch(rf"{re.escape(f'{node.name}-{node.vmid}')}(-[0-9a-f]{{{_KEY_DIGITS}}})?-seed\.iso", volume)
        is not None
    )


def vm_shape(fleet: FleetSpec, node: NodeSpec) -> VmShape:
    """Return the VM that a node should have."""
    roles = fleet.cluster_of(node).storage
    return VmShape(
        vmid=node.vmid,
        name=node.name,
        cores=node.cores,
        memory_bytes=node.memory_bytes,
        disk_storage=roles.disks,
        image_storage=roles.images,
        image_volume=fleet.images[node.image].volume_name,
        iso_storage=roles.iso,
        seed_volume=seed_volume(node),
        bridge=fleet.cluster_of(node).bridge,
        mac=mac_address(node.vmid),
        gpu_mappings=tuple(gpu.mapping for gpu in fleet.gpus_of(node)),
        tags=frozenset({TAG}) | node.options.tags,
        numa=node.options.numa,
        secure_boot=node.options.secure_boot,
        protection=node.options.protection,
        cloud_init=NativeDrive(fleet.ssh.user, node.address, node.gateway, node.nameservers)
        if node.cloud_init is CloudInit.PROXMOX
        else None,
    )


def new_notes(node: NodeSpec, engine: InferenceEngine, model: str, host_key: str | None) -> NodeNotes:
    """Return our lines for a VM that is made now; without a host key where the guest will make its own."""
    return NodeNotes(host_key, seed_is_sealed=False, image=node.image, serving=serving(node, engine, model))


def wanted_notes(node: NodeSpec, engine: InferenceEngine, model: str, text: str) -> str:
    """Return a VM's notes as they should be: our lines up to date, everything else as it is."""
    return write_notes(
        text, node.name, replace(read_notes(text), serving=serving(node, engine, model), mode=node.noted_mode)
    )


def serving(node: NodeSpec, engine: InferenceEngine, model: str) -> Serving:
    """Return what the notes tell people of a node: its model, and where a client reaches it."""
    return Serving(model, f"http://{node.address.ip}:{engine.port}{engine.api_path}")


def drifts(fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, config: VmConfig) -> tuple[Drift, ...]:
    """Return every managed trait in which the next start's VM differs from the wanted one."""
    seen = dict(config.traits)
    wanted = wanted_traits(vm_shape(fleet, node))
    seen[Trait.GPUS] = listed(_ours(config.devices, known_gpus(fleet, node)))
    # A person's own tags are theirs to keep.
    seen[Trait.TAGS], wanted[Trait.TAGS] = (
        listed(sorted(tags)) for tags in (config.tags, config.tags | node.options.tags | {TAG})
    )
    # Compared by what our lines say: where they stand among a person's own is of no account.
    text = wanted_notes(node, engine, fleet.mode_of(node).model, config.notes)
    seen[Trait.NOTES], wanted[Trait.NOTES] = headline(config.notes) or NONE, headline(text) or NONE
    return _differences(seen, wanted)


def cold_drifts(fleet: FleetSpec, node: NodeSpec, config: VmConfig) -> tuple[Drift, ...]:
    """Return in what a running VM differs from the wanted one that only a cold start changes.

    That is not the same as `drifts`: what was written already waits for the
    start, and what was written by mistake may never have taken effect.
    """
    running = dict(config.traits) | {drift.trait: drift.seen for drift in config.waiting}
    wanted = wanted_traits(vm_shape(fleet, node))
    running[Trait.GPUS] = listed(_ours(config.running_devices, known_gpus(fleet, node)))
    if node.options.hugepages is not None:
        wanted[Trait.HUGEPAGES] = node.options.hugepages
    return tuple(drift for drift in _differences(running, wanted) if drift.waits_for_start)


def _differences(seen: Traits, wanted: Traits) -> tuple[Drift, ...]:
    return tuple(
        Drift(trait, seen.get(trait, NONE), value) for trait, value in wanted.items() if seen.get(trait) != value
    )


def known_gpus(fleet: FleetSpec, node: NodeSpec) -> frozenset[MappingId]:
    """Return the mappings that the fleet calls GPUs on a node's hypervisor; other devices are not ours to move."""
    return frozenset(gpu.mapping for gpu in fleet.hypervisors[node.hypervisor].gpus.values())


def needs_mappings(fleet: FleetSpec, node: NodeSpec, vm: VmSeen | None, config: VmConfig | None) -> bool:
    """Say whether a start with the node's GPUs lies ahead, so that their mappings matter."""
    if not node.gpus:
        return False
    if vm is None or config is None or vm.power is not Power.RUNNING:
        return True
    # One that is restarted must find its GPUs again; found wanting after its shutdown, it would stay off.
    return bool(cold_drifts(fleet, node, config)) or read_notes(config.notes).boots_anew


def is_renamed(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> bool:
    """Say whether the VM is this node's under another name.

    Somebody renamed the VM in Proxmox: our notes in it still name this node. Or
    the node was renamed in the fleet file: the notes agree with the old name,
    no node bears that any more, and the address is this node's.
    """
    vm, config = seen.vm, seen.config
    if vm is None or config is None or node.adopt or not vm.is_ours or vm.name in fleet.nodes:
        return False
    noted = noted_node(config.notes)
    return noted == node.name or (noted == vm.name and noted_address(config.notes) == str(node.address.ip))


def _ours(devices: tuple[PassedDevice, ...], known: frozenset[MappingId]) -> list[PassedDevice]:
    return [device for device in devices if device.mapping in known]
