"""What the embedded Proxmox asks of the machinery behind its VMs.

Two backends answer: `simulated` (instant, thousands) and `qemu` (real guests).
The API side knows storages, tasks and permissions; a backend knows disks,
processes and what happens inside a guest. Neither imports the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ExitCallback = Callable[[int], Awaitable[None]]
"""Called with the VMID whenever a guest goes off by itself or by our act, once per run."""


class GuestFailure(Exception):
    """A guest could not do it; the text becomes the exit status of the task."""


class AgentSilent(Exception):
    """The guest agent does not answer (not installed, still booting, or hung)."""


class AgentRefused(Exception):
    """The guest agent answered with an error; the text is the agent's own."""


@dataclass(frozen=True, slots=True)
class DataDisk:
    """A disk beside the boot disk; `name` is that of its drive, ``scsi1`` for instance."""

    name: str
    path: Path
    serial: str = ""


@dataclass(frozen=True, slots=True)
class GuestHardware:
    """What a VM is made of at one cold start.

    `disk` is the boot disk, `more_disks` are those beside it, `seed` the attached ISO or None, `pci` the host
    addresses of the devices handed over (stand-ins here), `config` the whole
    Proxmox configuration for whatever else a backend wants to read.
    """

    vmid: int
    name: str
    cores: int
    memory_mib: int
    mac: str
    disk: Path | None
    seed: Path | None
    pci: tuple[str, ...]
    agent: bool
    config: Mapping[str, str]
    more_disks: tuple[DataDisk, ...] = ()


class GuestBackend(Protocol):
    """Runs guests. Every method may be called again after a restart of the lab.

    All methods are coroutines on one event loop and must not block it.
    """

    name: str

    def on_exit(self, callback: ExitCallback) -> None:
        """Remember whom to tell when a guest has gone off."""
        ...

    async def open(self) -> None:
        """Find guests that still run from before a restart of the lab, and watch them again."""
        ...

    async def close(self, *, stop_guests: bool) -> None:
        """Let go; with `stop_guests` also end every guest."""
        ...

    async def create_disk(self, path: Path, *, source: Path | None, size_bytes: int) -> int:
        """Make a boot disk, empty or from an image file; return its virtual size in bytes.

        With a `source` the size is the image's own and `size_bytes` is ignored.
        Raises GuestFailure when the source is no disk image.
        """
        ...

    async def resize_disk(self, path: Path, *, size_bytes: int) -> None:
        """Grow a disk to `size_bytes`."""
        ...

    async def plug_disk(self, vmid: int, disk: DataDisk) -> None:
        """Give a guest that runs one more disk; one that is off finds it at its next start. Raises GuestFailure."""
        ...

    async def clone_disk(self, source: Path, target: Path) -> None:
        """Make an independent copy of a disk."""
        ...

    async def start(self, hardware: GuestHardware) -> None:
        """Power on and return once the guest runs (not once it has booted). Raises GuestFailure."""
        ...

    async def powerdown(self, vmid: int) -> None:
        """Ask for a clean shutdown (agent if it answers, else ACPI) and return at once."""
        ...

    async def kill(self, vmid: int) -> None:
        """Cut the power and return once the guest is off."""
        ...

    async def discard(self, vmid: int) -> None:
        """Forget everything kept about a VM that is being deleted (its disks go separately)."""
        ...

    def is_running(self, vmid: int) -> bool:
        """Say whether the guest has power."""
        ...

    def pid(self, vmid: int) -> int | None:
        """Return the process behind a running guest, if there is one."""
        ...

    def uptime_seconds(self, vmid: int) -> float:
        """Return seconds since power on, 0 when off."""
        ...

    async def agent(self, vmid: int, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run one guest agent command (``guest-ping``, ``guest-network-get-interfaces``, ``guest-exec``, ...).

        Names, arguments and returned shapes are those of the QEMU guest agent
        protocol. Raises AgentSilent or AgentRefused.
        """
        ...
