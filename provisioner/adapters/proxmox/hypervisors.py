"""The port `Hypervisors` over one cluster's API."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from provisioner.adapters.proxmox.changes import Change
from provisioner.adapters.proxmox.templates import TemplateCalls
from provisioner.adapters.proxmox.vm_calls import vm_path, vm_seen
from provisioner.adapters.proxmox.vm_config import both_configs, create_parameters, disk_size, model_disk
from provisioner.adapters.proxmox.vm_traits import BOOT_DISK, MODEL_DISK, change_settings, is_as_asked
from provisioner.domain.fleet import ImageSpec
from provisioner.domain.model_keeping import VmDisk
from provisioner.domain.names import HypervisorName, MappingId, StorageName, Vmid
from provisioner.domain.snapshot import (
    ClusterSnapshot,
    MappingSeen,
    Power,
    StorageSeen,
)
from provisioner.errors import (
    GpuTakenError,
    HypervisorError,
    RefusedError,
    ShutdownIgnoredError,
    TaskOverdueError,
)
from provisioner.ports.guest_shell import GuestAway

if TYPE_CHECKING:
    from provisioner.domain.actions import VmChange
    from provisioner.domain.host import HostFacts, Release
    from provisioner.domain.vm_traits import VmShape

# What Proxmox and the agent say (qemu-server, QemuServer/Agent.pm; QEMU, qga/commands-posix.c).
_AGENT_SILENT = re.compile(r"QEMU guest agent is not running|agent .*(?:got timeout|timed out)|VM \d+ is not running")
_NO_SUCH_FILE = "No such file or directory"
# "- got timeout" follows where the guest was told and did not obey, nothing where its agent, or QEMU, took no order.
_IGNORED = "VM quit/powerdown failed"
# Beyond what a guest is given to shut down: the task's own start and end, and the rounds of HA's manager.
_SHUTDOWN_SLACK_SECONDS = 120.0


class _IsoFile(io.BytesIO):
    """Bytes with a file name, which becomes the name of the upload."""

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(content)
        self.name = name


class ProxmoxHypervisors(TemplateCalls):
    """One cluster."""

    def snapshot(self) -> ClusterSnapshot:
        """Look at the whole cluster in one call."""
        rows = self._session.call("GET", "cluster/resources", purpose="look at the cluster")
        return ClusterSnapshot(
            hypervisors={HypervisorName(row["node"]): row.get("status") == "online" for row in _of(rows, "node")},
            vms={
                Vmid(int(row["vmid"])): vm_seen(row, HypervisorName(row["node"]), Vmid(int(row["vmid"])))
                for kind in ("qemu", "lxc")  # they share the VMIDs
                for row in _of(rows, kind)
            },
            storages={(storage.hypervisor, storage.name): storage for storage in map(_storage, _of(rows, "storage"))},
        )

    def mappings(self, hypervisor: HypervisorName) -> Mapping[MappingId, MappingSeen]:
        """Return the PCI mappings with Proxmox's own findings for one hypervisor."""
        rows = self._session.call(
            "GET", "cluster/mapping/pci", purpose="look at the PCI mappings", check_node=hypervisor
        )
        return {
            MappingId(row["id"]): MappingSeen(
                MappingId(row["id"]),
                tuple(str(check["message"]).strip() for check in row.get("checks", [])),
                entries=tuple(str(entry) for entry in row.get("map", [])),
                is_mediated=bool(int(row.get("mdev") or 0)),
            )
            for row in rows
        }

    def version(self) -> Release | None:
        """Return the version of the server that the API address leads to."""
        from provisioner.adapters.proxmox.host_facts import release_of

        return release_of(self._session.call("GET", "version"))

    def permissions(self) -> Mapping[str, Mapping[str, int]]:
        """Return the effective rights of our login."""
        rights: Mapping[str, Mapping[str, int]] = self._session.call("GET", "access/permissions")
        return rights

    def host_facts(self, hypervisor: HypervisorName, *, may_read_journal: bool = False) -> HostFacts:
        """Return what the API shows of a hypervisor's hardware and kernel."""
        # Only doctor asks, and what it loads takes longer than `status` may.
        from provisioner.adapters.proxmox.host_facts import read_host_facts

        return read_host_facts(self._session, self._clock, hypervisor, may_read_journal=may_read_journal)

    def volumes(self, hypervisor: HypervisorName, storage: StorageName, content: str) -> frozenset[str]:
        """Return the file names of one content type on a storage."""
        rows = self._session.call(
            "GET",
            f"nodes/{hypervisor}/storage/{storage}/content",
            purpose=f'see what is on storage "{storage}"',
            content=content,
        )
        return frozenset(str(row["volid"]).rpartition("/")[2] for row in rows)

    def download_image(self, hypervisor: HypervisorName, storage: StorageName, image: ImageSpec) -> tuple[str, ...]:
        """Have the hypervisor fetch an image and verify its checksum."""
        return self._change(
            f'download image "{image.name}" to storage "{storage}"',
            lambda: self._session.call(
                "POST",
                f"nodes/{hypervisor}/storage/{storage}/download-url",
                purpose=f'download image "{image.name}"',
                content="import",
                filename=image.volume_name,
                url=image.url,
                checksum=image.sha256,
                checksum_algorithm="sha256",
            ),
            is_so=lambda: image.volume_name in self.volumes(hypervisor, storage, "import"),
        ).in_full()

    def upload_iso(
        self, hypervisor: HypervisorName, storage: StorageName, name: str, content: bytes
    ) -> tuple[str, ...]:
        """Upload an ISO, replacing one of the same name."""
        path = f"nodes/{hypervisor}/storage/{storage}/upload"
        what = f'upload {name} to storage "{storage}"'
        return self._change(
            what,
            lambda: self._session.call("POST", path, purpose=what, content="iso", filename=_IsoFile(name, content)),
            # A file of that name may be an older one; uploading once more does no harm.
            is_so=lambda: False,
        ).in_full()

    def create_vm(self, hypervisor: HypervisorName, shape: VmShape, notes: str) -> tuple[str, ...]:
        """Create a VM with our tag."""
        return self._create(hypervisor, shape.vmid, create_parameters(shape, notes))

    def change_vm(self, hypervisor: HypervisorName, change: VmChange, *, digest: str) -> tuple[str, ...]:
        """Bring some traits of a VM to a shape, writing nothing else."""
        vmid = change.shape.vmid
        what, path = f"change VM {vmid}", vm_path(hypervisor, vmid)
        _, options = both_configs(self._session.call("GET", f"{path}/pending"))
        settings, deletions = change_settings(options, change)
        parameters = settings | ({"delete": ",".join(deletions)} if deletions else {})
        # A task, not a plain call: making a disk for the firmware can outlast what Proxmox's proxy waits for.
        return self._change(
            what,
            lambda: self._session.call("POST", f"{path}/config", purpose=what, digest=digest or None, **parameters),
            is_so=lambda: is_as_asked(both_configs(self._session.call("GET", f"{path}/pending"))[1], change),
            under_way=self._task_finder(hypervisor, vmid, "qmconfig"),
        ).in_full()

    def grow_disk(
        self,
        hypervisor: HypervisorName,
        vmid: Vmid,
        size_bytes: int,
        *,
        disk: VmDisk = VmDisk.BOOT,
        digest: str = "",
    ) -> tuple[str, ...]:
        """Grow a disk."""
        size, key = disk_size(size_bytes), BOOT_DISK if disk is VmDisk.BOOT else MODEL_DISK
        what, path = f"grow the {disk.value} of VM {vmid} to {size}", f"{vm_path(hypervisor, vmid)}/resize"
        return self._change(
            what,
            lambda: self._session.call("PUT", path, purpose=what, disk=key, size=size, digest=digest or None),
            is_so=lambda: (self.config(hypervisor, vmid).bytes_of(disk) or 0) >= size_bytes,
            under_way=self._task_finder(hypervisor, vmid, "resize"),
        ).in_full()

    def add_model_disk(
        self, hypervisor: HypervisorName, vmid: Vmid, storage: StorageName, size_bytes: int, *, digest: str = ""
    ) -> tuple[str, ...]:
        """Give a VM an empty disk for models."""
        what, path = f"give VM {vmid} a model disk", f"{vm_path(hypervisor, vmid)}/config"
        settings = model_disk(storage, size_bytes)
        # A task, not a plain call: a storage that writes the disk out takes minutes for it.
        return self._change(
            what,
            lambda: self._session.call("POST", path, purpose=what, digest=digest or None, **settings),
            is_so=lambda: self.config(hypervisor, vmid).model_disk is not None,
            under_way=self._task_finder(hypervisor, vmid, "qmconfig"),
        ).in_full()

    def read_guest_file(self, hypervisor: HypervisorName, vmid: Vmid, path: str) -> str | None:
        """Return a small text file of a running guest, by its agent; None when it has no such file."""
        request = f"{vm_path(hypervisor, vmid)}/agent/file-read"
        what = f"read {path} in the guest of VM {vmid}"
        try:
            return str(self._session.call("GET", request, purpose=what, file=path).get("content", ""))
        except HypervisorError as error:
            if _NO_SUCH_FILE in error.summary:
                return None
            if _AGENT_SILENT.search(error.summary):
                raise GuestAway(error.summary) from error
            raise

    def start_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> Change:
        """Power on; returns as soon as Proxmox has accepted it."""

        def is_passing(error: HypervisorError) -> bool:
            # A VM that has just gone off may hold its card for a moment longer.
            holder = error.holder if isinstance(error, GpuTakenError) else None
            return holder is not None and self._is_off(hypervisor, Vmid(holder))

        return self._power(
            hypervisor,
            vmid,
            "start",
            is_so=lambda: self._has_power(hypervisor, vmid),
            passes=is_passing,
        ).begin()

    def shut_down_vm(self, hypervisor: HypervisorName, vmid: Vmid, *, seconds: float) -> tuple[str, ...]:
        """Shut down cleanly within `seconds`."""
        change = self._power(
            hypervisor,
            vmid,
            "shutdown",
            is_so=lambda: self._is_off(hypervisor, vmid),
            within=seconds + _SHUTDOWN_SLACK_SECONDS,
            timeout=round(seconds),
        )
        try:
            return change.in_full()
        except HypervisorError as error:
            if _IGNORED in error.summary or isinstance(error, TaskOverdueError):
                raise ShutdownIgnoredError(error.summary, subject=error.subject, next_step=error.next_step) from error
            raise

    def stop_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        """Cut the power."""
        # A shutdown that waits for its guest holds the VM's lock; the cut would wait for it in vain. High
        # availability knows no such parameter, and its own shutdowns end by themselves.
        hangs = "qmshutdown" in self.active_tasks(hypervisor, vmid) and not self._is_under_ha(hypervisor, vmid)
        return self._power(
            hypervisor,
            vmid,
            "stop",
            is_so=lambda: self._is_off(hypervisor, vmid),
            overrule_shutdown=True if hangs else None,
        ).in_full()

    def destroy_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        """Delete a stopped VM with its disks, also from backup jobs and replication.

        Those are the disks that its configuration names, ``unused`` ones too. Proxmox would also look for unnamed
        ones by VMID; on a storage that several clusters share, another's VM of that VMID would lose its disks.
        """
        what, path = f"delete VM {vmid}", vm_path(hypervisor, vmid)

        def is_gone() -> bool:
            vm = self.vm(hypervisor, vmid)
            if vm is not None and not vm.is_ours:
                # Ours is gone, and somebody has taken its VMID before the answer came.
                raise RefusedError(
                    f'cannot delete VM {vmid}: it is "{vm.name}" now, which does not carry our tag',
                    subject=self._session.subject,
                    next_step="nothing is left to delete there; give the node another vmid in the fleet file",
                )
            return vm is None

        return self._change(
            what,
            lambda: self._session.call("DELETE", path, purpose=what, purge=True),
            is_so=is_gone,
            under_way=self._task_finder(hypervisor, vmid, "qmdestroy"),
        ).in_full()

    def delete_iso(self, hypervisor: HypervisorName, storage: StorageName, name: str) -> None:
        """Delete an ISO."""
        what = f"delete {storage}:iso/{name}"
        path = f"nodes/{hypervisor}/storage/{storage}/content/{storage}:iso/{name}"
        self._change(
            what,
            lambda: self._session.call("DELETE", path, purpose=what),
            is_so=lambda: name not in self.volumes(hypervisor, storage, "iso"),
            # Another machine may have deleted it first.
            fact_outranks=True,
        ).in_full()

    def _power(
        self,
        hypervisor: HypervisorName,
        vmid: Vmid,
        act: str,
        *,
        is_so: Callable[[], bool],
        passes: Callable[[HypervisorError], bool] = lambda error: False,
        within: float = float("inf"),
        **parameters: Any,
    ) -> Change:
        what = f"{'shut down' if act == 'shutdown' else act} VM {vmid}"
        path = f"{vm_path(hypervisor, vmid)}/status/{act}"
        return self._change(
            what,
            lambda: self._session.call("POST", path, purpose=what, **parameters),
            is_so=is_so,
            under_way=self._task_finder(hypervisor, vmid, f"qm{act}"),
            passes=passes,
            fact_outranks=True,
            within=within,
        )

    def _is_off(self, hypervisor: HypervisorName, vmid: Vmid) -> bool:
        vm = self.vm(hypervisor, vmid)
        return vm is None or vm.power is Power.STOPPED

    def _is_under_ha(self, hypervisor: HypervisorName, vmid: Vmid) -> bool:
        row = self._session.call("GET", f"{vm_path(hypervisor, vmid)}/status/current", purpose=f"look at VM {vmid}")
        return bool((row.get("ha") or {}).get("managed"))

    def _has_power(self, hypervisor: HypervisorName, vmid: Vmid) -> bool:
        row = self._session.call("GET", f"{vm_path(hypervisor, vmid)}/status/current", purpose=f"look at VM {vmid}")
        ha = row.get("ha") or {}
        if ha.get("state") == "error":
            raise HypervisorError(
                f"cannot start VM {vmid}: it is managed by high availability, which has given it up (state error)",
                subject=self._session.subject,
                next_step=f"mend what Datacenter > HA shows for vm:{vmid}, set it to disabled and back to "
                "started there; or take the VM out of HA: a node that sleeps and wakes on demand needs none",
            )
        return vm_seen(row, hypervisor, vmid).power is Power.RUNNING


def _of(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("type") == kind]


def _storage(row: Mapping[str, Any]) -> StorageSeen:
    total, used = row.get("maxdisk"), row.get("disk")
    return StorageSeen(
        name=StorageName(row["storage"]),
        hypervisor=HypervisorName(row["node"]),
        content=frozenset(str(row.get("content", "")).split(",")) - {""},
        is_available=row.get("status") == "available",
        free_bytes=int(total) - int(used or 0) if total else None,
        kind=str(row.get("plugintype") or ""),
        is_shared=bool(int(row.get("shared") or 0)),
    )
