"""The cards of a simulated guest, as its driver would tell of them; what asks is a script with sections for answers."""

from __future__ import annotations

from collections.abc import Sequence

ENGINE_PID = 1234
_DRIVER = "580.159.03"
_OLDER = "580.95.05"
_FIELDS = {
    "index": "{index}",
    "uuid": "GPU-00000000-0000-0000-0000-00000000000{index}",
    "name": "NVIDIA GeForce RTX 3090",
    "pci.bus_id": "00000000:0{index}:00.0",
    "driver_version": _DRIVER,
    "compute_cap": "8.6",
    "memory.total": "24576",
    "memory.used": "{used}",
    "memory.free": "{free}",
    "memory.reserved": "300",
    "utilization.gpu": "0",
    "utilization.memory": "0",
    "temperature.gpu": "41",
    "power.draw": "26.50",
    "power.limit": "350.00",
    "power.max_limit": "350.00",
    "pstate": "P8",
    "persistence_mode": "Enabled",
}
_PACKAGES = ("linux-modules-nvidia-580-server-open-generic", "nvidia-utils-580-server")
_MODEL_MIB = 5120
_LOG = "nvidia-nvlink: Nvlink Core is being initialized, major device number 239"
_XID = "NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def tells_of_gpus(words: Sequence[str]) -> bool:
    """Say whether a command is the one that gathers what a guest knows of its cards."""
    return words[:2] == ["sh", "-c"] and len(words) == 7 and words[3] == "gather-gpu-facts"


def gpu_answer(words: Sequence[str], cards: int, *, serves: bool, faults: frozenset[str]) -> str:
    """Return what that command prints.

    Args:
        words: it.
        cards: how many were passed through.
        serves: an engine runs.
        faults: what is wrong with the guest.
    """
    live, fields, process_fields = words[4] == "live", words[5].split(","), words[6].split(",")
    there = 0 if "gpu_missing" in faults else cards
    on_card = serves and "engine_on_cpu" not in faults
    parts = [_section("load", "0.10 0.20 0.30 1/100 1234", "MemTotal:  1048576 kB", "MemAvailable:  786432 kB")]
    if "=== disks" in words[2]:
        parts.append(_section("disks", f"/ {1 << 20} {10 << 10} {6 << 10}"))
    if "=== sessions" in words[2]:
        # Nobody logs in to a simulated guest; all that uses it is its engine.
        parts += [_section(name) for name in ("connections", "logins", "locks", "jobs", "downloads")]
        parts.append(_section("engines", *((f"{ENGINE_PID}",) if serves else ())))
    parts += [] if live else [_section("kernel", "6.8.0-85-generic")]
    parts.append(_section("cards", *(f"0000:0{number + 1}:00.0 10de 2204 nvidia" for number in range(there))))
    driven = cards and "gpu_driver_missing" not in faults
    parts.append(_section("modules", *(("nvidia", "nvidia_uvm") if driven else ())))
    if cards:
        parts.append(_section("smi-fields", ",".join(fields)))
        parts += _tool(fields, process_fields, there, on_card, faults)
    if not live:
        parts += _rest(cards, faults)
    return "".join(parts) + "=== end 0\n"


def _tool(fields: list[str], process_fields: list[str], there: int, on_card: bool, faults: frozenset[str]) -> list[str]:
    if "gpu_driver_missing" in faults:
        return [_section("smi-query", "sh: nvidia-smi: not found", code=127)]
    if "gpu_driver_mismatch" in faults:
        return [_section("smi-query", "Failed to initialize NVML: Driver/library version mismatch", code=18)]
    if "gpu_lost" in faults:
        words = "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot the system to recover"
        return [_section("smi-query", words, code=15)]
    if not there:
        return [_section("smi-query", "No devices were found", code=6)]
    used = _MODEL_MIB if on_card else 1
    rows = []
    for number in range(there):
        known = {"index": number, "used": used, "free": 24576 - 300 - used}
        rows.append(", ".join(_FIELDS.get(field, "[N/A]").format(**known) for field in fields))
    process = {
        "pid": str(ENGINE_PID),
        "process_name": "/opt/llm/llama-server",
        "used_gpu_memory": str(_MODEL_MIB),
        "used_memory": str(_MODEL_MIB),
        "gpu_uuid": "GPU-00000000-0000-0000-0000-000000000000",
    }
    processes = [", ".join(process.get(field, "[N/A]") for field in process_fields)] if on_card else []
    return [_section("smi-query", *rows), _section("smi-processes", *processes)]


def _rest(cards: int, faults: frozenset[str]) -> list[str]:
    if not cards or "gpu_driver_missing" in faults:
        return [_section("devices"), _section("secure-boot", "0")]
    library = _OLDER if "gpu_driver_mismatch" in faults else _DRIVER
    return [
        _section("devices", "nvidiactl", "nvidia0", "nvidia-uvm"),
        _section("smi-version", f"DRIVER version      : {_DRIVER}", "CUDA Version        : 13.0"),
        _section("loaded", _DRIVER),
        _section("proc-version", f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {_DRIVER}  Release Build"),
        _section("on-disk", _DRIVER),
        _section("library", f"libnvidia-ml.so.{library}"),
        _section("packages", *(f"{name} {_DRIVER} hold installed" for name in _PACKAGES)),
        _section("secure-boot", "0"),
        _section("log", _LOG, *((_XID,) if "gpu_lost" in faults else ())),
    ]


def _section(name: str, *lines: str, code: int = 0) -> str:
    return f"=== {name} {code}\n" + "".join(f"{line}\n" for line in lines)
