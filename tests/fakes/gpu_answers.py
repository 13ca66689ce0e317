"""What guests with graphics cards answer: the sections of the gathering script, put together from small facts.

The wording of each tool is that of public reports and captures of drivers 331 to 615; the values are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provisioner.planning.gpu.smi import FIELDS

UUID = "GPU-5f1e0000-1111-2222-3333-444455556666"
BUS = "0000:01:00.0"
KERNEL = "6.8.0-87-generic"
VERSION = "580.173.02"

HEALTHY = {
    "index": "0", "uuid": UUID, "name": "NVIDIA GeForce RTX 3090", "pci.bus_id": "00000000:01:00.0",
    "driver_version": VERSION, "memory.total": "24576", "memory.used": "18211", "memory.free": "5960",
    "memory.reserved": "405", "utilization.gpu": "37", "utilization.memory": "21", "temperature.gpu": "61",
    "temperature.memory": "N/A", "power.draw": "288.41", "power.limit": "350.00", "power.max_limit": "400.00",
    "fan.speed": "54", "pstate": "P2", "clocks.sm": "1695", "clocks.mem": "9501", "persistence_mode": "Enabled",
    "mig.mode.current": "[N/A]", "compute_cap": "8.6", "ecc.errors.uncorrected.volatile.total": "[N/A]",
    "remapped_rows.pending": "[N/A]", "remapped_rows.failure": "[N/A]", "gpu_recovery_action": "None",
    "clocks_throttle_reasons.hw_thermal_slowdown": "Not Active",
    "clocks_throttle_reasons.sw_thermal_slowdown": "Not Active",
    "clocks_throttle_reasons.sw_power_cap": "Active",
    "clocks_throttle_reasons.hw_power_brake_slowdown": "Not Active",
}  # fmt: skip


def row(fields: Sequence[str] = FIELDS, **changed: str) -> str:
    """One line of the query's answer; keys are fields with underscores for dots."""
    cells = HEALTHY | {field: value for field in FIELDS if (value := changed.get(field.replace(".", "_"))) is not None}
    return ", ".join(cells[field] for field in fields)


def answer(
    query: str | None = None,
    code: int = 0,
    *,
    fields: Sequence[str] = FIELDS,
    cards: Sequence[str] = (f"{BUS} 10de 2204 nvidia",),
    modules: str = "nvidia nvidia_uvm",
    devices: str = "nvidiactl nvidia0 nvidia-uvm",
    log: Sequence[str] | None = ("Linux version 6.8.0",),
    sections: Mapping[str, str | None] | None = None,
) -> str:
    """The script's whole output; a section given as None is left out."""
    proc = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {VERSION}  Wed Oct  1 00:00:00 UTC 2026\n"
    found: dict[str, str | None] = {
        "kernel": KERNEL,
        "cards": "\n".join(cards),
        "modules": modules.replace(" ", "\n"),
        "smi-fields": ",".join(fields),
        "smi-processes": "",
        "devices": devices.replace(" ", "\n"),
        "smi-version": f"NVIDIA-SMI version  : {VERSION}\nNVML version        : 580.173\n"
        f"DRIVER version      : {VERSION}\nCUDA Version        : 13.0",
        "loaded": VERSION,
        "proc-version": proc + "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)",
        "on-disk": VERSION,
        "library": f"libnvidia-ml.so.{VERSION}",
        "secure-boot": " 0",
        "log": None if log is None else "\n".join(log),
    }
    found |= sections or {}
    text = "".join(f"=== {name} 0\n{body}\n\n" for name, body in found.items() if body is not None)
    return f"{text}=== smi-query {code}\n{row(fields) if query is None else query}\n\n=== end 0\n"
