"""Watches the QEMU processes behind guests, by handles that cannot mean another process.

A pid may be reused; a pidfd never is. It also tells of an exit without polling,
whether or not the process is our child, so guests found again after a restart of
the lab are watched like new ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from provisioner.lab.guests.base import GuestFailure

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class WatchedProcess:
    """A living QEMU process, and a promise to say when it is gone."""

    def __init__(self, pid: int, handle: int, command: list[str], on_gone: Callable[[], None]) -> None:
        self.pid = pid
        self.command = command
        self._handle = handle
        self._on_gone = on_gone
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(handle, self._notice)

    def cut_power(self) -> None:
        """Have QEMU end at once, without a word to its guest.

        It first writes down where in the image the guest's data lie: what a guest has synced is on a real disk, too,
        when its power goes. A SIGKILL would lose that, and the file system with it.
        """
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End a QEMU that does not hear any more."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if not self._gone.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    async def gone(self, seconds: float) -> None:
        """Wait for the end. Raises GuestFailure when it does not come in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError as error:
            raise GuestFailure(f"process {self.pid} did not end within {seconds:.0f} s") from error

    def uptime_seconds(self) -> float:
        """Return how long the process has lived, by the kernel's account."""
        try:
            fields = (
                Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            )
            now = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        except OSError:
            return 0.0
        # Field 22 of the file; the part after the name begins with field 3.
        return max(0.0, now - int(fields[19]) / _CLOCK_TICKS)

    def release(self) -> None:
        """Stop watching without touching the process."""
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def _notice(self) -> None:
        self.release()
        self._gone.set()
        self._on_gone()


def adopt(pid_file: Path, on_gone: Callable[[], None]) -> WatchedProcess | None:
    """Find the living QEMU that wrote `pid_file` and watch it; None when there is none."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        handle = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    # Asked after the handle was taken: should the pid be reused now, the handle still means the old process.
    command = command_of(pid)
    if "-pidfile" in command and str(pid_file) in command:
        return WatchedProcess(pid, handle, command, on_gone)
    os.close(handle)
    return None


def command_of(pid: int) -> list[str]:
    """Return the command line of a process, empty when it is gone or a zombie."""
    try:
        return [os.fsdecode(part) for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []
