"""How a guest is asked for its load and its cards in one round trip, and what the answer says. Pure."""

from __future__ import annotations

import re

from provisioner.domain.gpu_reading import GpuFacts
from provisioner.domain.node_sample import GuestNumbers
from provisioner.planning.gpu.gathering import gather_command, gpu_facts

# One more section before those of the cards, in the form that their reader passes over.
_LOAD = "echo '=== load 0'; cat /proc/loadavg; grep -E '^Mem(Total|Available):' /proc/meminfo\n"


def live_command() -> tuple[str, ...]:
    """Return the command whose output `live_numbers` reads; it must run as root to see other users' programs."""
    shell, option, script, *rest = gather_command(live=True)
    return (shell, option, _LOAD + script, *rest)


def live_numbers(text: str) -> tuple[GuestNumbers, GpuFacts]:
    """Return what the command's output says.

    Raises:
        AnswerCut: its end is missing.
    """
    facts = gpu_facts(text)
    section = re.search(r"^=== load 0\n(.*?)^=== ", text, re.MULTILINE | re.DOTALL)
    said = section[1] if section else ""
    load = re.match(r"(\d+\.\d+) ", said)
    kib = {name: int(number) for name, number in re.findall(r"^Mem(Total|Available): +(\d+) kB", said, re.MULTILINE)}
    total, free = kib.get("Total"), kib.get("Available")
    return (
        GuestNumbers(
            load=float(load[1]) if load else None,
            memory_used_bytes=(total - free) * 1024 if total is not None and free is not None else None,
            memory_bytes=total * 1024 if total is not None else None,
        ),
        facts,
    )
