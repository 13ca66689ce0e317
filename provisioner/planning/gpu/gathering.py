"""How a guest is asked for everything about its cards in one round trip, and what the answer says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from provisioner.domain.gpu_reading import (
    DriverVersions,
    GpuFacts,
    GpuProcess,
    GuestCard,
    HeldPackage,
    ModuleFlavour,
    ToolAnswer,
)
from provisioner.planning.gpu.amd import amd_readings
from provisioner.planning.gpu.smi import FIELDS, PROCESS_FIELDS, read_processes, read_query
from provisioner.planning.gpu.xid import xids

_END = "end"
_VERSION = r"\d{3,}\.\d+(?:\.\d+)?"
# The stamp of dmesg, or of journalctl in its short form.
_STAMP = re.compile(r"^(?:\[[ \d.]+\]|\w{3} +\d+ [\d:]{8} \S+ kernel:) ?")


class AnswerCut(Exception):
    """The guest's answer ended before its last line."""


@dataclass(frozen=True, slots=True)
class _Section:
    exit_code: int
    text: str

    @property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.text.splitlines() if line.strip()]


@cache
def _script() -> str:
    return Path(__file__).with_name("gather-gpu-facts.sh").read_text(encoding="utf-8")


def gather_command(*, live: bool = False) -> tuple[str, ...]:
    """Return the command whose output `gpu_facts` reads; it must run as root to see the kernel's log.

    With `live` it asks for numbers and processes only, which takes a fraction of the time.
    """
    how = "live" if live else "all"
    return ("sh", "-c", _script(), "gather-gpu-facts", how, ",".join(FIELDS), ",".join(PROCESS_FIELDS))


def gpu_facts(text: str) -> GpuFacts:
    """Return what the command's output says.

    Raises:
        AnswerCut: its end is missing.
    """
    found = _sections(text)
    if _END not in found:
        raise AnswerCut(text.strip().splitlines()[-1] if text.strip() else "it is empty")
    answer = _tool_answer(found)
    fields = found["smi-fields"].text.strip().split(",") if "smi-fields" in found else []
    readings, strays = read_query(fields, answer.text) if answer is not None and fields else ((), ())
    log = tuple(_STAMP.sub("", line) for line in found["log"].lines) if "log" in found else None
    return GpuFacts(
        kernel=_only(found, "kernel"),
        cards=tuple(_cards(found["cards"].lines)) if "cards" in found else None,
        modules=frozenset(_lines(found, "modules")),
        devices=frozenset(_lines(found, "devices")),
        versions=_versions(found),
        readings=readings or amd_readings(_text(found, "amd-smi"), _text(found, "rocm-smi")),
        processes=_processes(found),
        answer=answer,
        strays=strays,
        xids=xids(log or ()),
        log=log,
        packages=tuple(_packages(_lines(found, "packages"))),
        dkms=tuple(_lines(found, "dkms")),
        toolkits=frozenset(_lines(found, "toolkits")),
        is_secure_boot={"0": False, "1": True}.get(_only(found, "secure-boot") or ""),
        drift=_only(found, "drift"),
    )


def _sections(text: str) -> dict[str, _Section]:
    sections: dict[str, _Section] = {}
    for part in f"\n{text}".split("\n=== ")[1:]:
        head, _, body = part.partition("\n")
        name, _, code = head.partition(" ")
        sections[name] = _Section(int(code) if code.strip().isdigit() else -1, body)
    return sections


def _text(found: dict[str, _Section], name: str) -> str:
    return found[name].text if name in found else ""


def _lines(found: dict[str, _Section], name: str) -> list[str]:
    return found[name].lines if name in found else []


def _only(found: dict[str, _Section], name: str) -> str | None:
    return "; ".join(_lines(found, name)) or None


def _tool_answer(found: dict[str, _Section]) -> ToolAnswer | None:
    for name in ("smi-query", "rocm-smi"):
        if name in found:
            return ToolAnswer(found[name].exit_code, found[name].text.strip())
    return None


def _processes(found: dict[str, _Section]) -> tuple[GpuProcess, ...] | None:
    # AMD's tools are not asked for them, and a list that could not be had is not an empty one.
    listed = found.get("smi-processes")
    return read_processes(listed.text) if listed is not None and listed.exit_code == 0 else None


def _cards(lines: list[str]) -> Iterator[GuestCard]:
    for line in lines:
        words = line.split()
        if len(words) >= 4:
            driver = None if words[3] == "-" else words[3]
            yield GuestCard(words[0], words[1], words[2], driver, is_gone="gone" in words[4:])


def _packages(lines: list[str]) -> Iterator[HeldPackage]:
    for line in lines:
        words = line.split()
        if len(words) == 4 and words[3] == "installed":
            yield HeldPackage(words[0], words[1], words[2] == "hold")


def _versions(found: dict[str, _Section]) -> DriverVersions:
    proc = _text(found, "proc-version")
    told = dict(_told(_lines(found, "smi-version")))
    return DriverVersions(
        loaded=_first(_VERSION, _text(found, "loaded")) or _first(_VERSION, proc),
        flavour=_flavour(proc),
        on_disk=_first(_VERSION, _text(found, "on-disk")),
        library=_first(_VERSION, _text(found, "library").replace("libnvidia-ml.so.", "")),
        # From 610 on the driver goes by "KMD" and the newest CUDA by "CUDA UMD"; the old lines then hold prose.
        reported=_first(_VERSION, told.get("kmd version", "")) or _first(_VERSION, told.get("driver version", "")),
        cuda=_first(r"\d+\.\d+", told.get("cuda umd version", ""))
        or _first(r"^\d+\.\d+", told.get("cuda version", "")),
    )


def _told(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip().lower(), value.strip()


def _flavour(proc: str) -> ModuleFlavour | None:
    # "NVIDIA UNIX Open Kernel Module for x86_64  580..." against "NVIDIA UNIX x86_64 Kernel Module  580...".
    line = next((line for line in proc.splitlines() if line.startswith("NVRM version:")), None)
    if line is None:
        return None
    return ModuleFlavour.OPEN if " Open Kernel" in line else ModuleFlavour.PROPRIETARY


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[0] if match else None
