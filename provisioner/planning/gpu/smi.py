"""``nvidia-smi --query-...`` as an API: which fields are asked, and what its CSV says.

Its text is promised to nobody, so every cell may be missing, an error in
brackets or a number; a line of another shape is a message. Units are those of
``--format=csv,noheader,nounits``: MiB, watts, percent, MHz, degrees Celsius.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from provisioner.domain.gpu_reading import GpuProcess, GpuReading
from provisioner.domain.quantities import MIB

# Those that every driver knows come first; the script leaves out whichever one is called invalid, and asks again.
FIELDS = (
    "index", "uuid", "name", "pci.bus_id", "driver_version",
    "memory.total", "memory.used", "memory.free", "utilization.gpu", "utilization.memory",
    "temperature.gpu", "power.draw", "power.limit", "power.max_limit", "fan.speed", "pstate", "clocks.sm", "clocks.mem",
    "persistence_mode", "mig.mode.current", "compute_cap", "memory.reserved", "temperature.memory",
    "ecc.errors.uncorrected.volatile.total", "remapped_rows.pending", "remapped_rows.failure", "gpu_recovery_action",
    # The older spelling of clocks_event_reasons, which newer drivers still take.
    "clocks_throttle_reasons.hw_thermal_slowdown", "clocks_throttle_reasons.sw_thermal_slowdown",
    "clocks_throttle_reasons.sw_power_cap", "clocks_throttle_reasons.hw_power_brake_slowdown",
)  # fmt: skip
PROCESS_FIELDS = ("pid", "used_gpu_memory", "gpu_uuid", "process_name")
"""The name is last because it may hold a comma."""
_SEPARATOR = ", "
_TRUE, _FALSE = frozenset({"yes", "enabled", "active"}), frozenset({"no", "disabled", "not active"})
# What a card or a driver merely does not have. Anything else in brackets is an error worth telling.
_ABSENT = re.compile(
    r"\[?(?:N/A|Not Supported|Not Available|Requested functionality has been deprecated|Deprecated|None)\]?", re.I
)
_ERROR = re.compile(r"\[.+\]|ERR!|Unknown Error|Insufficient Permissions", re.I)
_BUS_ID = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?", re.I)


def read_query(fields: Sequence[str], text: str) -> tuple[tuple[GpuReading, ...], tuple[str, ...]]:
    """Return the readings in the answer to a query, and the lines that are something else."""
    readings: list[GpuReading] = []
    strays: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().split(_SEPARATOR)]
        if len(cells) == len(fields) > 1:
            readings.append(_reading(dict(zip(fields, cells, strict=True))))
        elif line.strip():
            strays.append(line.strip())
    return tuple(readings), tuple(strays)


def read_processes(text: str) -> tuple[GpuProcess, ...]:
    """Return who computes; an answer of any other shape means that nobody is known to."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().split(_SEPARATOR, len(PROCESS_FIELDS) - 1)]
        if len(cells) == len(PROCESS_FIELDS) and cells[0].isdigit():
            pid, memory, uuid, name = cells
            found.append(GpuProcess(int(pid), name, _bytes(memory), _text(uuid)))
    return tuple(found)


def sysfs_address(bus_id: str) -> str | None:
    """Return ``00000000:01:00.0``, ``PCI:0000:01:00`` or ``01:00.0`` as sysfs writes it, or None."""
    match = _BUS_ID.search(bus_id.removeprefix("PCI:"))
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{bus.lower()}:{device.lower()}.{function or '0'}"


def _reading(cells: dict[str, str]) -> GpuReading:
    def get(field: str, of: Callable[[str], object]) -> object:
        return of(cells[field]) if field in cells else None

    address = _text(cells.get("pci.bus_id", ""))
    reasons = "clocks_throttle_reasons."
    values = {
        **{name: get(field, of) for name, field, of in _COLUMNS},
        "bus_id": sysfs_address(address) if address else None,
        "is_slowed_by_heat": _any(cells, f"{reasons}hw_thermal_slowdown", f"{reasons}sw_thermal_slowdown"),
        "is_slowed_by_power": _any(cells, f"{reasons}sw_power_cap", f"{reasons}hw_power_brake_slowdown"),
        "unreadable": {field: cell.strip("[]") for field, cell in cells.items() if _is_error(cell)},
    }
    return GpuReading(**values)  # type: ignore[arg-type]


def _any(cells: dict[str, str], *fields: str) -> bool | None:
    told = [value for field in fields if (value := _truth(cells.get(field, ""))) is not None]
    return any(told) if told else None


def _is_absent(cell: str) -> bool:
    return not cell or _ABSENT.fullmatch(cell) is not None


def _is_error(cell: str) -> bool:
    return not _is_absent(cell) and _ERROR.fullmatch(cell) is not None


def _text(cell: str) -> str | None:
    return None if _is_absent(cell) or _is_error(cell) else cell


def _number(cell: str) -> float | None:
    # A tool that was told to leave units out may still print them: "370 MiB".
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)(?: ?(?:MiB|W|%|C|MHz))?", cell)
    return None if match is None else float(match[1])


def _whole(cell: str) -> int | None:
    number = _number(cell)
    return None if number is None else int(number)


def _bytes(cell: str) -> int | None:
    number = _number(cell)
    return None if number is None else int(number * MIB)


def _truth(cell: str) -> bool | None:
    low = cell.lower()
    return True if low in _TRUE else False if low in _FALSE else None


def _action(cell: str) -> str | None:
    # Here "None" is an answer: nothing needs to be done.
    return "None" if cell.strip("[]").lower() == "none" else _text(cell)


def _pending(cell: str) -> bool | None:
    number = _whole(cell)
    return _truth(cell) if number is None else number > 0


_COLUMNS: tuple[tuple[str, str, Callable[[str], object]], ...] = (
    ("index", "index", _whole),
    ("uuid", "uuid", _text),
    ("name", "name", _text),
    ("driver_version", "driver_version", _text),
    ("compute_capability", "compute_cap", _text),
    ("memory_bytes", "memory.total", _bytes),
    ("memory_used_bytes", "memory.used", _bytes),
    ("memory_free_bytes", "memory.free", _bytes),
    ("memory_reserved_bytes", "memory.reserved", _bytes),
    ("utilization_percent", "utilization.gpu", _number),
    ("memory_utilization_percent", "utilization.memory", _number),
    ("temperature_celsius", "temperature.gpu", _number),
    ("memory_temperature_celsius", "temperature.memory", _number),
    ("power_watts", "power.draw", _number),
    ("power_limit_watts", "power.limit", _number),
    ("power_max_limit_watts", "power.max_limit", _number),
    ("fan_percent", "fan.speed", _number),
    ("performance_state", "pstate", _text),
    ("clock_mhz", "clocks.sm", _number),
    ("memory_clock_mhz", "clocks.mem", _number),
    ("persists", "persistence_mode", _truth),
    ("is_split", "mig.mode.current", _truth),
    ("uncorrected_errors", "ecc.errors.uncorrected.volatile.total", _whole),
    ("remapping_pending", "remapped_rows.pending", _pending),
    ("remapping_failed", "remapped_rows.failure", _pending),
    ("recovery_action", "gpu_recovery_action", _action),
)
