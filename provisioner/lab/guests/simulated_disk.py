"""The disk of a simulated guest: a few facts in a JSON file."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.lab.guests.base import GuestFailure

_QCOW2 = b"QFI\xfb"
_HEADER_BYTES = 72
CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled"


def _new_host_key() -> str:
    """Return a public key of the right form; nobody ever asks for its private half."""
    kind = b"ssh-ed25519"
    blob = len(kind).to_bytes(4, "big") + kind + (32).to_bytes(4, "big") + secrets.token_bytes(32)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} root@guest"


@dataclass
class SimulatedDisk:
    """How large it is, what it was made from, and which engines were installed on it.

    `engine` is the one that runs, or ran when the power went; `units` are all
    that are laid down, by their systemd units, and `enabled` the one that runs
    after the next boot.
    """

    size: int
    origin: str | None = None
    engine: dict[str, Any] | None = None
    boots: int = 0
    files: list[str] = field(default_factory=list)
    """Names of empty files that were touched."""
    instances: list[str] = field(default_factory=list)
    """cloud-init's instance-ids, in the order in which their first boots were."""
    host_key: str | None = None
    """The guest's public SSH host key, a line."""
    units: dict[str, dict[str, Any]] = field(default_factory=dict)
    enabled: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    """What each engine's playbook was last given."""
    stored: list[str] = field(default_factory=list)
    """The models in Ollama's store."""

    def start_enabled(self) -> None:
        """Have the engine run that is enabled."""
        unit = self.units.get(self.enabled)
        self.engine = {**unit, "unit": self.enabled, "since": time.time()} if unit is not None else None

    def boot(self, instance: str, host_key: str | None) -> None:
        """Boot with a seed; a new instance-id is a first boot.

        Args:
            instance: the seed's instance-id.
            host_key: the public key that the seed brings along; without one the guest makes its own.
        """
        self.boots += 1
        if CLOUD_INIT_OFF in self.files or instance in self.instances:
            return
        self.instances.append(instance)
        self.host_key = host_key or _new_host_key()

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
