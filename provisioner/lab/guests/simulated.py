"""Guests that are only pretended: instant, thousands of them, but honest in what they refuse.

A disk is a small JSON file. Running is a fact in memory and a file next to it,
so that guests outlive the lab as real ones would. Only a guest that serves an
engine owns a socket.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.lab.guests.base import AgentSilent, DataDisk, ExitCallback, GuestFailure, GuestHardware
from provisioner.lab.guests.seed import SeedUnreadable, outside_address, read_seed
from provisioner.lab.guests.simulated_agent import SimulatedAgent
from provisioner.lab.guests.simulated_disk import SimulatedDisk
from provisioner.lab.guests.simulated_engine import ENGINE_FAULTS, SimulatedEngine
from provisioner.lab.guests.simulated_gpu import gpu_answer
from provisioner.lab.guests.simulated_journal import Entry, engine_journal
from provisioner.lab.guests.simulated_ollama import SimulatedOllama
from provisioner.lab.guests.simulated_units import death_of

FaultLookup = Callable[[int], frozenset[str]]
_LOG = logging.getLogger(__name__)
_SERVES_NOTHING = frozenset({"never_boots", "dies_at_boot", "engine_never_answers"})
_SILENT_SECONDS = 3.0
"""How long Proxmox waits for an agent that does not answer."""


@dataclass
class _Running:
    """A guest with power."""

    hardware: GuestHardware
    since: float
    faults: frozenset[str] = frozenset()
    hostname: str = ""
    address: str | None = None
    prefix: int = 24
    agent: SimulatedAgent | None = None
    engine: SimulatedEngine | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class SimulatedBackend:
    """Implements GuestBackend without any machine."""

    name = "simulated"

    def __init__(
        self,
        run_dir: Path,
        *,
        boot_seconds: float = 0.0,
        engine_seconds: float = 0.0,
        shutdown_seconds: float = 0.0,
        agent_wait_seconds: float = 0.0,
        faults: FaultLookup = lambda vmid: frozenset(),
    ) -> None:
        self._run_dir = run_dir
        self._boot_seconds = boot_seconds
        self._engine_seconds = engine_seconds
        self._shutdown_seconds = shutdown_seconds
        self._agent_wait_seconds = agent_wait_seconds
        self._faults = faults
        self._running: dict[int, _Running] = {}
        self._callbacks: list[ExitCallback] = []

    def on_exit(self, callback: ExitCallback) -> None:
        """Remember whom to tell when a guest has gone off."""
        self._callbacks.append(callback)

    async def open(self) -> None:
        """Find the guests that ran when the lab went away."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._run_dir.glob("*.json")):
            kept = json.loads(path.read_text())
            hardware = _hardware_from(kept["hardware"])
            guest = _Running(hardware, kept["since"], frozenset(kept["faults"]))
            await self._bring_up(guest)

    async def close(self, *, stop_guests: bool) -> None:
        """Let go of sockets; without `stop_guests` the guests are found again by the next lab."""
        for vmid in list(self._running):
            if stop_guests:
                await self._end(vmid)
            else:
                await self._let_go(self._running.pop(vmid))

    async def create_disk(self, path: Path, *, source: Path | None, size_bytes: int) -> int:
        """Write a disk file that remembers its size and where it came from."""
        disk = SimulatedDisk.blank(size_bytes) if source is None else SimulatedDisk.from_image(source)
        disk.write(path)
        return disk.size

    async def resize_disk(self, path: Path, *, size_bytes: int) -> None:
        """Note the new size."""
        disk = SimulatedDisk.read(path)
        disk.size = size_bytes
        disk.write(path)

    async def plug_disk(self, vmid: int, disk: DataDisk) -> None:
        """Do nothing: whether a disk is there, nobody here looks."""

    async def clone_disk(self, source: Path, target: Path) -> None:
        """Copy the file."""
        shutil.copyfile(source, target)

    async def start(self, hardware: GuestHardware) -> None:
        """Power on."""
        if hardware.vmid in self._running:
            raise GuestFailure(f"VM {hardware.vmid} already running")
        if hardware.disk is not None and not hardware.disk.exists():
            raise GuestFailure(f"start failed: Could not open '{hardware.disk}': No such file or directory")
        guest = _Running(hardware, time.time(), self._faults(hardware.vmid))
        self._run_dir.mkdir(parents=True, exist_ok=True)
        kept = {"hardware": _hardware_as_json(hardware), "since": guest.since, "faults": sorted(guest.faults)}
        self._record(hardware.vmid).write_text(json.dumps(kept))
        await self._bring_up(guest)

    async def powerdown(self, vmid: int) -> None:
        """Ask for a clean shutdown; a guest that has booted obeys unless told to ignore it."""
        guest = self._running.get(vmid)
        if guest is None or {"ignores_powerdown", "never_boots", "hangs"} & guest.faults:
            return
        self._later(guest, self._shut_down(vmid))

    async def kill(self, vmid: int) -> None:
        """Cut the power."""
        await self._end(vmid)

    async def discard(self, vmid: int) -> None:
        """Forget a VM."""
        await self._end(vmid)

    def is_running(self, vmid: int) -> bool:
        """Say whether the guest has power."""
        return vmid in self._running

    def pid(self, vmid: int) -> int | None:
        """Return a made-up process id, stable per VM."""
        return 100_000 + vmid if vmid in self._running else None

    def uptime_seconds(self, vmid: int) -> float:
        """Return seconds since power on."""
        guest = self._running.get(vmid)
        # Proxmox never shows a running VM with an uptime of nothing.
        return max(1.0, time.time() - guest.since) if guest is not None else 0.0

    async def agent(self, vmid: int, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Answer as a guest agent would, once the guest has booted."""
        guest = self._running.get(vmid)
        if (
            guest is None
            or guest.agent is None
            or not self._has_booted(guest)
            or {"agent_silent", "hangs"} & guest.faults
        ):
            await asyncio.sleep(self._agent_wait_seconds)
            raise AgentSilent
        if command == "guest-shutdown":
            await self.powerdown(vmid)
            return {}
        return guest.agent.answer(command, arguments or {})

    def boot_remaining_seconds(self, guest_since: float) -> float:
        """Return how long a guest still boots."""
        return max(0.0, guest_since + self._boot_seconds - time.time())

    def _has_booted(self, guest: _Running) -> bool:
        return "never_boots" not in guest.faults and time.time() >= guest.since + self._boot_seconds

    async def _bring_up(self, guest: _Running) -> None:
        hardware = guest.hardware
        self._running[hardware.vmid] = guest
        guest.hostname = hardware.name
        disk = SimulatedDisk.read_if_there(hardware.disk)
        if hardware.seed is not None and hardware.seed.exists():
            try:
                seed = read_seed(hardware.seed)
            except SeedUnreadable:
                seed = None
            if seed is not None:
                name = seed.user_data.get("hostname") or seed.meta_data.get("local-hostname")
                guest.hostname = str(name) if name else guest.hostname
                if seed.address is not None:
                    guest.address = str(seed.address.ip)
                    guest.prefix = seed.address.network.prefixlen
                if disk is not None and hardware.disk is not None:
                    disk.boot(seed.instance_id, seed.host_key)
                    disk.write(hardware.disk)
        if hardware.agent and disk is not None:
            guest.agent = SimulatedAgent(
                hostname=guest.hostname,
                address=guest.address,
                prefix=guest.prefix,
                mac=hardware.mac,
                disk=disk,
                disk_path=hardware.disk,
                configured=lambda: self._later(guest, self._serve(guest)),
                journal=lambda: self._engine_journal(guest),
                faults=guest.faults,
                gpus=lambda words: self._gpu_answer(guest, words),
            )
        if disk is not None and hardware.disk is not None and disk.units:
            disk.start_enabled()
            disk.write(hardware.disk)
        if disk is not None and disk.engine is not None:
            self._later(guest, self._serve(guest))
        if "dies_at_boot" in guest.faults:
            self._later(guest, self._shut_down(hardware.vmid))

    @staticmethod
    def _gpu_answer(guest: _Running, words: Sequence[str]) -> str:
        # A card's sound and USB functions are devices of their own.
        cards = sum(address.endswith(".0") for address in guest.hardware.pci)
        return gpu_answer(words, cards, serves=guest.engine is not None, faults=guest.faults)

    @staticmethod
    def _engine_journal(guest: _Running) -> list[Entry]:
        disk = SimulatedDisk.read_if_there(guest.hardware.disk)
        if disk is None or disk.engine is None or "engine_never_answers" in guest.faults:
            return []
        unit, port = str(disk.engine.get("unit", "llm-engine.service")), int(disk.engine.get("port", 8080))
        return engine_journal(unit, port, death_of(disk.engine, guest.faults), guest.since)

    async def _serve(self, guest: _Running) -> None:
        """Serve the engine that is installed on the disk, once the guest has booted."""
        if guest.address is None or _SERVES_NOTHING & guest.faults:
            return
        remaining = self.boot_remaining_seconds(guest.since)
        if remaining:
            await asyncio.sleep(remaining)
        disk = SimulatedDisk.read_if_there(guest.hardware.disk)
        if guest.engine is not None:
            await guest.engine.close()
            guest.engine = None
        if disk is None or disk.engine is None or death_of(disk.engine, guest.faults) is not None:
            return
        from ipaddress import IPv4Address

        kind = str(disk.engine.get("engine", "llama.cpp"))
        on_gpu = bool(guest.hardware.pci) and "engine_on_cpu" not in guest.faults
        engine = SimulatedEngine(
            host=outside_address(IPv4Address(guest.address)),
            port=int(disk.engine.get("port", 8080)),
            model=str(disk.engine.get("model", "model")),
            kind=kind,
            ollama=SimulatedOllama(disk.stored, on_gpu=on_gpu, changed=guest.agent.note_stored)
            if kind == "ollama" and guest.agent is not None
            else None,
            loading_seconds=self._engine_seconds,
            key_sha256=str(disk.engine.get("key_sha256", "")),
            fault=next(iter(sorted(ENGINE_FAULTS & guest.faults)), None),
        )
        guest.engine = engine
        try:
            await engine.open()
        except OSError as error:
            # Another lab's guest has the address; this one stays silent, as a guest without a network would.
            _LOG.warning("vm %s: no engine at %s: %s", guest.hardware.vmid, guest.address, error.strerror)
            if guest.engine is engine:
                guest.engine = None

    async def _shut_down(self, vmid: int) -> None:
        await asyncio.sleep(self._shutdown_seconds)
        await self._end(vmid)

    async def _end(self, vmid: int) -> None:
        guest = self._running.pop(vmid, None)
        if guest is None:
            return
        self._record(vmid).unlink(missing_ok=True)
        await self._let_go(guest)
        for callback in self._callbacks:
            await callback(vmid)

    async def _let_go(self, guest: _Running) -> None:
        own = asyncio.current_task()
        for task in guest.tasks:
            if task is not own:
                task.cancel()
        if guest.engine is not None:
            await guest.engine.close()

    def _later(self, guest: _Running, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        guest.tasks.add(task)
        task.add_done_callback(guest.tasks.discard)

    def _record(self, vmid: int) -> Path:
        return self._run_dir / f"{vmid}.json"


def _hardware_as_json(hardware: GuestHardware) -> dict[str, object]:
    return {
        "vmid": hardware.vmid,
        "name": hardware.name,
        "cores": hardware.cores,
        "memory_mib": hardware.memory_mib,
        "mac": hardware.mac,
        "disk": str(hardware.disk) if hardware.disk else None,
        "seed": str(hardware.seed) if hardware.seed else None,
        "pci": list(hardware.pci),
        "agent": hardware.agent,
        "config": dict(hardware.config),
    }


def _hardware_from(kept: dict[str, Any]) -> GuestHardware:
    paths = {key: Path(kept[key]) if kept[key] else None for key in ("disk", "seed")}
    return GuestHardware(**{**kept, **paths, "pci": tuple(kept["pci"])})
