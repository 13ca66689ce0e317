"""What services need from a Proxmox cluster, in our words.

Every method raises `HypervisorError` (or a branch of it) with Proxmox's own
words in the summary. Methods that start work return when the work is done,
with what a reader should know of it (Proxmox's warnings, answers that got
lost; nothing, mostly); but for `start_vm`,
whose caller has better things to do meanwhile. An answer that gets lost is no
excuse: whether the work was done is looked up before it is asked for again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from provisioner.domain.actions import VmChange
from provisioner.domain.fleet import ImageSpec
from provisioner.domain.host import HostFacts, Release
from provisioner.domain.model_keeping import VmDisk
from provisioner.domain.names import HypervisorName, MappingId, StorageName, Vmid
from provisioner.domain.snapshot import ClusterSnapshot, MappingSeen, VmConfig, VmSeen
from provisioner.domain.templates import Template, TemplateShape
from provisioner.domain.vm_traits import VmShape
from provisioner.errors import HypervisorError


class Ticket(Protocol):
    """Work under way on a hypervisor."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know of it: Proxmox's warnings, answers that got lost. Complete once it is done."""
        ...

    @property
    def may_still_arrive(self) -> bool:
        """Proxmox may get a request for it from now on: one whose answer got lost, or one that is to be sent again."""
        ...

    def is_done(self) -> bool:
        """Ask once. Raises HypervisorError when the work has failed."""
        ...

    def wait(self) -> None:
        """Return when the work is done. Raises HypervisorError when it failed."""
        ...

    def overdue(self, seconds: float) -> HypervisorError:
        """Return the error of a caller who has waited that many seconds and gives up; it names what is under way."""
        ...


class Hypervisors(Protocol):
    """One Proxmox cluster."""

    @property
    def calls(self) -> int:
        """API requests sent so far by the current thread."""
        ...

    def snapshot(self) -> ClusterSnapshot:
        """Look at the whole cluster in one call. Power may be some seconds old."""
        ...

    def mappings(self, hypervisor: HypervisorName) -> Mapping[MappingId, MappingSeen]:
        """Return the PCI mappings with what is wrong with each on this hypervisor."""
        ...

    def version(self) -> Release | None:
        """Return the version of Proxmox VE, or None when it cannot be read."""
        ...

    def permissions(self) -> Mapping[str, Mapping[str, int]]:
        """Return what our login may do: path -> privilege -> 1 if it also holds below the path, else 0."""
        ...

    def host_facts(self, hypervisor: HypervisorName, *, may_read_journal: bool = False) -> HostFacts:
        """Return what the API shows of a hypervisor; what may not be asked for is unknown, and named as withheld."""
        ...

    def volumes(self, hypervisor: HypervisorName, storage: StorageName, content: str) -> frozenset[str]:
        """Return the file names of one content type on a storage."""
        ...

    def vm(self, hypervisor: HypervisorName, vmid: Vmid) -> VmSeen | None:
        """Return a VM as it is right now, or None when that hypervisor has no such VM."""
        ...

    def active_tasks(self, hypervisor: HypervisorName, vmid: Vmid) -> frozenset[str]:
        """Return the kinds of tasks, in Proxmox's words, that work on a VM right now and are in our sight."""
        ...

    def going_down(self, hypervisor: HypervisorName) -> frozenset[Vmid]:
        """Return the VMs whose power goes by a task that is under way and in our sight."""
        ...

    def config(self, hypervisor: HypervisorName, vmid: Vmid) -> VmConfig:
        """Read back a VM's configuration."""
        ...

    def download_image(self, hypervisor: HypervisorName, storage: StorageName, image: ImageSpec) -> tuple[str, ...]:
        """Have the hypervisor fetch an image; it keeps the file only if the checksum is right."""
        ...

    def upload_iso(
        self, hypervisor: HypervisorName, storage: StorageName, name: str, content: bytes
    ) -> tuple[str, ...]:
        """Upload an ISO, replacing one of the same name."""
        ...

    def create_vm(self, hypervisor: HypervisorName, shape: VmShape, notes: str) -> tuple[str, ...]:
        """Create a VM with our tag. Raises VmidTakenError when the VMID exists already."""
        ...

    def create_template(self, hypervisor: HypervisorName, vmid: Vmid, template: TemplateShape) -> tuple[str, ...]:
        """Create the VM that becomes a template, with our tag and the template's. Raises VmidTakenError."""
        ...

    def make_template(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        """Turn a stopped VM into a template; one that is a template already stays one."""
        ...

    def clone_vm(self, hypervisor: HypervisorName, template: Template, shape: VmShape, notes: str) -> tuple[str, ...]:
        """Make a VM with our tag as a linked clone, like one that `create_vm` makes. Raises VmidTakenError.

        Cut short, it leaves a VM of that name and those notes with the tags of its template, and nothing of its shape.
        """
        ...

    def shape_clone(self, hypervisor: HypervisorName, shape: VmShape, *, digest: str = "") -> tuple[str, ...]:
        """Give a stopped VM whose cloning was cut short its shape, its cloud-init drive and its own tags, all at once.

        `digest` is that of the configuration it was decided on. Raises ConfigChangedError when it is another by now.
        """
        ...

    def change_vm(self, hypervisor: HypervisorName, change: VmChange, *, digest: str) -> tuple[str, ...]:
        """Bring some traits of a VM to a shape. On a running VM all but `AT_ONCE` wait for its next cold start.

        Raises ConfigChangedError, having written nothing, when the configuration is not the one with that digest.
        """
        ...

    def set_notes(self, hypervisor: HypervisorName, vmid: Vmid, notes: str, *, digest: str = "") -> None:
        """Replace a VM's notes. Raises ConfigChangedError when a digest is given and is not the VM's."""
        ...

    def grow_disk(
        self,
        hypervisor: HypervisorName,
        vmid: Vmid,
        size_bytes: int,
        *,
        disk: VmDisk = VmDisk.BOOT,
        digest: str = "",
    ) -> tuple[str, ...]:
        """Grow a disk, also of a running VM. Raises ConfigChangedError when a digest is given and is not the VM's."""
        ...

    def add_model_disk(
        self, hypervisor: HypervisorName, vmid: Vmid, storage: StorageName, size_bytes: int, *, digest: str = ""
    ) -> tuple[str, ...]:
        """Give a VM an empty disk for models, in whole GiB; a running VM gets it plugged in.

        Raises ConfigChangedError when a digest is given and is not the VM's.
        """
        ...

    def read_guest_file(self, hypervisor: HypervisorName, vmid: Vmid, path: str) -> str | None:
        """Return a small text file of a running guest, by its agent; None when it has no such file.

        Raises:
            GuestAway: the agent does not answer: the guest boots, or has none.
            HypervisorError: it answers and refuses, or we may not ask.
        """
        ...

    def start_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> Ticket:
        """Power on; returns as soon as Proxmox has accepted it."""
        ...

    def shut_down_vm(self, hypervisor: HypervisorName, vmid: Vmid, *, seconds: float) -> tuple[str, ...]:
        """Shut down cleanly within `seconds`. Raises ShutdownIgnoredError when the guest did not comply."""
        ...

    def stop_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        """Cut the power."""
        ...

    def destroy_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        """Delete a stopped VM with its disks."""
        ...

    def delete_iso(self, hypervisor: HypervisorName, storage: StorageName, name: str) -> None:
        """Delete an ISO. Raises PermissionMissingError when the token may not."""
        ...
