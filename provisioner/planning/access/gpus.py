"""The steps that map a fleet's GPUs; pure.

A mapping holds a whole slot: the GPU with its audio and other functions, as one
device. Proxmox starts a VM only if what the entry says of the card's first
function (ids, group, subsystem) is what the server shows, so everything the
server shows is written down.

Which card is which GPU is told by its name, or because no choice is left.
Where neither helps, the person says it; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from provisioner.domain.access import MARK, AccessSeen, AccessWanted, MapEntry, MappableDevice, PciMapping
from provisioner.domain.access_plan import AccessStep, Obstacle
from provisioner.domain.fleet import GpuSpec, HypervisorSpec
from provisioner.domain.names import GpuName, HypervisorName, MappingId
from provisioner.planning.host.gpus import MANAGEMENT_VENDORS

_GPU_CLASSES = ("03", "12")  # display controllers; processing accelerators, such as AMD's MI300X
_SLOT = re.compile(r"(?:(?P<domain>[0-9a-f]{4,}):)?(?P<slot>[0-9a-f]{2}:[0-9a-f]{2})(?:\.[0-9a-f])?")


@dataclass(frozen=True, slots=True)
class _Choice:
    """The cards of one GPU on one server, and how we know."""

    cards: tuple[MappableDevice, ...]
    reason: str


def mapping_steps(seen: AccessSeen, wanted: AccessWanted) -> tuple[tuple[AccessStep, ...], tuple[Obstacle, ...]]:
    """Return a step for every mapping that is missing or no longer fits, and what stands in the way."""
    entries: dict[MappingId, dict[HypervisorName, tuple[MappableDevice, ...]]] = {}
    reasons: dict[MappingId, list[str]] = {}
    obstacles: list[Obstacle] = []
    for server in wanted.fleet.hypervisors.values():
        if server.cluster != wanted.cluster.name:
            continue
        chosen, in_the_way = _choices(seen, wanted, server)
        obstacles += in_the_way
        for gpu, choice in chosen.items():
            mapping = server.gpus[gpu].mapping
            by_server = entries.setdefault(mapping, {})
            by_server[server.name] = (*by_server.get(server.name, ()), *choice.cards)
            reasons.setdefault(mapping, []).append(f"{_cards_text(choice.cards)} of {server.name}, {choice.reason}")
    steps = (
        _step(name, seen.mappings.get(name), by_server, "; ".join(reasons[name])) for name, by_server in entries.items()
    )
    return tuple(steps), tuple(obstacles)


def entry_for(server: HypervisorName, card: MappableDevice) -> MapEntry:
    """Return the entry that makes a whole slot available on a server."""
    parts = {
        "node": str(server),
        "path": card.slot,
        "id": f"{card.vendor}:{card.device}",
        "iommugroup": str(card.iommu_group),
    }
    return MapEntry({**parts, "subsystem-id": card.subsystem} if card.subsystem else parts)


def cards_of(devices: Iterable[MappableDevice]) -> tuple[MappableDevice, ...]:
    """Return the first function of every slot with a GPU in it, in address order."""
    devices = list(devices)
    slots = {
        device.slot
        for device in devices
        if device.class_code.startswith(_GPU_CLASSES) and device.vendor not in MANAGEMENT_VENDORS
    }
    return tuple(
        sorted(
            (device for device in devices if device.slot in slots and device.address.endswith(".0")),
            key=lambda device: device.address,
        )
    )


def _choices(
    seen: AccessSeen, wanted: AccessWanted, server: HypervisorSpec
) -> tuple[dict[GpuName, _Choice], list[Obstacle]]:
    obstacles: list[Obstacle] = []
    gpus: list[GpuSpec] = []
    sharing: dict[MappingId, list[GpuSpec]] = {}
    for gpu in server.gpus.values():
        sharing.setdefault(gpu.mapping, []).append(gpu)
    for name, group in sharing.items():
        asked = [slot for gpu in group for slot in wanted.gpu_slots.get((server.name, gpu.name), ())]
        standing = _standing(name, seen.mappings.get(name), server.name, asked, len(group))
        if isinstance(standing, Obstacle):
            obstacles.append(standing)
        elif not standing:
            gpus += group
    if not gpus:
        return {}, obstacles
    devices = seen.devices.get(server.name)
    if devices is None:
        names = ", ".join(gpu.name for gpu in gpus)
        found = f"server {server.name} does not answer, so its cards cannot be mapped ({names})"
        return {}, [*obstacles, Obstacle(found, "start it, then run the same command again")]
    chosen, puzzles = _told(seen, wanted, server.name, gpus, _free_cards(seen, server.name, gpus, devices))
    obstacles += puzzles
    for gpu_name, choice in list(chosen.items()):
        if any(card.iommu_group < 0 for card in choice.cards):
            del chosen[gpu_name]
            found = f"GPU {gpu_name}: {server.name} shows no IOMMU group for {_cards_text(choice.cards)}"
            step = "turn the IOMMU on (firmware setup, kernel command line), reboot, then run the same command again"
            obstacles.append(Obstacle(found, step))
    # A pool is written whole or not at all: half of one would be written again by every next run.
    whole = {name for name, group in sharing.items() if all(gpu.name in chosen for gpu in group)}
    return {gpu: choice for gpu, choice in chosen.items() if server.gpus[gpu].mapping in whole}, obstacles


def _standing(
    name: MappingId, mapping: PciMapping | None, server: HypervisorName, asked: Sequence[str], gpus: int
) -> bool | Obstacle:
    """Say whether a mapping for so many GPUs stands as it is, or why it is left as it is though it does not."""
    entries = [entry for entry in mapping.entries if entry.node == server] if mapping is not None else []
    problems = mapping.problems.get(server, ()) if mapping is not None else ()
    slots = {slot for entry in entries for slot in entry.slots}
    said = {full_slot(slot) for slot in asked}
    is_as_asked = said <= slots and (gpus > 1 or not said or said == slots)
    if entries and not problems and is_as_asked and len(entries) >= gpus:
        return True
    if mapping is None or mapping.is_ours:
        return False
    if not entries:
        what = f"has no entry for {server}"
    elif problems:
        what = f"does not fit {server}: {'; '.join(problems)}"
    else:
        what = f"holds {', '.join(sorted(slots))} of {server}" + (f", for {gpus} GPU slots" if gpus > 1 else "")
    return Obstacle(
        f"PCI mapping {name} is not of our making and {what}",
        f"mend it (Datacenter > Resource Mappings > {name}), or delete it and run the same command again",
    )


def _free_cards(
    seen: AccessSeen, server: HypervisorName, open_gpus: Sequence[GpuSpec], devices: Iterable[MappableDevice]
) -> list[MappableDevice]:
    """Return the cards that no mapping holds, but for those that are about to be written anew."""
    mine = {gpu.mapping for gpu in open_gpus}
    taken = {
        slot
        for name, mapping in seen.mappings.items()
        if name not in mine
        for entry in mapping.entries
        if entry.node == server
        for slot in entry.slots
    }
    return [card for card in cards_of(devices) if card.slot not in taken]


def _told(
    seen: AccessSeen, wanted: AccessWanted, server: HypervisorName, gpus: Sequence[GpuSpec], free: list[MappableDevice]
) -> tuple[dict[GpuName, _Choice], list[Obstacle]]:
    """Tell which card is which GPU: as said, where it was, by name, or because no choice is left."""
    found: dict[GpuName, _Choice] = {}
    puzzles: list[Obstacle] = []
    left = list(gpus)

    def settle(gpu: GpuSpec, cards: Sequence[MappableDevice], reason: str) -> None:
        found[gpu.name] = _Choice(tuple(cards), reason)
        left.remove(gpu)
        free[:] = [card for card in free if card not in cards]

    for gpu in gpus:
        asked = wanted.gpu_slots.get((server, gpu.name))
        cards = [card for slot in asked or () for card in free if card.slot == full_slot(slot)]
        if asked is not None and len(cards) == len(asked):
            settle(gpu, cards, "as you said")
        elif asked is not None:
            left.remove(gpu)
            said = f"GPU {gpu.name}: no unmapped card at {' and '.join(asked)} on {server}"
            puzzles.append(Obstacle(said, f"say one of these: {_cards_text(free) or 'there is none'}"))
    for gpu in list(left):
        # A card that changed its group, say, is still the card at that address.
        before = [entry for entry in _entries(seen, gpu.mapping) if entry.node == server]
        cards = [card for entry in before for card in free if _is_same_card(entry, card)]
        if gpu.pool:
            cards, before = cards[:1], before[:1]
        if before and len(cards) == len(before):
            settle(gpu, cards, "where it was")
    for pattern in dict.fromkeys(name_pattern(gpu.name) for gpu in left):
        of_name = [gpu for gpu in left if name_pattern(gpu.name) == pattern]
        cards = [card for card in free if re.search(pattern, card.name, re.IGNORECASE)]
        # Several identical cards for as many GPUs: which is which is nobody's concern, so by address.
        if len(cards) == len(of_name) and _are_alike(cards):
            for gpu, card in zip(of_name, cards, strict=True):
                settle(gpu, [card], "by its name")
    if len(left) == len(free) and _are_alike(free):
        reason = "the only one left" if len(free) == 1 else "all alike, by address"
        for gpu, card in zip(list(left), list(free), strict=True):
            settle(gpu, [card], reason)
    return found, [*puzzles, *(_puzzle(gpu, free, server) for gpu in left)]


def _entries(seen: AccessSeen, mapping: MappingId) -> tuple[MapEntry, ...]:
    return seen.mappings[mapping].entries if mapping in seen.mappings else ()


def _is_same_card(entry: MapEntry, card: MappableDevice) -> bool:
    return entry.slots == (card.slot,) and entry.parts.get("id") == f"{card.vendor}:{card.device}"


def _are_alike(cards: Sequence[MappableDevice]) -> bool:
    return len({(card.vendor, card.device) for card in cards}) == 1


def name_pattern(name: str) -> str:
    """Return what to look for in a card's name: ``rtx3090-2`` finds ``GeForce RTX 3090``."""
    pieces = re.findall(r"[a-z]+|\d+", re.sub(r"[-_]\d{1,2}$", "", name.lower()))
    return r"(?<![a-z0-9])" + r"[\s_-]*".join(map(re.escape, pieces)) + r"(?![a-z0-9])"


def _puzzle(gpu: GpuSpec, cards: Sequence[MappableDevice], server: HypervisorName) -> Obstacle:
    if not cards:
        return Obstacle(
            f"GPU {gpu.name}: {server} has no card without a mapping", f"remove {gpu.name} from the fleet file"
        )
    return Obstacle(
        f"GPU {gpu.name}: which card of {server} it is cannot be told: {_cards_text(cards)}",
        f"say which: provisioner prepare {server} --gpu {gpu.name}={cards[0].slot}",
    )


def _step(
    name: MappingId, existing: PciMapping | None, cards: Mapping[HypervisorName, tuple[MappableDevice, ...]], why: str
) -> AccessStep:
    ours = [entry_for(server, card) for server, each in cards.items() for card in each]
    mediated = any(card.has_mediated_types for each in cards.values() for card in each)
    # A card that offers mediated devices fits only a mapping that says so, whole card or not.
    options: dict[str, str | int] = {"mdev": 1} if mediated else {}
    if existing is None:
        return AccessStep(
            name=f"create PCI mapping {name}",
            sentence=f"map {why}, with all its functions, as {name}",
            method="POST",
            path="/cluster/mapping/pci",
            parameters={"id": name, "map": tuple(map(str, ours)), "description": MARK, **options},
            needs=(("/mapping/pci", "Mapping.Modify"),),
        )
    kept = [entry for entry in existing.entries if entry.node not in cards]
    return AccessStep(
        name=f"change PCI mapping {name}",
        sentence=f"map {why}, with all its functions, as {name}",
        method="PUT",
        path=f"/cluster/mapping/pci/{name}",
        parameters={"map": tuple(map(str, (*kept, *ours))), **options},
        needs=((f"/mapping/pci/{name}", "Mapping.Modify"),),
        changes=f"{' and '.join(map(str, existing.entries)) or 'nothing'} -> {' and '.join(map(str, (*kept, *ours)))}",
    )


def _cards_text(cards: Iterable[MappableDevice]) -> str:
    return ", ".join(f"{card.slot} {card.name}".strip() for card in cards)


def full_slot(address: str) -> str:
    """Return a slot with its domain: ``0000:01:00`` for ``01:00.0``; anything else comes back as it is."""
    match = _SLOT.fullmatch(address.lower())
    return f"{match['domain'] or '0000'}:{match['slot']}" if match else address
