"""What cannot be made of the VM that is there, and why. Pure."""

from __future__ import annotations

from collections import Counter

from provisioner.domain.actions import Refusal
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.notes import read_notes
from provisioner.domain.quantities import size_text
from provisioner.domain.snapshot import NodeSeen, Power, VmConfig
from provisioner.domain.templates import is_half_cloned
from provisioner.domain.vm_traits import NONE, Trait, listed
from provisioner.planning.model_disk import model_disk_refusal
from provisioner.planning.native_drive import is_native
from provisioner.planning.vm_shape import known_gpus

_ROOT_ONLY = "only root@pam's own login may set that in Proxmox, never a token"
_PROXMOX_PAGES = {"2MiB": "2", "1GiB": "1024", "any": "any"}


def limits(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> Refusal | None:
    """Return why `up` cannot bring the VM to its shape, or None."""
    config = seen.config
    found = _hugepages(node, config) or _pool(fleet, node, seen)
    if config is None or found is not None:
        return found
    if is_half_cloned(config.tags):
        return _half_cloned(node, seen, config) or _disk(node, config) or _image(node, config)
    disks = _disk(node, config) or model_disk_refusal(fleet, node, config)
    return disks or _image(node, config) or _seed(node, config) or _raw_devices(fleet, node, config)


def _hugepages(node: NodeSpec, config: VmConfig | None) -> Refusal | None:
    wanted = node.options.hugepages
    pages = config.traits.get(Trait.HUGEPAGES, NONE) if config else NONE
    as_root = f"as root on {node.hypervisor}: qm set {node.vmid} --hugepages"
    if wanted is None:
        if pages == NONE or node.options.numa:
            return None
        return Refusal(
            f"the VM has hugepages ({pages}), which do not work without numa",
            f"write numa: true for {node.name}, or {as_root[:-11]} --delete hugepages",
        )
    if pages == wanted:
        return None
    command = f"{as_root} {_PROXMOX_PAGES[wanted]}"
    if config is None:
        return Refusal(
            f"hugepages ({wanted}) cannot be part of a new VM: {_ROOT_ONLY}",
            f"leave hugepages out, provisioner up {node.name}; then {command}, and put hugepages: {wanted} back",
        )
    return Refusal(f"hugepages are {pages}, wanted are {wanted}: {_ROOT_ONLY}", command)


def _pool(fleet: FleetSpec, node: NodeSpec, seen: NodeSeen) -> Refusal | None:
    """One VM that names a mapping twice needs two cards behind it."""
    for mapping, times in Counter(gpu.mapping for gpu in fleet.gpus_of(node)).items():
        found = seen.mappings.get(mapping)
        # One that names none here is found wanting by its own check.
        cards = found.cards_on(node.hypervisor) if found is not None and times > 1 else times
        if times > cards:
            return Refusal(
                f'the node wants {times} cards of mapping "{mapping}", which names {cards} on {node.hypervisor}',
                f"add cards to the mapping (Datacenter > Resource Mappings), or give {node.name} fewer gpus",
            )
    return None


def _disk(node: NodeSpec, config: VmConfig) -> Refusal | None:
    if config.disk_bytes is None:
        return Refusal(
            "the VM has lost its boot disk scsi0",
            f"put it back (Proxmox > VM {node.vmid} > Hardware), or make the node anew: {_anew(node)}",
        )
    if config.disk_bytes > node.disk_bytes:
        has, wanted = size_text(config.disk_bytes), size_text(node.disk_bytes)
        return Refusal(
            f"the disk has {has}, wanted are {wanted}: disks only grow",
            f"write disk: {has} for {node.name}, or make the node anew: {_anew(node)}",
        )
    return None


def _image(node: NodeSpec, config: VmConfig) -> Refusal | None:
    # By name, not by checksum: a newer build of the same image is no reason to lose a disk.
    made_from = read_notes(config.notes).image
    if made_from is None or made_from == node.image:
        return None
    return Refusal(
        f'the disk was made from image "{made_from}", wanted is "{node.image}": that takes another disk',
        f"write image: {made_from} for {node.name}, or make the node anew: {_anew(node)}",
    )


def _half_cloned(node: NodeSpec, seen: NodeSeen, config: VmConfig) -> Refusal | None:
    if seen.vm is None or seen.vm.power is not Power.RUNNING or not is_half_cloned(config.tags):
        return None
    return Refusal(
        "somebody started its VM before it was whole: it was cloned from a template, and got no shape yet",
        f"stop it (Proxmox > VM {node.vmid} > Stop), or make the node anew: {_anew(node)}",
    )


def _seed(node: NodeSpec, config: VmConfig) -> Refusal | None:
    if is_native(node) or config.seed is not None or read_notes(config.notes).seed_is_sealed:
        return None
    return Refusal(
        "the seed ISO was taken out of the VM before its first boot was over",
        f"make the node anew: {_anew(node)}",
    )


def _raw_devices(fleet: FleetSpec, node: NodeSpec, config: VmConfig) -> Refusal | None:
    """A device passed by its address may be the very card that we should pass by its mapping."""
    raw = [device for device in config.devices if device.mapping is None]
    known = known_gpus(fleet, node)
    ours = listed(device for device in config.devices if device.mapping in known)
    if not raw or ours == listed(gpu.mapping for gpu in fleet.gpus_of(node)):
        return None
    keys = ", ".join(f"hostpci{device.index} ({device.address})" for device in raw)
    return Refusal(
        f"the VM gets PCI devices by their raw address: {keys}; {_ROOT_ONLY}. A mapping may be given to a token, and "
        "is checked against the card at every start",
        f"as root on {node.hypervisor}: qm set {node.vmid} --delete "
        f"{','.join(f'hostpci{device.index}' for device in raw)}; then: provisioner up {node.name}",
    )


def _anew(node: NodeSpec) -> str:
    return f"provisioner destroy {node.name}, then provisioner up {node.name}"
