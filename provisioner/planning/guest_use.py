"""How a guest is asked who uses it, in one round trip, and what the answer says. Pure.

Looking is not use: our own sessions that only look, and the connection that
asks, are left out. What the guest cannot tell is unknown, which counts as busy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from provisioner.domain.activity import Evidence, Signal
from provisioner.domain.gpu_reading import AMD, NVIDIA, GpuFacts
from provisioner.planning.gpu.gathering import AnswerCut, gather_command, gpu_facts

# A desktop's cursor or a driver's housekeeping shows a percent or two now and then; nothing that computes stays below.
_LEAST_PERCENT = 5.0
_LOGINS, _INSTALLS, _DOWNLOADS, _GPU, _ENGINES = "login sessions", "packages", "downloads", "GPU", "engine processes"


@cache
def _script() -> str:
    return Path(__file__).with_name("look-at-use.sh").read_text(encoding="utf-8")


def use_command() -> tuple[str, ...]:
    """Return the command whose output `guest_signals` reads; it must run as root to see what others do."""
    shell, option, script, *rest = gather_command(live=True)
    return (shell, option, f"{_script()}\n{script}", *rest)


def guest_signals(text: str, *, user: str, has_gpus: bool) -> tuple[Signal, ...]:
    """Return what the command's output says of the guest's use.

    Args:
        text: the output.
        user: as whom we log in; sessions of that name may be ours.
        has_gpus: cards were passed through, and their driver is to answer.

    Raises:
        AnswerCut: its end is missing.
    """
    facts = gpu_facts(text)
    found = dict(_sections(text))
    cards = _of_cards(facts, found.get("engines")) if has_gpus else ()
    return (_of_logins(found, user), _of_packages(found), _of_downloads(found), _of_engines(found), *cards)


@dataclass(slots=True)
class _Section:
    code: str
    lines: list[str]


@dataclass(slots=True)
class _Session:
    """One login, as systemd tells of it, with its programs: terminal and command line."""

    facts: dict[str, str] = field(default_factory=dict)
    programs: list[tuple[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.facts.get("Name", "somebody")

    @property
    def is_remote(self) -> bool:
        return self.facts.get("Service", "").startswith("sshd")

    def use(self, user: str) -> str:
        """Return what it is there for, empty for nothing that counts."""
        if not self.facts.get("Class", "user").startswith("user") or self.facts.get("State") == "closing":
            return ""
        terminal = self.facts.get("TTY") or next((tty for tty, _ in self.programs if tty != "?"), "")
        work = [words for _, words in self.programs]
        if self.name == user and not work:
            return ""
        if terminal:
            return f"{self.name} is logged in ({terminal})"
        return f"{self.name} is logged in ({_short(work[0]) if work else 'no terminal'})"


def _sections(text: str) -> Iterator[tuple[str, _Section]]:
    for part in f"\n{text}".split("\n=== ")[1:]:
        head, _, body = part.partition("\n")
        name, _, code = head.partition(" ")
        yield name, _Section(code.strip(), [line.strip() for line in body.splitlines() if line.strip()])


def _of_logins(found: dict[str, _Section], user: str) -> Signal:
    # Logins and logouts are written down, so one that came and went between two looks is seen too.
    mark = found["logins"].lines[0] if "logins" in found and found["logins"].lines else ""
    if "connections" not in found:
        return Signal(_LOGINS, Evidence.UNKNOWN, "the guest does not show its processes", mark)
    there = [use for session in _sessions(found["connections"].lines) if (use := session.use(user))]
    # Those on its console; connections are told of above, with what runs in them.
    local = [each for each in _sessions(found["sessions"].lines) if not each.is_remote] if "sessions" in found else []
    there += [use for session in local if (use := session.use(""))]
    there += [f"{line.split()[0]} is logged in" for line in found["terminals"].lines] if "terminals" in found else []
    return Signal(_LOGINS, Evidence.BUSY if there else Evidence.QUIET, ", ".join(there), mark)


def _sessions(lines: list[str]) -> list[_Session]:
    sessions: list[_Session] = []
    for line in lines:
        if line.startswith("session "):
            sessions.append(_Session())
        elif sessions and line.startswith("program "):
            terminal, _, words = line.removeprefix("program ").strip().partition(" ")
            sessions[-1].programs.append((terminal, words.strip()))
        elif sessions and "=" in line:
            key, _, value = line.partition("=")
            sessions[-1].facts[key] = value
    return sessions


def _of_packages(found: dict[str, _Section]) -> Signal:
    if "locks" not in found:
        return Signal(_INSTALLS, Evidence.UNKNOWN, "the guest does not tell")
    names = found["locks"].lines
    if names:
        return Signal(_INSTALLS, Evidence.BUSY, f"{', '.join(names)} changes its packages")
    return Signal(_INSTALLS, Evidence.QUIET)


def _of_downloads(found: dict[str, _Section]) -> Signal:
    jobs, files = found.get("jobs"), found.get("downloads")
    running = [name.removesuffix(".service") for name in (jobs.lines if jobs else ())]
    partial = [line.rsplit("/", 1)[-1] for line in (files.lines if files else ())]
    if running or partial:
        what = running or [f"{_short(partial[0])} grows"]
        return Signal(_DOWNLOADS, Evidence.BUSY, f"a download or installation runs ({', '.join(what)})")
    if files is None or files.code != "0" or (jobs is not None and jobs.code != "0"):
        return Signal(_DOWNLOADS, Evidence.UNKNOWN, "the guest does not tell in time")
    return Signal(_DOWNLOADS, Evidence.QUIET)


def _of_engines(found: dict[str, _Section]) -> Signal:
    # Counters that begin anew may come to stand where they stood; another process has another number.
    pids = sorted(line for line in found["engines"].lines if line.isdigit()) if "engines" in found else []
    return Signal(_ENGINES, Evidence.QUIET, mark=hashlib.sha256(" ".join(pids).encode()).hexdigest()[:12])


def _of_cards(facts: GpuFacts, engines: _Section | None) -> tuple[Signal, ...]:
    if facts.cards is not None and not any(card.vendor_id in (NVIDIA, AMD) for card in facts.cards):
        # Nothing computes on a card that is not there; that it should be is for `test` to say.
        return (Signal(_GPU, Evidence.QUIET),)
    if not facts.readings:
        said = facts.answer.text.splitlines()[0] if facts.answer is not None and facts.answer.text else "no answer"
        return (Signal(_GPU, Evidence.UNKNOWN, f"its driver: {_short(said)}"),)
    ours = {int(line) for line in engines.lines if line.isdigit()} if engines is not None else set()
    busy = [
        f"{reading.subject} computes ({reading.utilization_percent:g} %)"
        for reading in facts.readings
        # A card that does not measure it leaves the word to its engine and the list of programs.
        if reading.utilization_percent is not None and reading.utilization_percent >= _LEAST_PERCENT
    ]
    # A training that pauses at 0 % still has its program on the card.
    busy += [
        f"{process.name.rsplit('/', 1)[-1]} (pid {process.pid}), no engine of ours, is on the GPU"
        for process in facts.processes or ()
        if process.pid not in ours
    ]
    return (Signal(_GPU, Evidence.BUSY if busy else Evidence.QUIET, "; ".join(busy)),)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = ["AnswerCut", "guest_signals", "use_command"]
