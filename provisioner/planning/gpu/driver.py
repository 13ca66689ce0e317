"""Which driver a node's cards need: the wish of the fleet file against the cards' generations. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.gpu_driver import DEFAULT_BRANCH, DriverChoice, DriverKind, DriverWish, parse_driver
from provisioner.domain.gpu_reading import AMD, NVIDIA
from provisioner.domain.names import HypervisorName
from provisioner.domain.refusal import Refusal
from provisioner.domain.snapshot import MappingSeen
from provisioner.planning.gpu.cards import SUPPORT, Generation, Modules, generation_of

_ID = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})", re.IGNORECASE)

PciIds = tuple[str, str]
"""Vendor and device, in lower case: ``("10de", "2204")``."""


def wish_of(fleet: FleetSpec, node: NodeSpec) -> DriverWish | Refusal:
    """Return what the fleet file says for all of a node's cards together."""
    said = {gpu.driver for gpu in fleet.gpus_of(node)}
    if len(said) > 1:
        return Refusal(
            f"its GPUs want different drivers: {', '.join(sorted(said))}",
            f"write the same driver for all GPUs of {node.name}: a kernel loads one",
        )
    return parse_driver(said.pop()) if said else DriverWish(DriverKind.NONE)


def ids_of_mapping(mapping: MappingSeen, hypervisor: HypervisorName) -> tuple[PciIds, ...]:
    """Return the ids of the cards on one hypervisor that a mapping names: ``node=pve1,path=...,id=10de:2204``."""
    found = []
    for entry in mapping.entries:
        parts = dict(part.split("=", 1) for part in entry.split(",") if "=" in part)
        match = _ID.fullmatch(parts.get("id", ""))
        if parts.get("node") == hypervisor and match:
            found.append((match[1].lower(), match[2].lower()))
    return tuple(found)


def choose_driver(
    wish: DriverWish, cards: Iterable[PciIds], *, secure_boot: bool | None, node: str
) -> DriverChoice | Refusal:
    """Return the one driver for some cards, or why there is none.

    Args:
        wish: what the fleet file says.
        cards: their PCI ids; those that are neither NVIDIA's nor AMD's do not count.
        secure_boot: whether the guest's firmware lets in only signed modules; None while nobody knows.
        node: the node's name, for next steps.
    """
    if wish.kind is DriverKind.NONE:
        return DriverChoice(DriverKind.NONE)
    vendors = {vendor for vendor, _ in cards} & {NVIDIA, AMD}
    if len(vendors) > 1:
        return Refusal("cards of NVIDIA and of AMD in one node", f"give {node} cards of one maker")
    if wish.kind is DriverKind.ROCM and NVIDIA in vendors:
        return Refusal("ROCm is not for cards of NVIDIA", "write driver: auto for the GPU")
    if wish.kind is DriverKind.NVIDIA and AMD in vendors:
        return Refusal(f"driver {wish.branch} is not for cards of AMD", "write driver: auto for the GPU")
    if wish.kind is DriverKind.ROCM or AMD in vendors:
        return _rocm(secure_boot, node)
    if not vendors and wish.kind is None:
        return Refusal(
            "no card of NVIDIA or AMD is in sight, so none can choose a driver",
            "see that the mapping names the card; or write driver: none, or a branch, for the GPU",
        )
    return _nvidia(wish, [device for vendor, device in cards if vendor == NVIDIA], secure_boot, node)


def toolkit_refusal(toolkit: str | None, cards: Iterable[PciIds]) -> Refusal | None:
    """Return why a CUDA toolkit, ``12-9``, builds nothing for some cards; None where it does, or nobody knows."""
    if toolkit is None:
        return None
    for generation in {generation_of(device) for vendor, device in cards if vendor == NVIDIA}:
        last = SUPPORT[generation].last_cuda if generation is not None else None
        if generation is not None and last is not None and int(toolkit.partition("-")[0]) > last:
            return Refusal(
                f"CUDA toolkit {toolkit} builds nothing for cards of generation {generation.value}, which ended with "
                f"CUDA {last}",
                # CUDA 12.9 is the last of 12, with which all generations of today's drivers ended that have ended.
                "write cuda_toolkit: 12-9, or leave it out: no engine that we lay down needs it",
            )
    return None


def _rocm(secure_boot: bool | None, node: str) -> DriverChoice | Refusal:
    if secure_boot:
        return Refusal(
            "AMD's driver is built in the guest, and Secure Boot turns modules without a known signature down",
            f"write secure_boot: false for {node}; that is part of its disk, so the node is made anew",
        )
    return DriverChoice(DriverKind.ROCM)


def _nvidia(wish: DriverWish, devices: Sequence[str], secure_boot: bool | None, node: str) -> DriverChoice | Refusal:
    generations = sorted({found for each in devices if (found := generation_of(each)) is not None}, key=_age)
    names = {each: each.value for each in generations}
    oldest, newest = (generations[0], generations[-1]) if generations else (None, None)
    if oldest is Generation.KEPLER:
        return Refusal(
            f"a card of generation {Generation.KEPLER.value} ended with branch {SUPPORT[oldest].last_branch}, which no "
            "engine of today runs with",
            f"take that GPU away from {node}, or write driver: none and bring your own",
        )
    closed = [each for each in generations if SUPPORT[each].modules is Modules.PROPRIETARY]
    opened = [each for each in generations if SUPPORT[each].modules is Modules.OPEN]
    if closed and opened:
        return Refusal(
            f"{names[closed[0]]} has only the proprietary module and {names[opened[0]]} only the open one, "
            "and a kernel loads one of the two",
            f"give the two cards to two nodes instead of both to {node}",
        )
    branch = wish.branch or DEFAULT_BRANCH
    for each in generations:
        last, first = SUPPORT[each].last_branch, SUPPORT[each].first_branch
        if last is not None and branch > last:
            return Refusal(
                f"driver {branch} ignores cards of generation {each.value}, which ended with branch {last}",
                f"write driver: {last}-server, or auto, for the GPU",
            )
        if branch < first:
            return Refusal(
                f"driver {branch} is older than cards of generation {each.value}, which need {first} or newer",
                f"write driver: {DEFAULT_BRANCH}-server-open, or auto, for the GPU",
            )
    is_open = not closed if wish.is_open is None else wish.is_open
    if is_open and closed:
        return Refusal(
            f"the open module does not drive generation {names[closed[0]]}",
            f"write driver: {branch}-server, or auto, for the GPU",
        )
    if not is_open and opened:
        return Refusal(
            f"the proprietary module does not drive generation {newest.value if newest else '?'}",
            f"write driver: {branch}-server-open, or auto, for the GPU",
        )
    if wish.is_dkms and secure_boot:
        return Refusal(
            "modules that DKMS builds are not signed with a known key, and the node has Secure Boot",
            f"write driver: auto (Ubuntu's prebuilt modules are signed), or secure_boot: false for {node}",
        )
    return DriverChoice(DriverKind.NVIDIA, branch, wish.is_server, is_open, wish.is_dkms)


def _age(generation: Generation) -> int:
    return list(Generation).index(generation)
