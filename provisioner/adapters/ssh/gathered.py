"""Reads what `gather-host-facts.sh` prints: sections in, `HostDump` out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from provisioner.adapters.files.host_dump import facts_from_dump, render_dump
from provisioner.adapters.files.host_dump.sections import SECTIONS
from provisioner.domain.host import PciAddress
from provisioner.domain.host_extras import HostExtras
from provisioner.ports.hosts import HostDump

END = "x-end"
"""The section that the script prints last; without it the output was cut."""


def sections_of(text: str) -> dict[str, str]:
    """Return the sections of the script's output by name, each with its line ends."""
    sections: dict[str, str] = {}
    for part in f"\n{text}".split("\n=== ")[1:]:
        name, _, body = part.partition("\n")
        sections[name] = f"{body}\n" if body and not body.endswith("\n") else body
    return sections


def host_dump(sections: Mapping[str, str], subject: str) -> HostDump:
    """Return what the sections say. Raises InputError when there is none that a dump has."""
    kept = {name: body for name, body in sections.items() if name in SECTIONS}
    return HostDump(kept, facts_from_dump(render_dump(kept), subject), _extras(sections))


def _extras(sections: Mapping[str, str]) -> HostExtras:
    memory = {key: int(kib) for key, kib in re.findall(r"^(\w+): +(\d+) kB$", sections.get("x-meminfo", ""), re.M)}
    flags = sections.get("x-cpuflags")
    displays = dict(_displays(sections["x-displays"])) if "x-displays" in sections else None
    node = sections.get("x-node", "").strip() or None
    if displays is None:
        return HostExtras(memory.get("MemTotal"), memory.get("MemAvailable"), _words(flags), node=node)
    return HostExtras(
        mem_total_kib=memory.get("MemTotal"),
        mem_available_kib=memory.get("MemAvailable"),
        cpu_flags=_words(flags),
        reset_methods={
            address: tuple(facts["reset"].split(",")) if facts["reset"] else ()
            for address, facts in displays.items()
            if "reset" in facts
        },
        boot_vga=frozenset(address for address, facts in displays.items() if facts.get("boot_vga") == "1"),
        # -1 is the kernel's word for "the firmware does not tell".
        numa_nodes={
            address: int(facts["numa_node"])
            for address, facts in displays.items()
            if facts.get("numa_node", "").isdigit()
        },
        node=node,
    )


def _words(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(text.split())


def _displays(text: str) -> Iterator[tuple[PciAddress, dict[str, str]]]:
    for line in text.splitlines():
        address, *pairs = line.split()
        yield PciAddress(address), dict(pair.split("=", 1) for pair in pairs if "=" in pair)
