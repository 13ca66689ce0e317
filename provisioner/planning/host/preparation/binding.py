"""Keeping the host's drivers off the cards that are for guests, from boot on; pure.

Proxmox binds a card to vfio-pci when its VM starts. Binding it earlier is
worth a change only where a driver of the host has taken the card already.
By `ids=` where these ids are the card's alone; by slot where the host keeps
another device with the same ids, or where somebody else's `ids=` would be
overruled by ours (a module parameter given twice counts once).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provisioner.domain.host import VFIO_DRIVER, HostFacts, PciAddress, PciFunction, address_order, slot_of
from provisioner.domain.host_files import HostState, Refresh
from provisioner.domain.host_preparation import FileChange
from provisioner.planning.host.drivers import vfio_claims

MODPROBE_FILE = "/etc/modprobe.d/provisioner-vfio.conf"
# Before `udev` in the order that tsort gives scripts without prerequisites, which is that of their names
# (initramfs-tools, hook-functions: cache_run_scripts); udev is what loads drivers.
SCRIPT_FILE = "/etc/initramfs-tools/scripts/init-top/provisioner-vfio"

# Modules that may take a card of that vendor. One that is not installed does no harm in a softdep.
_DISPLAY_MODULES = {
    "10de": ("nouveau", "nvidia", "nvidia_drm", "nvidiafb"),
    "1002": ("amdgpu", "radeon"),
    "8086": ("i915", "xe"),
}
_AUDIO_MODULES = ("snd_hda_intel",)
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU of the fleet as it stands in the server: all functions of its slots, bridges aside."""

    name: str
    functions: tuple[PciFunction, ...]

    @property
    def address(self) -> PciAddress:
        """Its first function."""
        return self.functions[0].address

    @property
    def held(self) -> tuple[PciFunction, ...]:
        """Picture and sound functions that a driver of the host has.

        Drivers of the others (USB) are built into the kernel and are there
        before anything of ours; Proxmox takes such functions at the VM's start.
        """
        return tuple(
            each
            for each in self.functions
            if each.driver not in (None, VFIO_DRIVER) and (each.is_display or each.is_audio)
        )

    @property
    def pairs(self) -> tuple[str, ...]:
        """Its functions' ids, such as `10de:2204`."""
        return tuple(dict.fromkeys(pair_of(each) for each in self.functions))


@dataclass(frozen=True, slots=True)
class Claims:
    """What our own files claim already."""

    ids: frozenset[str]
    addresses: frozenset[str]
    drivers: tuple[str, ...]
    blacklisted: tuple[str, ...]

    def hold(self, card: Card) -> bool:
        """Say whether an earlier run bound this card."""
        return card.address in self.addresses or not self.ids.isdisjoint(card.pairs)

    def go_beyond(self, cards: Sequence[Card]) -> bool:
        """Say whether an earlier run bound anything that is not among these cards."""
        pairs = {pair for card in cards for pair in card.pairs}
        addresses = {each.address for card in cards for each in card.functions}
        return not (self.ids <= pairs and self.addresses <= addresses)


def cards_of(facts: HostFacts, slots_by_gpu: Mapping[str, tuple[str, ...]]) -> tuple[Card, ...]:
    """Return the fleet's GPUs with the functions that the PCI listing shows, ids and all, for their slots."""
    cards = []
    for name, slots in slots_by_gpu.items():
        wanted = {slot_of(slot) if "." in slot else slot for slot in slots}
        functions = [
            each
            for each in sorted((facts.functions or {}).values(), key=lambda one: address_order(one.address))
            if each.slot in wanted and each.is_bridge is not True and each.vendor_id and each.device_id
        ]
        if functions:
            cards.append(Card(name, tuple(functions)))
    return tuple(cards)


def pair_of(function: PciFunction) -> str:
    """Return a function's ids as `10de:2204`."""
    return f"{function.vendor_id}:{function.device_id}"


def our_claims(state: HostState) -> Claims:
    """Read back what our own files say."""
    text, script = state.text(MODPROBE_FILE) or "", state.text(SCRIPT_FILE) or ""
    ids = re.findall(r"^options vfio-pci ids=(\S+)$", text, re.MULTILINE)
    return Claims(
        ids=frozenset(pair for each in ids for pair in each.split(",")),
        addresses=frozenset(re.findall(r"^take (\S+) ", script, re.MULTILINE)),
        drivers=tuple(re.findall(r"^softdep (\S+) pre: vfio-pci$", text, re.MULTILINE)),
        blacklisted=tuple(re.findall(r"^blacklist (\S+)$", text, re.MULTILINE)),
    )


def binding_files(facts: HostFacts, state: HostState, cards: Sequence[Card], *, had_its_boot: bool) -> list[FileChange]:
    """Return our two files as they should be for these cards, where they differ from what is there.

    Args:
        facts: the hypervisor's.
        state: its files.
        cards: those to bind early.
        had_its_boot: our files, as they are, were there when this system was started.
    """
    claims = our_claims(state)
    foreign = {pair for place, pair in vfio_claims(facts) if place != MODPROBE_FILE}
    by_slot, by_ids, reasons = [], [], []
    for card in cards:
        if twins := _twins(facts, card, cards):
            reasons.append(f"{card.name} by its slot, for the host keeps {', '.join(twins)}, which has the same ids")
        elif foreign:
            if foreign.issuperset(card.pairs) and not card.held and card.address not in claims.addresses:
                continue  # the admin's own ids= do it
            reasons.append(f"{card.name} by its slot, for ids= is set elsewhere, and a second one would overrule it")
        else:
            by_ids.append(card)
            continue
        by_slot.append(card)
    texts = {
        MODPROBE_FILE: _modprobe(facts, by_ids, claims, had_its_boot=had_its_boot) if by_ids else None,
        SCRIPT_FILE: _script(by_slot) if by_slot else None,
    }
    why = {
        MODPROBE_FILE: f"a driver of the host takes {_names(by_ids)} before a VM can; vfio-pci comes first with this",
        SCRIPT_FILE: "; ".join(reasons),
    }
    modes = {MODPROBE_FILE: "0644", SCRIPT_FILE: "0755"}
    return [
        FileChange(
            path,
            state.text(path),
            text,
            why[path] if text is not None else "no card of the fleet is bound this way any more",
            modes[path],
            refresh=(Refresh.INITRAMFS,),
        )
        for path, text in texts.items()
        if text != state.text(path)
    ]


def _names(cards: Sequence[Card]) -> str:
    return " and ".join(f"{card.name} ({card.address})" for card in cards)


def _twins(facts: HostFacts, card: Card, cards: Sequence[Card]) -> list[PciAddress]:
    """Return devices that share an id with the card and are not for guests."""
    given = {each.address for one in cards for each in one.functions}
    others = (each for each in (facts.functions or {}).values() if each.address not in given)
    return sorted((each.address for each in others if pair_of(each) in card.pairs), key=address_order)


def _modprobe(facts: HostFacts, cards: Sequence[Card], claims: Claims, *, had_its_boot: bool) -> str:
    ids = dict.fromkeys(pair for card in cards for pair in card.pairs)
    modules: dict[str, None] = {}
    for function in (each for card in cards for each in card.functions):
        if function.is_display:
            modules |= dict.fromkeys(_DISPLAY_MODULES.get(function.vendor_id or "", ()))
        elif function.is_audio:
            modules |= dict.fromkeys(_AUDIO_MODULES)
    held = [each for card in cards for each in card.held]
    modules |= dict.fromkeys(each.driver for each in held if each.driver and _NAME.fullmatch(each.driver))
    is_same = claims.ids == ids.keys()
    if is_same:
        # Who had the card before is no longer seen once vfio-pci has it.
        modules |= dict.fromkeys(claims.drivers)
    blacklisted = list(claims.blacklisted) if is_same else []
    if is_same and had_its_boot:
        blacklisted += [driver for driver in _too_fast(facts, held, cards) if driver not in blacklisted]
    lines = [
        "# Written by `provisioner prepare`; `provisioner prepare --undo` takes it away.",
        *(f"# {card.name}: {', '.join(each.address for each in card.functions)}" for card in cards),
        f"options vfio-pci ids={','.join(ids)}",
        *(f"softdep {module} pre: vfio-pci" for module in modules),
        *(f"blacklist {driver}" for driver in blacklisted),
    ]
    return "\n".join(lines) + "\n"


def _too_fast(facts: HostFacts, held: Sequence[PciFunction], cards: Sequence[Card]) -> list[str]:
    """Return drivers that had a card in spite of their softdep, and that nothing else of the host needs."""
    given = {each.address for card in cards for each in card.functions}
    in_use = {each.driver for each in (facts.functions or {}).values() if each.address not in given}
    drivers = dict.fromkeys(each.driver for each in held if each.driver and each.driver not in in_use)
    return [driver for driver in drivers if _NAME.fullmatch(driver)]


def _script(cards: Sequence[Card]) -> str:
    takes = [f"take {each.address} 0x{each.vendor_id} 0x{each.device_id}" for card in cards for each in card.functions]
    return "\n".join(
        [
            "#!/bin/sh",
            "# Written by `provisioner prepare`; `provisioner prepare --undo` takes it away.",
            "# Runs in the initramfs before udev loads drivers: only vfio-pci may take these functions, and only",
            "# while they are the devices they were.",
            *(f"# {card.name}" for card in cards),
            'if [ "$1" = prereqs ]; then',
            "    echo",
            "    exit 0",
            "fi",
            "",
            "take() {",
            "    device=/sys/bus/pci/devices/$1",
            '    [ -e "$device/driver_override" ] || return 0',
            '    read -r vendor < "$device/vendor"',
            '    read -r id < "$device/device"',
            '    if [ "$vendor $id" = "$2 $3" ]; then',
            '        echo vfio-pci > "$device/driver_override"',
            "    fi",
            "}",
            "",
            *takes,
            "",
        ]
    )
