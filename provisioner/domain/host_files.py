"""A hypervisor's configuration files as they are, byte for byte, and the record of what we changed in them.

Values only. The record lies on the hypervisor itself, beside copies of the
originals, so that anybody can undo our work, with or without us.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

RECORD_FOLDER = "/var/lib/provisioner/prepared"
RECORD_FILE = f"{RECORD_FOLDER}/record.json"
REFRESH_MARKER = f"{RECORD_FOLDER}/refresh-needed"
ORIGINALS_FOLDER = f"{RECORD_FOLDER}/originals"


class Refresh(Enum):
    """What must be rebuilt from configuration files before the next boot reads them."""

    INITRAMFS = "update-initramfs -u -k all"
    GRUB = "update-grub"
    BOOT_TOOL = "proxmox-boot-tool refresh"


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file that exists. `content` is None where it is no text of its own; `trouble` says why: "is a link to ...".

    `mode` is octal text such as ``0644``.
    """

    path: str
    content: str | None
    mode: str = "0644"
    owner: str = "root"
    group: str = "root"
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """What the record says of one file: how it was, what we made of it, where the original is.

    `before` and `after` are SHA-256 sums, None where there was, or is, no file.
    `earlier_copies` are originals that were set aside because somebody edited
    the file between two of our runs.
    """

    path: str
    before: str | None
    after: str | None
    copy: str | None
    mode: str
    owner: str
    group: str
    refresh: tuple[Refresh, ...] = ()
    earlier_copies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreparationRecord:
    """All files we changed, and the boot during which we did it last."""

    files: tuple[KeptFile, ...] = ()
    boot_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunningGuest:
    """A VM or container that a reboot of the hypervisor shuts down."""

    vmid: int
    name: str
    is_container: bool = False

    def __str__(self) -> str:
        return f"{'container' if self.is_container else 'VM'} {self.vmid} ({self.name or 'unnamed'})"


@dataclass(frozen=True, slots=True)
class HostState:
    """What `prepare` must know of a hypervisor beside its facts.

    `node` is what its cluster calls this server, None where that was not told.
    `files` holds what exists of the files that prepare reads or may change, and
    the copies it made; `record_sum` is the SHA-256 of the record's own file;
    `refresh_needed` is set while an earlier run was cut off
    between changing files and refreshing what is made from them.
    `read_only` names the folders we write to that cannot be written.
    `boot_menu` is the kernel lines of GRUB's generated menu, None where there is none.
    `mapped_slots` are the PCI slots of each mapping on this hypervisor, and `guests`
    what runs on it; None where Proxmox did not say.
    """

    boot_id: str
    node: str | None = None
    files: Mapping[str, HostFile] = field(default_factory=dict)
    record: PreparationRecord = PreparationRecord()
    record_sum: str | None = None
    refresh_needed: tuple[Refresh, ...] = ()
    has_python: bool = True
    read_only: tuple[str, ...] = ()
    boot_menu: tuple[str, ...] | None = None
    mapped_slots: Mapping[str, tuple[str, ...]] | None = None
    guests: tuple[RunningGuest, ...] | None = None

    def text(self, path: str) -> str | None:
        """Return a file's content; None where there is no such file, or none that can be read."""
        found = self.files.get(path)
        return None if found is None else found.content

    def sum(self, path: str) -> str | None:
        """Return the SHA-256 of a file's content; None where there is no such file."""
        text = self.text(path)
        return None if text is None else sha256(text)


def sha256(text: str) -> str:
    """Return the SHA-256 of a text as UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
