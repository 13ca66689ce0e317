"""Which words the kernel's command line needs for passthrough, and which must go; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provisioner.domain.host import AMD_CPU, INTEL_CPU, HostFacts
from provisioner.planning.host.verdict import cpu_vendor_of, iommu_state

_PASSTHROUGH_KEYS = ("iommu.passthrough",)
PASSTHROUGH_WORD = "iommu=pt"
HIDE_FRAMEBUFFER = "initcall_blacklist=sysfb_init"


class HandEdit(Exception):
    """A person must edit this file: `problem` says why we do not, `edit` exactly what to do."""

    def __init__(self, problem: str, edit: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.edit = edit


@dataclass(frozen=True, slots=True)
class WantedWord:
    """One word to add unless `is_there` finds that another says the same."""

    word: str
    why: str
    is_there: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class WordChanges:
    """What the command line's words should become."""

    wanted: tuple[WantedWord, ...]
    is_unwanted: Callable[[str], bool]

    def missing(self, words: Sequence[str]) -> tuple[WantedWord, ...]:
        """Return the wanted ones that these words do not hold."""
        return tuple(wanted for wanted in self.wanted if not any(wanted.is_there(word) for word in words))

    def unwanted(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the words that must go."""
        return tuple(word for word in words if self.is_unwanted(word))


def word_changes(facts: HostFacts, *, hide_framebuffer: bool) -> WordChanges:
    """Return what this machine's command line needs.

    Args:
        facts: the hypervisor's.
        hide_framebuffer: a GPU for guests cannot be had while the boot console draws into it.
    """
    vendor = cpu_vendor_of(facts)
    wanted = []
    if vendor == INTEL_CPU and (why := _why_intel(facts)):
        wanted.append(WantedWord("intel_iommu=on", why, lambda word: _has(word, "intel_iommu", "on")))
    wanted.append(
        WantedWord(
            PASSTHROUGH_WORD,
            "the host's own devices need no translation, so only guests pay for it; for speed, nothing depends on it",
            _is_passthrough_choice,
        )
    )
    if hide_framebuffer:
        why = "vfio-pci could not reserve the card's memory, for the boot console draws into it"
        wanted.append(WantedWord(HIDE_FRAMEBUFFER, why, lambda word: _has(word, "initcall_blacklist", "sysfb_init")))
    off_keys = {"iommu"}
    off_keys |= {"intel_iommu"} if vendor != AMD_CPU else set()
    off_keys |= {"amd_iommu"} if vendor != INTEL_CPU else set()
    return WordChanges(tuple(wanted), lambda word: any(_has(word, key, "off") for key in off_keys))


def _why_intel(facts: HostFacts) -> str:
    """Linux turns Intel's IOMMU on by itself from 6.8 on (Proxmox's manual, chapter PCI(e) passthrough)."""
    if facts.kernel is None or not facts.kernel.is_at_least(6, 8):
        kernel = "an unknown kernel" if facts.kernel is None else f"kernel {facts.kernel.text}"
        return f"{kernel} leaves Intel's IOMMU off without it"
    return "" if iommu_state(facts)[0] else "nothing proves that the IOMMU is on"


def _has(word: str, key: str, value: str) -> bool:
    name, _, values = word.partition("=")
    return name == key and value in values.split(",")


def _is_passthrough_choice(word: str) -> bool:
    """Somebody chose already, and nopt is a choice too."""
    name, _, values = word.partition("=")
    return name in _PASSTHROUGH_KEYS or (name == "iommu" and bool({"pt", "nopt"} & set(values.split(","))))


def with_words(line: str, add: Sequence[str], remove: Sequence[str]) -> str:
    """Return a line of words with some added at its end and some removed; everything else stays byte for byte."""
    for word in remove:
        # With the blanks before it, or, for the first word, those after it.
        line = re.sub(rf"[ \t]+{re.escape(word)}(?=\s|$)", "", line)
        line = re.sub(rf"^{re.escape(word)}(?:[ \t]+|$)", "", line)
    if not add:
        return line
    body = line.rstrip()
    return " ".join([*((body,) if body else ()), *add]) + line[len(body) :]
