"""How a guest is asked for its load and its cards in one round trip, and what the answer says. Pure."""

from __future__ import annotations

import re

from provisioner.domain.gpu_reading import GpuFacts
from provisioner.domain.model_keeping import MODEL_FOLDER
from provisioner.domain.node_sample import DiskRoom, GuestNumbers
from provisioner.planning.gpu.gathering import gather_command, gpu_facts

# One more section before those of the cards, in the form that their reader passes over.
_LOAD = "echo '=== load 0'; cat /proc/loadavg; grep -E '^Mem(Total|Available):' /proc/meminfo\n"
# Only the two that we fill, each once. `df` would name whatever was mounted last from the same device.
_DISKS = (
    f"echo '=== disks 0'; for place in / {MODEL_FOLDER}; do device=$(stat -c %d $place 2>/dev/null) || continue; "
    """[ "$device" = "$last" ] || echo "$place $(stat -f -c '%S %b %a' $place)"; last=$device; done\n"""
)
_DISK = re.compile(r"^(/\S*) (\d+) (\d+) (\d+)$", re.MULTILINE)


def live_command(*, thoroughly: bool = False) -> tuple[str, ...]:
    """Return the command whose output `live_numbers` reads; it must run as root to see other users' programs.

    With `thoroughly` it also asks for versions and the kernel's log, which takes a few seconds.
    """
    shell, option, script, *rest = gather_command(live=not thoroughly)
    return (shell, option, _LOAD + _DISKS + script, *rest)


def live_numbers(text: str) -> tuple[GuestNumbers, GpuFacts]:
    """Return what the command's output says.

    Raises:
        AnswerCut: its end is missing.
    """
    facts = gpu_facts(text)
    said = _section(text, "load")
    load = re.match(r"(\d+\.\d+) ", said)
    kib = {name: int(number) for name, number in re.findall(r"^Mem(Total|Available): +(\d+) kB", said, re.MULTILINE)}
    total, free = kib.get("Total"), kib.get("Available")
    return (
        GuestNumbers(
            load=float(load[1]) if load else None,
            memory_used_bytes=(total - free) * 1024 if total is not None and free is not None else None,
            memory_bytes=total * 1024 if total is not None else None,
            disks=_disks(_section(text, "disks")),
        ),
        facts,
    )


def _section(text: str, name: str) -> str:
    found = re.search(rf"^=== {name} 0\n(.*?)^=== ", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _disks(said: str) -> tuple[DiskRoom, ...]:
    return tuple(
        DiskRoom(mounted_at, int(block) * int(blocks), int(block) * int(free))
        for mounted_at, block, blocks, free in _DISK.findall(said)
    )
