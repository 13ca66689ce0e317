"""What preparing a hypervisor and its undoing will do, as values that can be shown before anything moves."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from provisioner.domain.host_files import PreparationRecord, Refresh


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file as it is and as it should be; None stands for no file. `mode` is octal text."""

    path: str
    before: str | None
    after: str | None
    why: str
    mode: str = "0644"
    owner: str = "root"
    group: str = "root"
    refresh: tuple[Refresh, ...] = ()

    def diff(self) -> str:
        """Return a unified diff."""
        old = "/dev/null" if self.before is None else f"a{self.path}"
        new = "/dev/null" if self.after is None else f"b{self.path}"
        lines = difflib.unified_diff(_lines(self.before), _lines(self.after), old, new)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str | None) -> list[str]:
    # At line feeds alone: a form feed or a lone carriage return is part of its line.
    parts = (text or "").split("\n")
    return [*(f"{part}\n" for part in parts[:-1]), *parts[-1:]] if parts[-1] else [f"{part}\n" for part in parts[:-1]]


@dataclass(frozen=True, slots=True)
class HostCommand:
    """A command that will run on the hypervisor, and why."""

    line: str
    why: str


@dataclass(frozen=True, slots=True)
class HostRefusal:
    """Something that keeps us from changing anything, and what a person can do."""

    problem: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything that will be done to a hypervisor, in order: files, then commands.

    `record` is what the hypervisor will remember of it. `reboot_for` says what
    only a reboot brings, from this run or an earlier one; empty when nothing
    waits. `words` are those the kernel's command line must show after it,
    `bound` the PCI functions that vfio-pci must have then.
    """

    files: tuple[FileChange, ...] = ()
    commands: tuple[HostCommand, ...] = ()
    reboot_for: tuple[str, ...] = ()
    refusals: tuple[HostRefusal, ...] = ()
    notes: tuple[str, ...] = ()
    record: PreparationRecord = field(default_factory=PreparationRecord)
    words: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()

    @property
    def is_needed(self) -> bool:
        """There is something to do on the hypervisor."""
        return bool(self.files or self.commands)

    @property
    def needs_reboot(self) -> bool:
        """Something waits for a reboot."""
        return bool(self.reboot_for)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for programs."""
        return {
            "files": [
                {"path": each.path, "diff": each.diff(), "mode": each.mode, "why": each.why} for each in self.files
            ],
            "commands": [{"command": each.line, "why": each.why} for each in self.commands],
            "reboot_for": list(self.reboot_for),
            "refusals": [{"problem": each.problem, "next_step": each.next_step} for each in self.refusals],
            "notes": list(self.notes),
        }
