"""The disk of a simulated guest: a few facts in a JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.lab.guests.base import GuestFailure

_QCOW2 = b"QFI\xfb"
_HEADER_BYTES = 72


@dataclass
class SimulatedDisk:
    """How large it is, what it was made from, and which engine was installed on it."""

    size: int
    origin: str | None = None
    engine: dict[str, Any] | None = None
    boots: int = 0
    files: list[str] = field(default_factory=list)
    """Names of empty files that were touched."""

    @classmethod
    def blank(cls, size_bytes: int) -> SimulatedDisk:
        """Return an empty disk."""
        return cls(size_bytes)

    @classmethod
    def from_image(cls, source: Path) -> SimulatedDisk:
        """Return a disk made from an image file; its size is what the image says. Raises GuestFailure."""
        with source.open("rb") as file:
            head = file.read(_HEADER_BYTES)
        if head.startswith(_QCOW2) and len(head) >= 32:
            return cls(int.from_bytes(head[24:32], "big"), source.name)
        try:
            return cls(**{**json.loads(source.read_text()), "origin": source.name})
        except (ValueError, TypeError):
            pass
        if source.suffix == ".qcow2":
            raise GuestFailure(f"qemu-img: Could not open '{source.name}': Image is not in qcow2 format")
        return cls(source.stat().st_size, source.name)

    @classmethod
    def read(cls, path: Path) -> SimulatedDisk:
        """Read a disk file."""
        return cls(**json.loads(path.read_text()))

    @classmethod
    def read_if_there(cls, path: Path | None) -> SimulatedDisk | None:
        """Read a disk file, None when there is no such disk."""
        return cls.read(path) if path is not None and path.exists() else None

    def write(self, path: Path) -> None:
        """Write the disk file."""
        path.write_text(json.dumps(vars(self)))
