"""NVIDIA's numbered kernel events: reading them from the log, and what each asks of us.

The classes are those of NVIDIA's catalogue "Analyzing Xid Errors with the Xid
Catalog" (docs.nvidia.com/deploy/xid-errors, column "Immediate Action", as of
October 2025), for Ampere and newer; older cards use the same numbers for less.
Where the catalogue points to a workflow instead of an action, the gravest
outcome of that workflow stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from provisioner.domain.gpu_reading import Health, Xid
from provisioner.planning.gpu.smi import sysfs_address

# IGNORE, and those that only say that something of a program was cleaned up after another event.
_GOOD = frozenset(
    {14, 37, 38, 43, 44, 45, 63, 66, 67, 92, 93, 106, 107, 121, 137, 141, 152, 153, 157, 160, 161, 162, 163}
)
# RESTART_APP
_APPLICATION = frozenset({
    8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, *range(82, 87), 88, 89, 94,
    *range(96, 106), *range(126, 136), 139,
})  # fmt: skip
# RESET_GPU; 48 is a memory error that could not be corrected, 74 and 144 to 150 are links between cards.
_RESET = frozenset({46, 48, 62, 64, 74, 95, 109, 110, 119, 120, 136, 140, 143, *range(144, 151), 155, 156, 158})
# RESTART_BM and RESTART_VM
_RESTART = frozenset({79, 151})
# CHECK_MECHANICALS: power cables
_REPAIR = frozenset({54})
FALLEN_OFF_THE_BUS = 79

_LINE = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)(?:, (.*))?")
# Says the same as 79, without a number, when the card vanished before the driver knew it.
_FALLEN = re.compile(
    r"GPU (?:at PCI:)?([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}(?:\.[0-7])?).*fallen off the bus|fallen off the bus", re.I
)
_RECOVERY = re.compile(r"recovery action changed from .*? to (?:\S* ?\()?([A-Za-z0-9 ]+)", re.I)


def health_of(code: int) -> Health:
    """Return what an event asks of us. One that the catalogue does not know is taken for grave."""
    for health, codes in (
        (Health.GOOD, _GOOD),
        (Health.APPLICATION, _APPLICATION),
        (Health.RESET, _RESET),
        (Health.RESTART, _RESTART),
        (Health.REPAIR, _REPAIR),
    ):
        if code in codes:
            return health
    return Health.RESET


def xids(log: Iterable[str]) -> tuple[Xid, ...]:
    """Return the events in a kernel log, each card's code once, in order of appearance."""
    found: dict[tuple[int, str | None], Xid] = {}
    for line in log:
        event = _event(line)
        if event is not None:
            found.setdefault((event.code, event.bus_id), event)
    return tuple(found.values())


def _event(line: str) -> Xid | None:
    match = _LINE.search(line)
    if match is not None:
        code, text = int(match[2]), (match[3] or "").strip()
        return Xid(code, sysfs_address(match[1]), text, _announced(text) if code == 154 else health_of(code))
    fallen = _FALLEN.search(line)
    if fallen is None:
        return None
    address = sysfs_address(fallen[1]) if fallen[1] else None
    return Xid(FALLEN_OFF_THE_BUS, address, "GPU has fallen off the bus", Health.RESTART)


def _announced(text: str) -> Health:
    """Xid 154 tells what the card needs from now on, as the field gpu_recovery_action does."""
    match = _RECOVERY.search(text)
    return recovery_health(match[1]) if match else Health.RESET


def recovery_health(action: str) -> Health:
    """Return what a recovery action of the driver asks of us: None, GPU Reset, Node Reboot, Drain ..."""
    low = action.lower()
    if "none" in low:
        return Health.GOOD
    return Health.RESTART if "reboot" in low else Health.RESET
