"""The port `Hypervisors` over one cluster's API."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from provisioner.adapters.proxmox.session import ProxmoxSession, VmMissing
from provisioner.adapters.proxmox.tasks import TaskTicket
from provisioner.adapters.proxmox.vm_config import BOOT_DISK, create_parameters, disk_size, read_config
from provisioner.domain.actions import VmShape
from provisioner.domain.fleet import ImageSpec
from provisioner.domain.names import HypervisorName, MappingId, StorageName, Vmid
from provisioner.domain.snapshot import (
    ClusterSnapshot,
    MappingSeen,
    Power,
    StorageSeen,
    VmConfig,
    VmSeen,
)
from provisioner.errors import HypervisorError, ShutdownIgnoredError
from provisioner.ports.clock import Clock

_IGNORED = "VM quit/powerdown failed - got timeout"


class _IsoFile(io.BytesIO):
    """Bytes with a file name, which becomes the name of the upload."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name


class ProxmoxHypervisors:
    """One cluster."""

    def __init__(self, session: ProxmoxSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    @property
    def calls(self) -> int:
        """API requests sent so far by the current thread."""
        return self._session.calls

    def snapshot(self) -> ClusterSnapshot:
        """Look at the whole cluster in one call."""
        rows = self._session.call("GET", "cluster/resources")
        return ClusterSnapshot(
            hypervisors={HypervisorName(row["node"]): row.get("status") == "online" for row in _of(rows, "node")},
            vms={
                Vmid(int(row["vmid"])): _vm(row, HypervisorName(row["node"]), Vmid(int(row["vmid"])))
                for kind in ("qemu", "lxc")  # they share the VMIDs
                for row in _of(rows, kind)
            },
            storages={(storage.hypervisor, storage.name): storage for storage in map(_storage, _of(rows, "storage"))},
        )

    def mappings(self, hypervisor: HypervisorName) -> Mapping[MappingId, MappingSeen]:
        """Return the PCI mappings with Proxmox's own findings for one hypervisor."""
        rows = self._session.call("GET", "cluster/mapping/pci", check_node=hypervisor)
        return {
            MappingId(row["id"]): MappingSeen(
                MappingId(row["id"]), tuple(str(check["message"]).strip() for check in row.get("checks", []))
            )
            for row in rows
        }

    def volumes(self, hypervisor: HypervisorName, storage: StorageName, content: str) -> frozenset[str]:
        """Return the file names of one content type on a storage."""
        rows = self._session.call("GET", f"nodes/{hypervisor}/storage/{storage}/content", content=content)
        return frozenset(str(row["volid"]).rpartition("/")[2] for row in rows)

    def vm(self, hypervisor: HypervisorName, vmid: Vmid) -> VmSeen | None:
        """Return a VM as it is right now, or None."""
        try:
            row = self._session.call("GET", f"{_vm_path(hypervisor, vmid)}/status/current")
        except VmMissing:
            return None
        return _vm(row, hypervisor, vmid)

    def config(self, hypervisor: HypervisorName, vmid: Vmid) -> VmConfig:
        """Read back a VM's configuration; one that has just vanished reads as empty."""
        try:
            return read_config(self._session.call("GET", f"{_vm_path(hypervisor, vmid)}/config"))
        except VmMissing:
            return VmConfig(notes="", disk_bytes=None)

    def download_image(self, hypervisor: HypervisorName, storage: StorageName, image: ImageSpec) -> None:
        """Have the hypervisor fetch an image and verify its checksum."""
        upid = self._session.call(
            "POST",
            f"nodes/{hypervisor}/storage/{storage}/download-url",
            content="import",
            filename=image.volume_name,
            url=image.url,
            checksum=image.sha256,
            checksum_algorithm="sha256",
        )
        self._wait(upid, f'download image "{image.name}" to storage "{storage}"')

    def upload_iso(self, hypervisor: HypervisorName, storage: StorageName, name: str, content: bytes) -> None:
        """Upload an ISO, replacing one of the same name."""
        path = f"nodes/{hypervisor}/storage/{storage}/upload"
        upid = self._session.call("POST", path, content="iso", filename=_IsoFile(name, content))
        self._wait(upid, f'upload {name} to storage "{storage}"')

    def create_vm(self, hypervisor: HypervisorName, shape: VmShape, notes: str) -> None:
        """Create a VM with our tag."""
        upid = self._session.call("POST", f"nodes/{hypervisor}/qemu", **create_parameters(shape, notes))
        self._wait(upid, f"create VM {shape.vmid}")

    def set_notes(self, hypervisor: HypervisorName, vmid: Vmid, notes: str) -> None:
        """Replace a VM's notes."""
        self._session.call("PUT", f"{_vm_path(hypervisor, vmid)}/config", description=notes)

    def grow_disk(self, hypervisor: HypervisorName, vmid: Vmid, size_bytes: int) -> None:
        """Grow the boot disk."""
        size = disk_size(size_bytes)
        upid = self._session.call("PUT", f"{_vm_path(hypervisor, vmid)}/resize", disk=BOOT_DISK, size=size)
        self._wait(upid, f"grow the disk of VM {vmid} to {size}")

    def start_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> TaskTicket:
        """Power on; returns as soon as Proxmox has accepted it."""
        return self._task(self._power(hypervisor, vmid, "start"), f"start VM {vmid}")

    def shut_down_vm(self, hypervisor: HypervisorName, vmid: Vmid, *, seconds: float) -> None:
        """Shut down cleanly within `seconds`."""
        try:
            self._wait(self._power(hypervisor, vmid, "shutdown", timeout=round(seconds)), f"shut down VM {vmid}")
        except HypervisorError as error:
            if _IGNORED in error.summary:
                raise ShutdownIgnoredError(error.summary, subject=error.subject, next_step=error.next_step) from error
            raise

    def stop_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> None:
        """Cut the power."""
        self._wait(self._power(hypervisor, vmid, "stop"), f"stop VM {vmid}")

    def destroy_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> None:
        """Delete a stopped VM with its disks, also from backup jobs and replication."""
        path = _vm_path(hypervisor, vmid)
        self._wait(self._session.call("DELETE", path, purge=True, destroy_unreferenced_disks=True), f"delete VM {vmid}")

    def delete_iso(self, hypervisor: HypervisorName, storage: StorageName, name: str) -> None:
        """Delete an ISO."""
        upid = self._session.call("DELETE", f"nodes/{hypervisor}/storage/{storage}/content/{storage}:iso/{name}")
        if upid:
            self._wait(upid, f"delete {storage}:iso/{name}")

    def _power(self, hypervisor: HypervisorName, vmid: Vmid, act: str, **parameters: Any) -> str:
        return str(self._session.call("POST", f"{_vm_path(hypervisor, vmid)}/status/{act}", **parameters))

    def _task(self, upid: object, what: str) -> TaskTicket:
        return TaskTicket(self._session, self._clock, str(upid), what)

    def _wait(self, upid: object, what: str) -> None:
        self._task(upid, what).wait()


def _vm_path(hypervisor: HypervisorName, vmid: Vmid) -> str:
    return f"nodes/{hypervisor}/qemu/{vmid}"


def _of(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("type") == kind]


def _vm(row: Mapping[str, Any], hypervisor: HypervisorName, vmid: Vmid) -> VmSeen:
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
        is_container=row.get("type") == "lxc",
    )


def _storage(row: Mapping[str, Any]) -> StorageSeen:
    total, used = row.get("maxdisk"), row.get("disk")
    return StorageSeen(
        name=StorageName(row["storage"]),
        hypervisor=HypervisorName(row["node"]),
        content=frozenset(str(row.get("content", "")).split(",")) - {""},
        is_available=row.get("status") == "available",
        free_bytes=int(total) - int(used or 0) if total else None,
    )
