"""Runs guests as QEMU processes that outlive the lab and are found again by their pid files.

Nothing is remembered that the machine knows better: which guests run, since when
and with what disk is read from the processes themselves. What the API allows
when is not decided here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from qemu.qmp import QMPClient, QMPError

from provisioner.lab.guests.acceleration import Acceleration, choose
from provisioner.lab.guests.base import AgentSilent, ExitCallback, GuestFailure, GuestHardware
from provisioner.lab.guests.qemu.command_line import DISK_NODE, Boot, GuestFiles, Limits, command_line
from provisioner.lab.guests.qemu.disks import Disks
from provisioner.lab.guests.qemu.network import network_of_seed, refuse_taken_ports
from provisioner.lab.guests.qemu.process import WatchedProcess, adopt
from provisioner.lab.guests.qga import GuestAgent
from provisioner.lab.images.guest_image import manifests

START_SECONDS = 60.0
KILL_SECONDS = 20.0
_LAST_WRITES_SECONDS = 10.0
MONITOR_SECONDS = 10.0
AGENT_PATIENCE_SECONDS = 2.0
"""How long a shutdown waits for a sign of the agent before it presses the power button instead."""

_LONGEST_SOCKET_PATH = 100
"""The kernel takes 107 bytes."""

_UEFI_CODE = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_CODE.fd"))


class QemuBackend:
    """Implements `GuestBackend` with real guests.

    Args:
        run_dir: where bases of disks, pid files, sockets and logs of guests live.
        boot_dir: the image cache whose manifests say which kernel boots which image;
            an image without one is booted by firmware.
        acceleration: auto, kvm or tcg.
        max_cores: the most virtual processors a guest gets; default is what this machine has.
        max_memory_mib: the most memory a guest gets; default is half of this machine's.
        internet: whether guests have a way out through this machine.
    """

    name = "qemu"

    def __init__(
        self,
        run_dir: Path,
        boot_dir: Path | None = None,
        acceleration: str = "auto",
        *,
        max_cores: int | None = None,
        max_memory_mib: int | None = None,
        internet: bool = False,
    ) -> None:
        self._run_dir = run_dir.absolute()
        self._boot_dir = boot_dir
        self._setting = acceleration
        self._internet = internet
        self._limits = Limits(
            cores=max_cores or os.cpu_count() or 1, memory_mib=max_memory_mib or _half_of_memory_mib()
        )
        self._disks = Disks(self._run_dir / "bases", boot_dir)
        self._sockets = _socket_folder(self._run_dir)
        self._guests: dict[int, WatchedProcess] = {}
        self._agents: dict[int, GuestAgent] = {}
        self._starting: set[int] = set()
        self._callback: ExitCallback | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._chosen: Acceleration | None = None

    def on_exit(self, callback: ExitCallback) -> None:
        """Remember whom to tell when a guest has gone off."""
        self._callback = callback

    async def open(self) -> None:
        """Choose the acceleration and find guests that still run."""
        await self._acceleration()
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._sockets.lstat().st_uid != os.getuid():
            raise GuestFailure(f"cannot keep sockets in {self._sockets}: the folder belongs to another user")
        for pid_file in sorted((self._run_dir / "vms").glob("*/qemu.pid")):
            if pid_file.parent.name.isdecimal():
                self._find(int(pid_file.parent.name))

    async def close(self, *, stop_guests: bool) -> None:
        """Let go of the guests, or end them."""
        if stop_guests:
            await asyncio.gather(*(self.kill(vmid) for vmid in list(self._guests)))
            if self._telling:
                await asyncio.wait(self._telling, timeout=KILL_SECONDS)
        for guest in self._guests.values():
            guest.release()
        self._guests.clear()
        self._agents.clear()

    async def create_disk(self, path: Path, *, source: Path | None, size_bytes: int) -> int:
        """Make a disk in qcow2 format, whatever its name ends in."""
        if source is None:
            return await asyncio.to_thread(self._disks.create_empty, path, size_bytes)
        return await asyncio.to_thread(self._disks.create_from_image, path, source)

    async def resize_disk(self, path: Path, *, size_bytes: int) -> None:
        """Grow a disk, through the monitor of the guest that holds it open if there is one."""
        for vmid, guest in self._guests.items():
            if any(f"file={path}," in part for part in guest.command):
                await self._monitor(vmid, "block_resize", {"device": DISK_NODE, "size": size_bytes})
                return
        await asyncio.to_thread(self._disks.resize, path, size_bytes)

    async def clone_disk(self, source: Path, target: Path) -> None:
        """Copy a disk; what the copies still have in common is the read-only base."""
        await asyncio.to_thread(self._disks.clone, source, target)

    async def start(self, hardware: GuestHardware) -> None:
        """Power on. Raises GuestFailure with QEMU's own words when it cannot."""
        vmid = hardware.vmid
        if vmid in self._guests or vmid in self._starting or self._find(vmid):
            raise GuestFailure(f"VM {vmid} already running")
        self._starting.add(vmid)
        try:
            await self._launch(hardware)
        finally:
            self._starting.discard(vmid)

    async def powerdown(self, vmid: int) -> None:
        """Ask the agent for a shutdown, or press the power button when it is silent."""
        if vmid not in self._guests:
            return
        if vmid in self._agents:
            with suppress(AgentSilent):
                await self._agents[vmid].execute("guest-shutdown", sync_seconds=AGENT_PATIENCE_SECONDS)
                return
        await self._monitor(vmid, "system_powerdown")

    async def kill(self, vmid: int) -> None:
        """Cut the power and wait until the process is gone."""
        guest = self._guests.get(vmid)
        if guest is not None:
            guest.cut_power()
            try:
                await guest.gone(_LAST_WRITES_SECONDS)
            except GuestFailure:
                guest.kill()
                await guest.gone(KILL_SECONDS)

    async def discard(self, vmid: int) -> None:
        """Forget a VM: its logs, its pid file, its sockets."""
        await self.kill(vmid)
        await asyncio.to_thread(shutil.rmtree, self._files(vmid).pid.parent, ignore_errors=True)
        self._files(vmid).monitor.unlink(missing_ok=True)
        self._files(vmid).agent.unlink(missing_ok=True)

    def is_running(self, vmid: int) -> bool:
        """Say whether the guest has power."""
        return vmid in self._guests

    def pid(self, vmid: int) -> int | None:
        """Return the QEMU process of a running guest."""
        guest = self._guests.get(vmid)
        return guest.pid if guest else None

    def uptime_seconds(self, vmid: int) -> float:
        """Return seconds since power on, 0 when off."""
        guest = self._guests.get(vmid)
        return guest.uptime_seconds() if guest else 0.0

    async def agent(self, vmid: int, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run one guest agent command."""
        if vmid not in self._guests:
            raise AgentSilent(f"VM {vmid} is not running")
        if vmid not in self._agents:
            raise AgentSilent(f"VM {vmid} has no guest agent channel")
        return await self._agents[vmid].execute(command, arguments)

    def serial_log(self, vmid: int) -> Path:
        """Return the file with what the guest wrote on its serial console since power on."""
        return self._files(vmid).serial

    async def _launch(self, hardware: GuestHardware) -> None:
        files = self._files(hardware.vmid)
        chosen = await self._acceleration()
        boot = await asyncio.to_thread(self._prepare, hardware, files)
        network = await asyncio.to_thread(network_of_seed, hardware.seed)
        if network is not None:
            refuse_taken_ports(network)
            network = replace(network, is_closed=not self._internet)
        command = command_line(
            hardware, files=files, boot=boot, network=network, acceleration=chosen, limits=self._limits
        )
        with files.log.open("wb") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise GuestFailure(f"cannot run {command[0]}: {error.strerror or error}") from error
            try:
                async with asyncio.timeout(START_SECONDS):
                    code = await process.wait()
            except BaseException:
                with suppress(ProcessLookupError):
                    process.kill()
                raise
        if code != 0:
            raise GuestFailure(f"QEMU ended with {code}: {_last_words(files.log)}")
        if not self._find(hardware.vmid):
            raise GuestFailure(f"QEMU started and was gone at once: {_last_words(files.log)}")

    def _prepare(self, hardware: GuestHardware, files: GuestFiles) -> Boot:
        files.pid.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in (files.pid, files.monitor, files.agent):
            left_behind.unlink(missing_ok=True)
        boot = self._disks.boot_for(hardware.disk)
        if boot.kernel is not None or hardware.config.get("bios") != "ovmf":
            return boot
        code = next((path for path in _UEFI_CODE if path.exists()), None)
        if code is None:
            raise GuestFailure("cannot boot by UEFI: no OVMF firmware on this machine (package ovmf)")
        if not files.variables.exists():
            shutil.copyfile(code.with_name(code.name.replace("CODE", "VARS")), files.variables)
        return Boot(uefi=code)

    def _find(self, vmid: int) -> bool:
        files = self._files(vmid)
        guest = adopt(files.pid, lambda: self._gone(vmid))
        if guest is None:
            return False
        self._guests[vmid] = guest
        if any(part.startswith("socket,id=qga0,") for part in guest.command):
            self._agents[vmid] = GuestAgent(files.agent)
        return True

    def _gone(self, vmid: int) -> None:
        self._guests.pop(vmid, None)
        self._agents.pop(vmid, None)
        if self._callback is not None:
            task = asyncio.ensure_future(self._callback(vmid))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _monitor(self, vmid: int, command: str, arguments: dict[str, object] | None = None) -> None:
        client = QMPClient(f"vm{vmid}")
        try:
            async with asyncio.timeout(MONITOR_SECONDS):
                await client.connect(str(self._files(vmid).monitor))
                try:
                    await client.execute(command, arguments)
                finally:
                    await client.disconnect()
        except (QMPError, OSError, TimeoutError) as error:
            if vmid in self._guests:
                raise GuestFailure(f"VM {vmid} monitor: {command} failed: {error}") from error

    async def _acceleration(self) -> Acceleration:
        if self._chosen is None:
            images = manifests(self._boot_dir) if self._boot_dir is not None else iter(())
            kernel = next((image.kernel for image in images), None)
            self._chosen = await asyncio.to_thread(
                lambda: choose(self._setting, remembered_in=self._run_dir / "acceleration.json", kernel=kernel)
            )
        return self._chosen

    def _files(self, vmid: int) -> GuestFiles:
        folder = self._run_dir / "vms" / str(vmid)
        return GuestFiles(
            pid=folder / "qemu.pid",
            monitor=self._sockets / f"{vmid}.qmp",
            agent=self._sockets / f"{vmid}.qga",
            serial=folder / "serial.log",
            log=folder / "qemu.log",
            variables=folder / "uefi-variables.fd",
        )


def _socket_folder(run_dir: Path) -> Path:
    """Return where sockets go: beside the rest, or, where their names would be too long, in a short place.

    The short place follows from run_dir alone, so that a restarted lab finds it again.
    """
    beside = run_dir / "sockets"
    if len(os.fsencode(beside)) + len("/999999999.qmp") <= _LONGEST_SOCKET_PATH:
        return beside
    short = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:12]
    # Not the user's runtime folder: that one goes when the user logs out, and guests stay.
    return Path(tempfile.gettempdir()) / f"provisioner-lab-{os.getuid()}-{short}"


def _half_of_memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (2 << 20)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    # Under software emulation QEMU first complains of every processor feature it lacks.
    telling = [line.strip() for line in lines if line.strip() and "doesn't support requested feature" not in line]
    return " | ".join(telling[-3:]) or "no message"
