"""The systemd units of a simulated guest's engines: laid down, enabled, started; at most one runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.lab.guests.simulated_disk import SimulatedDisk
from provisioner.lab.guests.simulated_journal import ENGINE_DEATHS
from provisioner.lab.guests.simulated_ollama import NOBODY

_RESTARTS_PER_SECOND = 4


@dataclass(frozen=True, slots=True)
class Said:
    """What `systemctl` printed, and its exit code."""

    code: int = 0
    out: str = ""
    error: str = ""


def death_of(engine: dict[str, Any] | None, faults: frozenset[str]) -> str | None:
    """Return of which fault an engine dies as soon as it starts, or None for one that lives."""
    fault = next((each for each in sorted(faults) if each in ENGINE_DEATHS), None)
    if fault is None and engine is not None and str(engine.get("model", "")).startswith(NOBODY):
        # Ollama itself runs well without a model.
        return None if engine.get("engine") == "ollama" else "engine_model_unknown"
    return fault


def lay_down(disk: SimulatedDisk, order: dict[str, Any]) -> bool:
    """Do what an engine's playbook would have done; return whether that changed anything."""
    came = [each for each in order.get("files", []) if each not in disk.files]
    disk.files = sorted({*disk.files, *came})
    if order.get("only_fetches"):
        return bool(came)
    name, units = str(order["engine"]), dict(order["units"])
    active = str(order["active"])
    runs = disk.engine["unit"] if disk.engine else ""
    is_as_ordered = runs == active if active else runs not in units
    if disk.digests.get(name) == order["digest"] and is_as_ordered:
        return False
    disk.digests[name] = str(order["digest"])
    if not active:
        # One that runs is asked to fetch by itself.
        pulled = (_tagged(each) for each in order.get("pulls", []))
        disk.stored = list(dict.fromkeys([*disk.stored, *pulled]))
    disk.units = {key: unit for key, unit in disk.units.items() if unit["engine"] != name} | units
    if active:
        _start(disk, active)
        disk.enabled = active
    elif runs and (runs in units or runs not in disk.units):
        disk.engine = None
        disk.enabled = ""
    return True


def systemctl(disk: SimulatedDisk, words: Sequence[str], faults: frozenset[str]) -> Said:
    """Carry out a command on units; what is not about an engine's is taken as done."""
    verb, names = words[0] if words else "", [_full(word) for word in words[1:] if not word.startswith("-")]
    now = "--now" in words
    match verb:
        case "show" if names:
            return _show(disk, names[-1], faults)
        case "is-active" if names:
            runs = disk.engine is not None and disk.engine.get("unit") == names[-1]
            is_engines = names[-1] in disk.units or names[-1].startswith(("llm-", "llama-server"))
            return Said(0, "active\n") if runs or not is_engines else Said(3, "inactive\n")
        case "enable" | "start":
            missing = [name for name in names if name not in disk.units]
            if missing:
                return Said(1, error=f"Failed to {verb} unit: Unit file {missing[0]} does not exist.\n")
            if verb == "enable":
                disk.enabled = names[-1]
            if verb == "start" or now:
                _start(disk, names[-1])
        case "disable" | "stop":
            if verb == "disable" and disk.enabled in names:
                disk.enabled = ""
            if disk.engine is not None and disk.engine.get("unit") in names and (verb == "stop" or now):
                disk.engine = None
        case "restart" if names and names[-1] in disk.units:
            _start(disk, names[-1])
    return Said()


def _start(disk: SimulatedDisk, name: str) -> None:
    # Units of engines conflict with each other: starting one stops the other.
    disk.engine = {**disk.units[name], "unit": name, "since": time.time()}


def _show(disk: SimulatedDisk, name: str, faults: frozenset[str]) -> Said:
    runs = disk.engine is not None and disk.engine.get("unit") == name
    dies = runs and death_of(disk.engine, faults) is not None
    since = float(disk.engine.get("since", 0.0)) if disk.engine else 0.0
    restarts = int((time.time() - since) * _RESTARTS_PER_SECOND) if dies else 0
    state = "activating" if dies else "active" if runs else "inactive"
    there = "loaded" if name in disk.units else "not-found"
    return Said(0, f"LoadState={there}\nActiveState={state}\nNRestarts={restarts}\n")


def _full(name: str) -> str:
    return name if "." in name else f"{name}.service"


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"
