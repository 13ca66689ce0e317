"""What AMD's tools say, as far as their JSON is known: ``rocm-smi --json`` and ``amd-smi metric --json``.

The names of their fields have changed more than once, so each is looked for
under every name seen, and one that is missing is unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from provisioner.domain.gpu_reading import GpuReading
from provisioner.domain.quantities import MIB
from provisioner.planning.gpu.smi import sysfs_address


def amd_readings(amd_smi: str, rocm_smi: str) -> tuple[GpuReading, ...]:
    """Return one reading per card, from whichever tool answered."""
    return _from_rocm_smi(_json(rocm_smi)) or _from_amd_smi(_json(amd_smi))


def _json(text: str) -> Any:
    # Warnings may stand before the document.
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    try:
        return json.loads(text[min(starts) :]) if starts else None
    except ValueError:
        return None


def _from_rocm_smi(document: Any) -> tuple[GpuReading, ...]:
    if not isinstance(document, dict):
        return ()
    cards = {key: value for key, value in document.items() if key.startswith("card") and isinstance(value, dict)}
    return tuple(_rocm_card(key, card) for key, card in cards.items())


def _rocm_card(key: str, card: Mapping[str, Any]) -> GpuReading:
    def find(*patterns: str) -> str:
        for pattern in patterns:
            for name, value in card.items():
                if re.fullmatch(pattern, name, re.IGNORECASE):
                    return str(value)
        return ""

    total = _number(find(r"VRAM Total Memory \(B\)"))
    used = _number(find(r"VRAM Total Used Memory \(B\)"))
    index = key.removeprefix("card")
    return GpuReading(
        index=int(index) if index.isdigit() else None,
        name=find("Card Series", "Device Name", "Card Model") or None,
        bus_id=sysfs_address(find("PCI Bus")),
        memory_bytes=_whole(total),
        memory_used_bytes=_whole(used),
        memory_free_bytes=_whole(total - used) if total is not None and used is not None else None,
        utilization_percent=_number(find(r"GPU use \(%\)")),
        temperature_celsius=_number(
            find(r"Temperature \(Sensor edge\) \(C\)", r"Temperature \(Sensor junction\) \(C\)")
        ),
        memory_temperature_celsius=_number(find(r"Temperature \(Sensor mem(?:ory)?\) \(C\)")),
        power_watts=_number(find(r"(?:Average|Current)(?: Socket)? Graphics Package Power \(W\)")),
    )


def _from_amd_smi(document: Any) -> tuple[GpuReading, ...]:
    if isinstance(document, dict):
        document = document.get("gpu_data")
    if not isinstance(document, list):
        return ()
    return tuple(_amd_card(card) for card in document if isinstance(card, dict))


def _amd_card(card: Mapping[str, Any]) -> GpuReading:
    total, used = _measured(card, "mem_usage", "total_vram"), _measured(card, "mem_usage", "used_vram")
    free = _measured(card, "mem_usage", "free_vram")
    return GpuReading(
        index=card["gpu"] if isinstance(card.get("gpu"), int) else None,
        memory_bytes=_whole(total, MIB),
        memory_used_bytes=_whole(used, MIB),
        memory_free_bytes=_whole(free, MIB),
        utilization_percent=_measured(card, "usage", "gfx_activity"),
        temperature_celsius=_measured(card, "temperature", "edge") or _measured(card, "temperature", "hotspot"),
        memory_temperature_celsius=_measured(card, "temperature", "mem"),
        power_watts=_measured(card, "power", "socket_power"),
    )


def _measured(card: Mapping[str, Any], group: str, name: str) -> float | None:
    section = card.get(group)
    value = section.get(name) if isinstance(section, dict) else None
    return _number(str(value.get("value"))) if isinstance(value, dict) else _number(str(value))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(number: float | None, unit: int = 1) -> int | None:
    return None if number is None else int(number * unit)
