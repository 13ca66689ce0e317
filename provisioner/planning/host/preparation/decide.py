"""Facts, files and choices -> a Preparation: the command line, modules, early binding, the console's rule; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from provisioner.domain.host import HostFacts, slot_of
from provisioner.domain.host_files import HostState, Refresh
from provisioner.domain.host_preparation import FileChange, HostCommand, HostRefusal, Preparation
from provisioner.planning.host.gpus import gpus_of
from provisioner.planning.host.preparation.binding import (
    MODPROBE_FILE,
    SCRIPT_FILE,
    Card,
    binding_files,
    cards_of,
    our_claims,
)
from provisioner.planning.host.preparation.command_line import CommandLine, command_line
from provisioner.planning.host.preparation.modules import module_files
from provisioner.planning.host.preparation.record import record_with, refresh_commands
from provisioner.planning.host.preparation.words import word_changes
from provisioner.planning.host.steps import GRUB_FILE, SYSTEMD_BOOT_FILE
from provisioner.planning.host.verdict import framebuffer_evidence

_SCREEN = "0300"  # VGA; compute cards (0302) have no output


@dataclass(frozen=True, slots=True)
class HostChoices:
    """What a person chose.

    `slots` are the PCI slots (`0000:01:00`) of each GPU that the fleet has on
    this hypervisor, by the GPU's name; none where its place is not known yet.
    `said` are the GPUs whose slots a person gave.
    """

    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_another_console: bool = False
    binds_early: bool = True
    said: frozenset[str] = frozenset()


def preparation(facts: HostFacts, state: HostState, choices: HostChoices) -> Preparation:
    """Decide what to change. Nothing is guessed: where one reading is not certain, it refuses and says what to do."""
    if not choices.slots:
        note = "the fleet file gives it no GPU, so nothing has to change here"
        return Preparation(commands=_commands((), state), notes=(note,), record=state.record)
    refusals = list(_cannot_write(state))
    cards = cards_of(facts, {name: slots for name, slots in choices.slots.items() if slots})
    unplaced = [name for name in choices.slots if not any(card.name == name for card in cards)]
    refusals += _no_card_there(facts, choices)
    notes = [f"where {name} sits is not known yet, so which driver has it is not looked at" for name in unplaced]
    bound, more_refusals, more_notes = _to_bind(facts, state, cards, choices)
    refusals += more_refusals
    notes += more_notes

    line = command_line(
        facts, state, word_changes(facts, hide_framebuffer=_must_hide_framebuffer(facts, cards, choices))
    )
    notes += line.notes
    refusals += [line.refusal] if line.refusal else []
    had_its_boot = bool(state.record.boot_id) and state.record.boot_id != state.boot_id and not state.refresh_needed
    binding = binding_files(facts, state, bound, had_its_boot=had_its_boot)
    if unplaced and our_claims(state).go_beyond(bound):
        # A card that dropped off its bus, or whose mapping Proxmox could not tell, is not given up.
        binding = []
        notes.append("cards that are bound early stay so until every place is known")
    changes = [*([line.change] if line.change else []), *module_files(facts, state), *binding]
    if had_its_boot and not binding:
        notes += [
            f"{each.driver} keeps {each.address} in spite of it; Proxmox takes it when the VM starts"
            for card in bound
            for each in card.held
        ]
    refusals += _not_ours(state, changes)
    needed = {each for change in changes for each in change.refresh} | set(state.refresh_needed)
    return Preparation(
        files=tuple(changes),
        commands=_commands(changes, state),
        reboot_for=tuple(_reboot_for(state, changes, line, bound, needed)),
        refusals=tuple(refusals),
        notes=tuple(notes),
        record=record_with(state, changes),
        words=line.words,
        bound=tuple(each.address for card in bound for each in card.functions if each.is_display or each.is_audio),
    )


def _no_card_there(facts: HostFacts, choices: HostChoices) -> list[HostRefusal]:
    cards = {each.slot for each in (facts.functions or {}).values() if each.is_display}
    return [
        HostRefusal(
            f"{name} is said to be at {slot}, and the server shows no graphics card there",
            f"provisioner doctor lists the cards; say where it is with --gpu {name}=SLOT, or leave --gpu out",
        )
        for name in sorted(choices.said)
        for slot in choices.slots.get(name, ())
        if (slot_of(slot) if "." in slot else slot) not in cards
    ]


def _cannot_write(state: HostState) -> list[HostRefusal]:
    refusals = []
    if not state.has_python:
        refusals.append(
            HostRefusal("there is no /usr/bin/python3, which Ansible needs there", "apt install python3-minimal")
        )
    if state.read_only:
        refusals.append(
            HostRefusal(
                f"{', '.join(state.read_only)} cannot be written",
                "if the file system is mounted read-only: look at dmesg for disk errors, then mount -o remount,rw /",
            )
        )
    return refusals


def _not_ours(state: HostState, changes: Sequence[FileChange]) -> list[HostRefusal]:
    """A link or a binary where one of our files belongs is somebody else's work."""
    unread = (state.files[change.path] for change in changes if change.path in state.files)
    return [
        HostRefusal(f"{file.path} is in the way: it {file.trouble}", "move it away, then prepare again")
        for file in unread
        if file.content is None
    ]


def _to_bind(
    facts: HostFacts, state: HostState, cards: Sequence[Card], choices: HostChoices
) -> tuple[list[Card], list[HostRefusal], list[str]]:
    """Return the cards to bind early, and what speaks against some."""
    claims = our_claims(state)
    bound, refusals, notes = [], [], []
    for card in cards:
        if claims.hold(card):
            bound.append(card)
            continue
        if not card.held:
            continue
        drivers = ", ".join(f"{each.driver} has {each.address}" for each in card.held)
        if not choices.binds_early:
            notes.append(f"{drivers}; Proxmox takes {card.name} from it when its VM starts")
            continue
        evidence = console_evidence(facts, card)
        if evidence and not choices.has_another_console:
            refusals.append(
                HostRefusal(
                    f"{card.name} ({card.address}) draws this server's own console: {evidence}. Bound early, its "
                    "screen stays dark from the boot loader on",
                    "if you reach the server by SSH, serial line or remote management too: add "
                    "--i-have-another-console; or leave the card to Proxmox, which takes it when a VM starts: add "
                    "--no-early-binding",
                )
            )
            continue
        bound.append(card)
    return bound, refusals, notes


def console_evidence(facts: HostFacts, card: Card) -> str:
    """Return why a card is taken for the server's console; empty when nothing says so."""
    slots = {each.slot for each in card.functions}
    for address, found in framebuffer_evidence(facts, gpus_of(facts)).items():
        if slot_of(address) in slots:
            return found
    logged = facts.log.boot_vga if facts.log is not None else None
    primary = {*(facts.boot_vga or ()), *([logged] if logged is not None else [])}
    if drawn := sorted(address for address in primary if slot_of(address) in slots):
        return f"the firmware made {drawn[0]} the primary display"
    screens = [each for each in (facts.functions or {}).values() if each.class_code == _SCREEN]
    if screens and all(each.slot in slots for each in screens):
        return "it is the only card with a screen in this server"
    return ""


def _must_hide_framebuffer(facts: HostFacts, cards: Sequence[Card], choices: HostChoices) -> bool:
    """Only where vfio-pci has failed over it: since kernel 6.0 it removes such consoles by itself."""
    refused = (facts.log.cannot_reserve if facts.log is not None else None) or {}
    slots = {each.slot for card in cards for each in card.functions}
    return choices.has_another_console and any(slot_of(address) in slots for address in refused)


def _commands(changes: Sequence[FileChange], state: HostState) -> tuple[HostCommand, ...]:
    needed = {each for change in changes for each in change.refresh}
    left_over = [each for each in state.refresh_needed if each not in needed]
    ours = refresh_commands(needed)
    earlier = refresh_commands(left_over, "an earlier run was cut off before it")
    order = [each.value for each in Refresh]
    return tuple(sorted((*ours, *earlier), key=lambda command: order.index(command.line)))


def _reboot_for(
    state: HostState,
    changes: Sequence[FileChange],
    line: CommandLine,
    bound: Sequence[Card],
    needed: set[Refresh],
) -> list[str]:
    reasons = []
    if line.waits:
        reasons.append(line.waits)
    elif any(change.path in (GRUB_FILE, SYSTEMD_BOOT_FILE) for change in changes):
        reasons.append("the kernel reads its command line at boot")
    held = [f"{each.address} from {each.driver}" for card in bound for each in card.held]
    touched = any(change.path in (MODPROBE_FILE, SCRIPT_FILE) for change in changes)
    if held and (touched or needed or state.record.boot_id == state.boot_id):
        reasons.append(f"vfio-pci takes {', '.join(held)} at boot")
    return reasons
