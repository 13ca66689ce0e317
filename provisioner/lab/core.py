"""The lab itself: its parts put together, and the little state that only lives while it runs."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from provisioner.lab import initial
from provisioner.lab.access import Access
from provisioner.lab.cluster import Cluster
from provisioner.lab.faults import FaultPlan
from provisioner.lab.faults.adversity import Adversity
from provisioner.lab.faults.happenings import HAPPENINGS
from provisioner.lab.guests.base import GuestBackend, GuestFailure
from provisioner.lab.journal import Journal
from provisioner.lab.model import Guest, TaskRecord
from provisioner.lab.pci import PciDevices
from provisioner.lab.refusals import Refusal, failed
from provisioner.lab.schema.endpoints import endpoints
from provisioner.lab.schema.validate import Schema
from provisioner.lab.storage import Storages
from provisioner.lab.store import Store
from provisioner.lab.tasks import Tasks
from provisioner.lab.tickets import Tickets
from provisioner.lab.vm.config import ConfigOptions, bytes_of, drives, is_cdrom
from provisioner.lab.vm.disks import DiskMaker
from provisioner.lab.vm.rights import VmRights

VERSIONS = {"8.4": "8.4.1", "9.1": "9.1.1"}
"""Flavour to what ``GET /version`` says."""

QEMU_VERSIONS = {8: "9.2.0", 9: "10.1.2"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabOptions:
    """How a lab behaves; everything that lasts is in `state_dir`."""

    state_dir: Path
    pve: str = "9.1"
    task_seconds: float = 0.0
    lock_seconds: float = 10.0
    auth_delay_seconds: float = 0.05
    initial_state: Mapping[str, object] | None = None
    storage_limits: Mapping[str, int] = field(default_factory=dict)
    faults: FaultPlan = field(default_factory=FaultPlan)


class Front(Protocol):
    """The server in front of a lab, for what befalls it."""

    async def restart(self, seconds: float) -> None:
        """Cut every connection and refuse new ones for a while."""
        ...

    async def renew_certificate(self) -> None:
        """Show another certificate from the next connection on."""
        ...


class _NoFront:
    """Nobody listens: a lab that is only called."""

    async def restart(self, seconds: float) -> None:
        """Do nothing."""

    async def renew_certificate(self) -> None:
        """Do nothing."""


class Lab:
    """A cluster that answers."""

    def __init__(self, options: LabOptions, backend: GuestBackend) -> None:
        self.options = options
        self.backend = backend
        self.major = int(options.pve.partition(".")[0])
        options.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.cluster = Cluster(Store(options.state_dir / "lab.sqlite"))
        self.schema = Schema(self.major)
        self.endpoints = endpoints(self.major)
        self.vm_options = ConfigOptions(self.schema)
        self.access = Access(self.cluster, self.major)
        self.storages = Storages(self.cluster, options.state_dir / "storage", backend)
        self.disks = DiskMaker(self.cluster, self.storages, self.vm_options)
        self.rights = VmRights(self.cluster, self.access, self.storages, self.vm_options)
        self.tasks = Tasks(self.cluster, least_seconds=options.task_seconds)
        self.pci = PciDevices(self.cluster)
        self.journal = Journal()
        self.tickets = Tickets(_ticket_secret(self.cluster.store))
        self.faults = options.faults
        self.adversity = Adversity()
        self.front: Front = _NoFront()
        self.tasks.fault_for = self.faults.for_task
        self.tasks.befall = self.befall
        self.tasks.lock_for = self._task_lock
        self.tasks.now = self.time
        self.restarting: set[int] = set()
        self._locks: dict[int, asyncio.Lock] = {}
        self._off: dict[int, asyncio.Event] = {}

    async def open(self) -> None:
        """Load the cluster on the first start, find running guests on later ones."""
        self.backend.on_exit(self._gone_off)
        is_new = self.cluster.is_new
        if is_new:
            initial.load(self.cluster, self.major, self.options.initial_state)
        for name, limit in self.options.storage_limits.items():
            storage = self.cluster.storage(name)
            storage.total_bytes = limit
            self.cluster.storages.save(name, storage)
        await self.backend.open()
        self.access.changed()
        if is_new:
            await self._adopt_loaded_disks()
        for guest in self.cluster.guests.values():
            if guest.run is not None and not self.backend.is_running(guest.vmid):
                if is_new:
                    await self._start_loaded(guest)
                else:
                    self.cleaned_up(guest)

    async def close(self, *, stop_guests: bool = False) -> None:
        """Stop answering; guests stay on unless told otherwise."""
        await self.tasks.close()
        await self.backend.close(stop_guests=stop_guests)
        if stop_guests:
            for guest in self.cluster.guests.values():
                if guest.run is not None:
                    self.cleaned_up(guest)
        self.cluster.store.close()

    @asynccontextmanager
    async def vm_lock(self, vmid: int) -> AsyncIterator[None]:
        """Hold the lock on a VM's configuration file. Raises Refusal when somebody else holds on to it."""
        lock = self._locks.setdefault(vmid, asyncio.Lock())
        try:
            # Not wait_for: up to Python 3.11 it swallows a cancellation that meets the lock's opening.
            async with asyncio.timeout(self.options.lock_seconds):
                await lock.acquire()
        except TimeoutError:
            raise failed(f"can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout") from None
        try:
            yield
        finally:
            lock.release()

    def time(self) -> float:
        """Return the server's time of day."""
        return time.time() + self.adversity.clock_offset_seconds

    def require_quorum(self) -> None:
        """Raise the refusal of a cluster most of whose servers are out of sight."""
        if not self.adversity.has_quorum:
            raise failed("cluster not ready - no quorum?")

    def require_writable(self, guest: Guest) -> None:
        """Raise what writing a VM's configuration ends in when there is no quorum: its file system is read-only."""
        if not self.adversity.has_quorum:
            file = f"/etc/pve/nodes/{guest.node}/qemu-server/{guest.vmid}.conf.tmp.{secrets.randbelow(30000) + 1000}"
            raise failed(f"unable to open file '{file}' - Permission denied")

    async def befall(self, name: str, arguments: Mapping[str, object]) -> None:
        """Let something happen to the cluster, by its name in a fault plan."""
        # Whoever else tried it was refused, and that is theirs to bear.
        with suppress(Refusal, GuestFailure):
            await HAPPENINGS[name](self, **arguments)

    def forget_tickets(self, secret: bytes) -> None:
        """Make every ticket handed out so far worthless."""
        self.tickets = Tickets(secret)

    def _task_lock(self, record: TaskRecord) -> AbstractAsyncContextManager[object]:
        """Return the lock that a task about a VM holds while it works."""
        is_about_vm = record.type.startswith("qm") and record.id.isdigit()
        return self.vm_lock(int(record.id)) if is_about_vm else nullcontext()

    def is_running(self, guest: Guest) -> bool:
        """Say whether a VM has power."""
        return guest.kind == "qemu" and self.backend.is_running(guest.vmid)

    def powered_on(self, vmid: int) -> None:
        """Note that a guest runs, so that its end can be waited for."""
        self._off[vmid] = asyncio.Event()

    async def wait_off(self, vmid: int, seconds: float) -> bool:
        """Return True once a guest is off, False when the time is up."""
        if not self.backend.is_running(vmid):
            return True
        event = self._off.setdefault(vmid, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return not self.backend.is_running(vmid)
        return True

    async def _gone_off(self, vmid: int) -> None:
        # A backend may speak late; by then the VM may be on again.
        if vmid in self.restarting or self.backend.is_running(vmid):
            return
        guest = self.cluster.guests.get(str(vmid))
        if guest is not None:
            self.cleaned_up(guest)
        event = self._off.pop(vmid, None)
        if event is not None:
            event.set()

    def cleaned_up(self, guest: Guest) -> None:
        """Note that a VM is off and holds nothing."""
        self.pci.release(guest.vmid)
        guest.run = None
        guest.paused = False
        self.cluster.save_guest(guest)

    async def _adopt_loaded_disks(self) -> None:
        for guest in self.cluster.guests.values():
            if guest.kind != "qemu":
                continue
            for _, parts in drives(guest.config, self.vm_options):
                if ":" in parts["file"] and not (is_cdrom(parts) and ":iso/" in parts["file"]):
                    await self.storages.adopt(parts["file"], guest, bytes_of(parts.get("size", "4M")))
            for key, value in guest.config.items():
                if key.startswith("unused"):
                    await self.storages.adopt(value, guest, 1024**3)

    async def _start_loaded(self, guest: Guest) -> None:
        from provisioner.lab.vm.power import power_on  # it needs this class

        try:
            await power_on(self, guest)
        except (GuestFailure, Refusal) as error:
            log.warning("VM %d was loaded as running but does not start: %s", guest.vmid, error)
            self.cleaned_up(guest)


def _ticket_secret(store: Store) -> bytes:
    """Return the secret behind tickets, kept so that they outlive a restart."""
    for _, kept in store.all("ticket-secret"):
        return bytes.fromhex(str(kept))
    made = secrets.token_bytes(32)
    store.put("ticket-secret", "", made.hex())
    return made
