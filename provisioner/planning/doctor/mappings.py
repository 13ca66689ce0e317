"""Checks on PCI mappings: are they there, do they fit the hardware, do they hand out whole cards; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from provisioner.domain.fleet import GpuSpec
from provisioner.domain.host import PciAddress
from provisioner.domain.names import MappingId
from provisioner.domain.snapshot import MappingSeen
from provisioner.planning.access import is_held
from provisioner.planning.doctor.facts import DoctorFacts
from provisioner.planning.doctor.mapping_entries import Entry, entry_from, first_function, judged, whole_card
from provisioner.planning.host.gpus import GpuVerdict, gpus_of
from provisioner.planning.host.steps import ok
from provisioner.planning.readiness import Check, CheckStatus

_ACCELERATOR = "12"  # processing accelerators without a screen, such as AMD's MI300X

_WHY = "a token may only pass a GPU through by its PCI mapping, and Proxmox compares it with the hardware at each start"


def mappings_fit(facts: DoctorFacts) -> list[Check]:
    """Each GPU of the fleet file needs a mapping that names the device as it is now."""
    if facts.api is None or facts.api.mappings is None:
        return []
    return [_mapping(facts, facts.api.mappings, gpu) for gpu in facts.hypervisor.gpus.values()]


def own_entries(facts: DoctorFacts, seen: MappingSeen) -> tuple[Entry, ...]:
    """Return a mapping's entries for the hypervisor in question."""
    entries = map(entry_from, seen.entries)
    return tuple(entry for entry in entries if entry.node == facts.hypervisor.name)


def mapped_addresses(facts: DoctorFacts) -> Mapping[PciAddress, str]:
    """Return which device each GPU of the fleet is, as far as the mappings tell: address -> the GPU's name."""
    mappings = (facts.api.mappings if facts.api is not None else None) or {}
    return {
        first_function(path): gpu.name
        for gpu in facts.hypervisor.gpus.values()
        if (seen := mappings.get(gpu.mapping)) is not None
        for entry in own_entries(facts, seen)
        for path in entry.paths
    }


def used_addresses(facts: DoctorFacts) -> frozenset[PciAddress] | None:
    """Return the devices that the fleet uses; None while a mapping is missing, for then it may be any card."""
    found = mapped_addresses(facts)
    return frozenset(found) if set(found.values()) == set(facts.hypervisor.gpus) else None


def _mapping(facts: DoctorFacts, mappings: Mapping[MappingId, MappingSeen], gpu: GpuSpec) -> Check:
    id_, name = f"mapping_{gpu.name}", gpu.mapping
    seen = mappings.get(name)
    if seen is None:
        return _absent(facts, mappings, id_, name)
    entries = own_entries(facts, seen)
    if not entries and seen.entries:
        return _for_others(facts, mappings, id_, seen)
    judgements = [judged(entry, facts.host) for entry in entries]
    differences = [text for judgement in judgements for text in judgement.differences]
    left_behind = [address for judgement in judgements for address in judgement.omissions]
    corrected = [judgement.corrected or entry for entry, judgement in zip(entries, judgements, strict=True)]
    is_mended = any(judgement.corrected for judgement in judgements)
    step = _set(facts, seen, corrected) if is_mended else "edit the mapping so that it names the device as it is now"
    if differences or seen.errors:
        words = "; ".join(differences or seen.errors)
        found = f'PCI mapping "{name}" does not fit {facts.hypervisor.name}: {words}'
        if any("iommugroup" in text and text.endswith("none") for text in differences):
            step = "turn the IOMMU on first (see the check iommu), then run doctor again for the right group"
        elif not is_mended and _is_about_mdev(seen):
            step = _set(facts, seen, entries, mediated=not seen.is_mediated)
        return Check(id_, CheckStatus.FAIL, found, _WHY, step)
    if left_behind:
        found = f'PCI mapping "{name}" hands out {entries[0].paths[0]} without {", ".join(left_behind)}'
        why = "a card's other functions are taken from the host all the same, and some drivers miss them in the guest"
        return Check(id_, CheckStatus.WARN, found, why, step)
    if twin := _same_device(facts, mappings, gpu, entries):
        found = f'PCI mapping "{name}" hands out the same card as "{twin}"'
        step = "one GPU slot for each card: give one of them another card, or remove it from the fleet file"
        why = "Proxmox starts only one VM with a card, and we would count on two"
        return Check(id_, CheckStatus.WARN, found, why, step)
    return _fits(facts, id_, seen, entries)


def _fits(facts: DoctorFacts, id_: str, seen: MappingSeen, entries: Sequence[Entry]) -> Check:
    functions = facts.host.functions or {}
    for entry in entries:
        cards = [functions[address] for path in entry.paths if (address := first_function(path)) in functions]
        if cards and not any(card.is_display or (card.class_code or "").startswith(_ACCELERATOR) for card in cards):
            found = f'PCI mapping "{seen.mapping}" names {cards[0].address} {cards[0].name}, which is no GPU'
            return Check(id_, CheckStatus.WARN, found, "a node expects a GPU from it", "map the card that is meant")
    paths = [path for entry in entries for path in entry.paths]
    named = ", ".join(f"{path} {_name_at(facts, path)}".strip() for path in paths)
    return ok(id_, f'PCI mapping "{seen.mapping}" fits{f": {named}" if named else ""}', _WHY)


def _name_at(facts: DoctorFacts, path: str) -> str:
    function = (facts.host.functions or {}).get(first_function(path))
    return function.name if function is not None else ""


def _absent(facts: DoctorFacts, mappings: Mapping[MappingId, MappingSeen], id_: str, name: MappingId) -> Check:
    path = f"/mapping/pci/{name}"
    permissions = facts.api.permissions if facts.api is not None else {}
    may_see = any(is_held(permissions, path, f"Mapping.{what}") for what in ("Use", "Audit", "Modify"))
    cards = _proposals(facts, mappings)
    create = "; or ".join(f"`pvesh create /cluster/mapping/pci --id {name} --map {entry}`" for entry in cards)
    as_root = f": as root {create}" if create else " (Datacenter > Resource Mappings > PCI, all functions of the card)"
    if may_see:
        found = f'there is no PCI mapping "{name}"'
        return Check(id_, CheckStatus.FAIL, found, _WHY, f"create it{as_root}")
    found = f'no PCI mapping "{name}" in sight, and the token may not see it'
    return Check(id_, CheckStatus.FAIL, found, _WHY, f"give the token Mapping.Use on {path}; if there is none{as_root}")


def _for_others(facts: DoctorFacts, mappings: Mapping[MappingId, MappingSeen], id_: str, seen: MappingSeen) -> Check:
    others = [entry_from(text) for text in seen.entries]
    nodes = ", ".join(dict.fromkeys(entry.node for entry in others))
    found = f'PCI mapping "{seen.mapping}" has no entry for {facts.hypervisor.name}, only for {nodes}'
    models = {entry.parts.get("id", "").lower() for entry in others}
    cards = _proposals(facts, mappings)
    # One mapping stands for cards that can take each other's place.
    alike = [card for card in cards if card.parts.get("id") in models] or cards
    steps = [_set(facts, seen, [card]) for card in alike[:3]]
    step = "; or ".join(steps) or f"add an entry for {facts.hypervisor.name} (Datacenter > Resource Mappings)"
    return Check(id_, CheckStatus.FAIL, found, _WHY, step)


def _proposals(facts: DoctorFacts, mappings: Mapping[MappingId, MappingSeen]) -> list[Entry]:
    """Return entries for the cards that no mapping in sight hands out yet."""
    taken = {slot for seen in mappings.values() for entry in own_entries(facts, seen) for slot in entry.slots}
    free: list[GpuVerdict] = [gpu for gpu in gpus_of(facts.host) if gpu.address.partition(".")[0] not in taken]
    entries = (whole_card(facts.hypervisor.name, gpu.address, facts.host) for gpu in free)
    return [entry for entry in entries if entry is not None]


def _same_device(
    facts: DoctorFacts, mappings: Mapping[MappingId, MappingSeen], gpu: GpuSpec, entries: Iterable[Entry]
) -> str | None:
    own = {first_function(path) for entry in entries for path in entry.paths}
    for other in facts.hypervisor.gpus.values():
        seen = mappings.get(other.mapping)
        if other.mapping == gpu.mapping or seen is None:
            continue
        if own & {first_function(path) for entry in own_entries(facts, seen) for path in entry.paths}:
            return other.mapping
    return None


def _is_about_mdev(seen: MappingSeen) -> bool:
    return any("mdev" in text for text in seen.errors)


def _set(facts: DoctorFacts, seen: MappingSeen, entries: Iterable[Entry], *, mediated: bool | None = None) -> str:
    """Return the command that mends a mapping. It replaces all entries, so those of other hypervisors are in it."""
    others = [entry for entry in map(entry_from, seen.entries) if entry.node != facts.hypervisor.name]
    maps = " ".join(f"--map '{entry}'" for entry in (*others, *entries))
    option = "" if mediated is None else f" --mdev {int(mediated)}"
    return f"as root: `pvesh set /cluster/mapping/pci/{seen.mapping} {maps}{option}`"
