"""A PCI mapping's entry beside the hardware it names: what differs, and how it should read; pure.

Proxmox compares id, group and subsystem as text, lower case, with what the
kernel shows, and refuses a VM's start where they differ or are left out; it
accepts such an entry without a word when it is made (pve-guest-common,
src/PVE/Mapping/PCI.pm). For a path without a function it looks at function 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from provisioner.domain.host import HostFacts, PciAddress, PciFunction, Source, slot_of
from provisioner.domain.names import HypervisorName
from provisioner.planning.host.gpus import physical_function

_WRITTEN = ("node", "path", "id", "iommugroup", "subsystem-id", "description")
_COMPARED = ("id", "iommugroup", "subsystem-id")


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``map`` entry, taken apart."""

    parts: Mapping[str, str]

    @property
    def node(self) -> str:
        """The hypervisor it is for."""
        return self.parts.get("node", "")

    @property
    def paths(self) -> tuple[str, ...]:
        """The devices it hands out together."""
        return tuple(path for path in self.parts.get("path", "").split(";") if path)

    @property
    def slots(self) -> frozenset[str]:
        """The slots that it takes something of."""
        return frozenset(path.partition(".")[0].lower() for path in self.paths)

    def __str__(self) -> str:
        known = [f"{key}={self.parts[key]}" for key in _WRITTEN if key in self.parts]
        return ",".join([*known, *(f"{key}={value}" for key, value in self.parts.items() if key not in _WRITTEN)])


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is wrong with an entry, what it leaves out, and how it should read as far as the hardware tells."""

    differences: tuple[str, ...] = ()
    omissions: tuple[str, ...] = ()
    corrected: Entry | None = None


def entry_from(text: str) -> Entry:
    """Take an entry apart."""
    pairs = (part.partition("=") for part in text.split(","))
    return Entry({key.strip(): value.strip() for key, _, value in pairs if key.strip()})


def whole_card(node: HypervisorName, address: PciAddress, host: HostFacts) -> Entry | None:
    """Return the entry that maps all functions of a card; None while its id or group is unknown."""
    function, group = (host.functions or {}).get(address), (host.groups or {}).get(address)
    if function is None or function.ids is None or group is None:
        return None
    parts = {"node": str(node), "path": slot_of(address), "id": function.ids, "iommugroup": str(group)}
    return Entry({**parts, "subsystem-id": function.subsystem_id} if function.subsystem_id else parts)


def judged(entry: Entry, host: HostFacts) -> Judgement:
    """Hold an entry against the hardware. Without a listing of the hardware nothing is known, so nothing is wrong."""
    if not entry.paths:
        return Judgement(("its entry names no device",))
    if not host.functions:
        return Judgement()
    gone = [path for path in entry.paths if first_function(path) not in host.functions]
    if gone:
        return Judgement((f"there is no device at {' or '.join(gone)}",), (), _moved(entry, host))
    functions = [host.functions[first_function(path)] for path in entry.paths]
    actual = _actual(functions[0], host)
    differences = list(_differences(entry, actual, _COMPARED, ""))
    for function in functions[1:]:
        # Each of several devices must have the same ids; the group is compared for the first alone.
        differences += _differences(entry, _actual(function, host), ("id", "subsystem-id"), f" of {function.address}")
    omissions = _left_behind(entry, functions[0], host)
    if not differences and not omissions:
        return Judgement()
    is_one_card = len({function.slot for function in functions}) == 1
    if len(functions) > 1 and not is_one_card:
        return Judgement(tuple(differences), omissions)
    return Judgement(
        tuple(differences), omissions, _corrected(entry, actual, is_whole=bool(omissions) or len(functions) > 1)
    )


def first_function(path: str) -> PciAddress:
    """Return the function that Proxmox looks at for a path."""
    return PciAddress(path.lower() if "." in path else f"{path.lower()}.0")


def _actual(function: PciFunction, host: HostFacts) -> dict[str, str | None]:
    """Return what an entry must say of a device; a key that nobody knows is left out, None means "nothing"."""
    found: dict[str, str | None] = {}
    if function.ids is not None:
        found["id"] = function.ids
    if host.groups is not None:
        group = host.groups.get(function.address)
        found["iommugroup"] = None if group is None else str(group)
    # The API shows a subsystem wherever there is one; other listings may have left it out.
    if function.subsystem_id is not None or Source.API in host.sources:
        found["subsystem-id"] = function.subsystem_id
    return found


def _differences(entry: Entry, actual: Mapping[str, str | None], keys: Iterable[str], of: str) -> Iterator[str]:
    for key in keys:
        said = entry.parts.get(key)
        if key not in actual or said == actual[key]:
            continue
        wanted = actual[key]
        if said is not None and said.lower() == wanted:
            yield f"{key} is written {said}, and must be lower case: {wanted}"
        else:
            yield f"{key}{of}: the entry says {said or 'nothing'}, the device has {wanted or 'none'}"


def _left_behind(entry: Entry, function: PciFunction, host: HostFacts) -> tuple[str, ...]:
    """Return the card's other functions (sound, USB) when the entry hands out its first function alone."""
    taken = {first_function(path) for path in entry.paths if "." in path}
    is_first_alone = "." in entry.paths[0] and function.address.endswith(".0") and function.is_display
    if not is_first_alone or physical_function(function, host) is not None:
        return ()
    functions = (host.functions or {}).values()
    mates = [one for one in functions if one.slot == function.slot and one.address not in taken]
    # Further display functions of a slot are virtual functions, which are not part of the card as it is mapped.
    return tuple(mate.address for mate in mates if not mate.is_display)


def _corrected(entry: Entry, actual: Mapping[str, str | None], *, is_whole: bool) -> Entry | None:
    if "iommugroup" in actual and actual["iommugroup"] is None:
        return None  # the IOMMU is off: what the group will be shows when it is on
    parts = {key: value for key, value in entry.parts.items() if key not in _COMPARED}
    parts |= {key: entry.parts[key] for key in _COMPARED if key not in actual and key in entry.parts}
    parts |= {key: value for key, value in actual.items() if value is not None}
    if is_whole:
        parts["path"] = ";".join(dict.fromkeys(path.partition(".")[0] for path in entry.paths))
    return Entry(parts)


def _moved(entry: Entry, host: HostFacts) -> Entry | None:
    """Return the entry for the one device that answers to the ids of one that is gone."""
    if len(entry.paths) != 1 or "id" not in entry.parts:
        return None
    ids, subsystem = entry.parts["id"].lower(), entry.parts.get("subsystem-id", "").lower()
    alike = [one for one in (host.functions or {}).values() if one.ids == ids and one.address.endswith(".0")]
    if len(alike) > 1:
        alike = [one for one in alike if one.subsystem_id == subsystem]
    if len(alike) != 1:
        return None
    (found,) = alike
    path = found.address if "." in entry.paths[0] else found.slot
    return _corrected(Entry({**entry.parts, "path": path}), _actual(found, host), is_whole=False)
