"""Looking at one VM over a cluster's API, and changing it: what all calls about VMs share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from provisioner.adapters.proxmox.changes import Change, Crowd
from provisioner.adapters.proxmox.session import ProxmoxSession
from provisioner.adapters.proxmox.vm_config import read_config
from provisioner.domain.names import HypervisorName, Vmid
from provisioner.domain.snapshot import Power, VmConfig, VmSeen
from provisioner.errors import VmMissingError
from provisioner.ports.clock import Clock

# Making a VM copies its image: more at once only make each other, and the VMs that run there, wait for the disks.
# Proxmox's own bulk actions go by fours (max_workers); an SSD bears more.
MOST_COPIES_AT_ONCE = 8


class VmCalls:
    """The VMs of one cluster."""

    def __init__(self, session: ProxmoxSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._copying: dict[HypervisorName, threading.Semaphore] = {}
        self._crowd = Crowd()

    @property
    def calls(self) -> int:
        """API requests sent so far by the current thread."""
        return self._session.calls

    def vm(self, hypervisor: HypervisorName, vmid: Vmid) -> VmSeen | None:
        """Return a VM as it is right now, or None."""
        try:
            row = self._session.call("GET", f"{vm_path(hypervisor, vmid)}/status/current", purpose=f"look at VM {vmid}")
        except VmMissingError:
            return None
        return vm_seen(row, hypervisor, vmid)

    def config(self, hypervisor: HypervisorName, vmid: Vmid) -> VmConfig:
        """Read back a VM's configuration; one that has just vanished reads as empty."""
        try:
            return read_config(
                self._session.read(
                    f"{vm_path(hypervisor, vmid)}/pending", purpose=f"read the configuration of VM {vmid}"
                )
            )
        except VmMissingError:
            return VmConfig(notes="", disk_bytes=None)

    def set_notes(self, hypervisor: HypervisorName, vmid: Vmid, notes: str, *, digest: str = "") -> None:
        """Replace a VM's notes."""
        what, path = f"write the notes of VM {vmid}", f"{vm_path(hypervisor, vmid)}/config"
        self._change(
            what,
            lambda: self._session.call("PUT", path, purpose=what, description=notes, digest=digest or None),
            is_so=lambda: self._has_notes(hypervisor, vmid, notes),
            has_task=False,
        ).in_full()

    def _create(self, hypervisor: HypervisorName, vmid: Vmid, parameters: Mapping[str, str | int]) -> tuple[str, ...]:
        what = f"create VM {vmid}"

        def is_ours() -> bool:
            # Another writer's VM would not know the host key that these notes name.
            vm = self.vm(hypervisor, vmid)
            notes = str(parameters["description"])
            return vm is not None and vm.lock is None and self._has_notes(hypervisor, vmid, notes)

        change = self._change(
            what,
            lambda: self._session.call("POST", f"nodes/{hypervisor}/qemu", purpose=what, **parameters),
            is_so=is_ours,
            under_way=self._task_finder(hypervisor, vmid, "qmcreate"),
            # Others wait for its turn to end: few can be at it, and they look as if they were alone.
            crowd=Crowd(),
        )
        # One call, so that two threads get the same one.
        with self._copying.setdefault(hypervisor, threading.Semaphore(MOST_COPIES_AT_ONCE)):
            return change.in_full()

    def _change(
        self,
        what: str,
        send: Callable[[], object],
        *,
        is_so: Callable[[], bool],
        within: float = float("inf"),
        **more: Any,
    ) -> Change:
        shared: dict[str, Any] = {"within": min(within, self._session.cluster.task_seconds), "crowd": self._crowd}
        return Change(self._session, self._clock, what, send, is_so, **shared | more)

    def active_tasks(self, hypervisor: HypervisorName, vmid: Vmid) -> frozenset[str]:
        """Return the kinds of tasks that work on a VM right now."""
        tasks = self._session.call(
            "GET", f"nodes/{hypervisor}/tasks", purpose=f"see what works on VM {vmid}", source="active"
        )
        # A clone's task goes by the VM that is cloned: which one it makes cannot be told.
        return frozenset(
            str(task["type"]) for task in tasks if str(task.get("id")) == str(vmid) or task["type"] == "qmclone"
        )

    def going_down(self, hypervisor: HypervisorName) -> frozenset[Vmid]:
        """Return the VMs that a task shuts down, stops or reboots right now."""
        purpose = f"see which VMs are being shut down on {hypervisor}"
        tasks = self._session.call("GET", f"nodes/{hypervisor}/tasks", purpose=purpose, source="active")
        return frozenset(Vmid(int(task["id"])) for task in tasks if task["type"] in _DOWN and not task.get("endtime"))

    def _task_finder(self, hypervisor: HypervisorName, vmid: Vmid, kind: str) -> Callable[[], str | None]:
        """Return a look for a task of one kind that works on a VM right now."""

        def found() -> str | None:
            tasks = self._session.call("GET", f"nodes/{hypervisor}/tasks", source="active", vmid=vmid, typefilter=kind)
            return next((str(task["upid"]) for task in tasks), None)

        return found

    def _has_notes(self, hypervisor: HypervisorName, vmid: Vmid, notes: str) -> bool:
        # Proxmox keeps notes as comment lines, and is free with white space at their end.
        return self.config(hypervisor, vmid).notes.strip() == notes.strip()


# After each of them an engine that still answers is gone.
_DOWN = frozenset({"qmshutdown", "qmstop", "qmreboot"})
# What QEMU calls a VM that has power and does not run on (qapi/run-state.json). The cluster's report does not say.
_HALTS = frozenset({"paused", "io-error", "internal-error", "guest-panicked"})


def vm_path(hypervisor: HypervisorName, vmid: Vmid) -> str:
    """Return a VM's path in the API."""
    return f"nodes/{hypervisor}/qemu/{vmid}"


def vm_seen(row: Mapping[str, Any], hypervisor: HypervisorName, vmid: Vmid) -> VmSeen:
    """Read a VM out of one row of an answer."""
    status = str(row.get("status", ""))
    power = Power(status) if status in (Power.RUNNING.value, Power.STOPPED.value) else Power.UNKNOWN
    return VmSeen(
        vmid=vmid,
        name=str(row.get("name", "")),
        hypervisor=hypervisor,
        power=power,
        # Separators are semicolons as stored, but every one that is accepted is read.
        tags=frozenset(str(row.get("tags") or "").replace(",", ";").replace(" ", ";").split(";")) - {""},
        lock=str(row["lock"]) if row.get("lock") else None,
        uptime_seconds=float(row.get("uptime") or 0),
        halt=qemu if (qemu := str(row.get("qmpstatus", ""))) in _HALTS else None,
        is_container=row.get("type") == "lxc",
        is_template=bool(int(row.get("template") or 0)),
    )
