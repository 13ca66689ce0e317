"""GPUs of a discovered cluster as slots of a fleet: which mapping is each one's, who uses it, what stands in the way.

Which device is a GPU at all is `planning.host.gpus`' rule, the one that doctor
uses. A slot is one card. A mapping whose entries are single cards is a pool that
their slots share; one that gives out several cards together is nobody's slot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from provisioner.domain.discovery import Discovery, GuestFound, HypervisorFound, MappingFound
from provisioner.domain.host import HostFacts, PciAddress, PciFunction, slot_of
from provisioner.domain.name_rules import CONFIG_ID, fits
from provisioner.domain.proposal import GpuSlot
from provisioner.planning.graphics_memory import graphics_memory_bytes
from provisioner.planning.host.gpus import GpuVerdict, gpus_of

# Of a model's name only what tells models apart: "GA102 [GeForce RTX 3090 Lite Hash Rate]" is an rtx3090.
_BRANDS = re.compile(
    r"advanced micro devices, inc\. \[amd/ati\]"
    r"|\b(nvidia|amd|ati|intel|corporation|geforce|quadro|tesla|radeon|instinct|graphics|generation|lite hash rate"
    r"|rev\. ?\w+|workstation edition|server edition|blackwell)\b",
    re.IGNORECASE,
)
_NVIDIA, _AMD, _AMD_CPU = "10de", "1002", "1022"
# Processors with graphics by their names in the PCI ID list (pciutils/pciids), for listings of the display alone.
_AMD_PROCESSORS = re.compile(
    r"\b(raven|picasso|renoir|lucienne|cezanne|barcelo|rembrandt|raphael|granite ridge|phoenix\d?|hawkpoint\d?"
    r"|hawk point|mendocino|dali|pollock|van ?gogh|strix|krackan|carrizo|kaveri|kabini|stoney)\b",
    re.IGNORECASE,
)
_LONGEST_NAME = 32


def gpu_slots(discovery: Discovery) -> Mapping[str, tuple[GpuSlot, ...]]:
    """Return the slots of each hypervisor whose devices were seen, in address order."""
    names = {mapping.name for mapping in discovery.mappings}
    found: dict[str, tuple[GpuSlot, ...]] = {}
    for hypervisor in discovery.hypervisors:
        if hypervisor.devices is None:
            continue
        facts = _facts(hypervisor)
        slots = []
        for verdict in gpus_of(facts):
            slot = _slot(verdict, facts, hypervisor, discovery, names)
            names.add(slot.name)
            slots.append(slot)
        found[hypervisor.name] = tuple(slots)
    return found


def _facts(hypervisor: HypervisorFound) -> HostFacts:
    devices = hypervisor.devices or ()
    return HostFacts(
        functions={
            device.address: PciFunction(
                device.address, device.class_code, device.name, device.vendor_id, device.device_id
            )
            for device in devices
        },
        groups={device.address: device.iommu_group for device in devices if device.iommu_group is not None},
    )


def _slot(
    verdict: GpuVerdict, facts: HostFacts, hypervisor: HypervisorFound, discovery: Discovery, names: set[str]
) -> GpuSlot:
    card = slot_of(verdict.address)
    naming = [mapping for mapping in discovery.mappings if _gives_out(mapping, hypervisor.name, card)]
    # A mapping that Proxmox finds fault with is still the card's own; one that fits goes before it.
    own = sorted(
        (mapping for mapping in naming if _is_of_one_card(mapping, hypervisor.name)),
        key=lambda mapping: (bool(mapping.problems.get(hypervisor.name)), mapping.name),
    )
    pool = next((mapping for mapping in naming if not own and _is_pool(mapping, hypervisor.name)), None)
    name = own[0].name if own else _free_name(verdict, names)
    users = [guest for guest in discovery.guests if _uses(guest, hypervisor.name, card, naming, pool, discovery)]
    return GpuSlot(
        name=name,
        mapping=pool.name if pool else name,
        is_mapped=bool(own) or pool is not None,
        is_pooled=pool is not None,
        hypervisor=hypervisor.name,
        address=verdict.address,
        title=verdict.name,
        ids=verdict.ids,
        functions=verdict.functions,
        iommu_group=verdict.iommu_group,
        vram_bytes=graphics_memory_bytes(verdict.vendor_id, verdict.device_id, verdict.name),
        is_integrated=_is_integrated(verdict, facts),
        used_by=tuple(guest.vmid for guest in users if not guest.is_ours),
        ours=tuple(guest.vmid for guest in users if guest.is_ours),
        notes=(*_mapping_notes(own[0] if own else pool, naming, verdict, hypervisor), *_group_notes(verdict, facts)),
    )


def _is_integrated(verdict: GpuVerdict, facts: HostFacts) -> bool:
    """It is part of the processor or the board: mostly the one screen that the server has itself."""
    if verdict.vendor_id == _AMD:
        # AMD's sit behind a port of their own, as a card does; but beside them, in one slot, are the processor's
        # security unit and USB, and those bear the processor's vendor. All functions of a card are 1002's.
        mates = (facts.functions or {}).get
        is_beside_cpu = any((mate := mates(each)) and mate.vendor_id == _AMD_CPU for each in verdict.functions)
        return is_beside_cpu or _AMD_PROCESSORS.search(verdict.name) is not None
    # Bus 0 is the chipset's and the processor's own; a card sits behind a port. A server that is itself a guest
    # has its cards there too, so makers of cards are never taken for integrated by their place.
    return slot_of(verdict.address).startswith("0000:00:") and verdict.vendor_id != _NVIDIA


def _gives_out(mapping: MappingFound, hypervisor: str, card: str) -> bool:
    return not mapping.is_mediated and any(card in _cards(paths) for paths in _paths(mapping, hypervisor))


def _is_of_one_card(mapping: MappingFound, hypervisor: str) -> bool:
    paths = _paths(mapping, hypervisor)
    return len(paths) == 1 and len(_cards(paths[0])) == 1 and fits(CONFIG_ID, mapping.name)


def _is_pool(mapping: MappingFound, hypervisor: str) -> bool:
    paths = _paths(mapping, hypervisor)
    return len(paths) > 1 and all(len(_cards(each)) == 1 for each in paths) and fits(CONFIG_ID, mapping.name)


def _paths(mapping: MappingFound, hypervisor: str) -> list[tuple[str, ...]]:
    return [entry.paths for entry in mapping.entries if entry.hypervisor == hypervisor]


def _cards(paths: Iterable[str]) -> set[str]:
    return {slot_of(path) if "." in path else path for path in paths}


def _uses(
    guest: GuestFound,
    hypervisor: str,
    card: str,
    naming: list[MappingFound],
    pool: MappingFound | None,
    discovery: Discovery,
) -> bool:
    if guest.hypervisor != hypervisor or guest.is_template:
        return False
    if any(card in _cards(device.paths) for device in guest.devices):
        return True
    mappings = {mapping.name for mapping in naming if mapping is not pool}
    if any(device.mapping in mappings for device in guest.devices):
        return True
    return pool is not None and guest.vmid in _takers(pool, hypervisor, card, discovery)


def _takers(pool: MappingFound, hypervisor: str, card: str, discovery: Discovery) -> tuple[int, ...]:
    """Return who is counted against a card of a pool.

    A VM gets whichever card is free, so the first card is charged to the first
    VM that names the pool, and so on: as many cards stay free as nobody names.
    """
    cards = [each for paths in _paths(pool, hypervisor) for each in _cards(paths)]
    takers = [
        guest.vmid
        for guest in discovery.guests
        if guest.hypervisor == hypervisor and not guest.is_template
        for device in guest.devices
        if device.mapping == pool.name
    ]
    return tuple(takers[at] for at in range(cards.index(card), len(takers), len(cards)))


def _mapping_notes(
    mapping: MappingFound | None, naming: list[MappingFound], verdict: GpuVerdict, hypervisor: HypervisorFound
) -> Iterable[str]:
    card = slot_of(verdict.address)
    if mapping is not None:
        for problem in mapping.problems.get(hypervisor.name, ()):
            yield f"Proxmox finds fault with mapping {mapping.name} here: {problem}"
        paths = next(each for each in _paths(mapping, hypervisor.name) if card in _cards(each))
        if all("." in path for path in paths) and len(paths) < len(verdict.functions):
            yield (
                f"mapping {mapping.name} gives out {len(paths)} of the card's {len(verdict.functions)} functions; "
                f"give out the whole card: path {card}"
            )
        return
    for each in naming:
        yield f"mapping {each.name} gives out several cards together; a slot is one card with a mapping of its own"
    yield "its mapping does not exist yet; the privileged step makes it (provisioner prepare)"


def _group_notes(verdict: GpuVerdict, facts: HostFacts) -> Iterable[str]:
    if verdict.iommu_group is None:
        state = "the IOMMU is off" if not facts.groups else "it is in no IOMMU group"
        yield f"{state}, so it cannot be passed through: provisioner doctor says what to do"
    elif verdict.foreign_devices:
        mates = ", ".join(_named(mate, facts) for mate in verdict.foreign_devices)
        yield f"shares IOMMU group {verdict.iommu_group} with {mates}: provisioner doctor says what to do"


def _named(address: PciAddress, facts: HostFacts) -> str:
    seen = (facts.functions or {}).get(address)
    return f"{address} {seen.name}" if seen is not None and seen.name else str(address)


def _free_name(verdict: GpuVerdict, names: set[str]) -> str:
    base = model_name(verdict.name) or f"gpu-{verdict.vendor_id}-{verdict.device_id}"
    if not fits(CONFIG_ID, base):
        base = "gpu"
    name, number = base, 1
    while name in names:
        number += 1
        name = f"{base}-{number}"
    return name


def model_name(title: str) -> str | None:
    """Return a short name for a card (``rtx3090``), or None when its title has nothing to make one of."""
    words = _BRANDS.sub(" ", title)
    bracketed = re.findall(r"\[([^\]]+)\]", words)
    # "RX 7900 XT/7900 XTX": one id for several models; the first will do as a name.
    words = (bracketed[-1] if bracketed else words).partition("/")[0]
    name = "".join(re.findall(r"[a-z0-9]+", words.lower()))[:_LONGEST_NAME]
    if name[:1].isdigit():
        name = f"gpu{name}"
    return name if fits(CONFIG_ID, name) else None
