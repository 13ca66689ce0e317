"""Writes to one node's VM what a plan decided, and only to the VM that the plan was made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioner.domain.actions import VmChange
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.model_keeping import VmDisk
from provisioner.domain.names import StorageName, Vmid
from provisioner.domain.notes import NodeNotes, read_notes, write_notes
from provisioner.domain.snapshot import VmConfig
from provisioner.domain.vm_traits import VmShape
from provisioner.errors import ConfigChangedError
from provisioner.planning.plans import what_changed
from provisioner.ports.hypervisors import Hypervisors

# A person who writes notes does not write them three times in a row just before us.
_MOST_TRIES = 3


class VmWriter:
    """One VM's configuration during one run of `up`; `notes` are its notes as last seen or written."""

    def __init__(self, node: NodeSpec, hypervisors: Hypervisors, seen: VmConfig | None) -> None:
        self._node = node
        self._hypervisors = hypervisors
        self._seen = seen or VmConfig(notes="", disk_bytes=None)
        # Guards the first write; after that the configuration is another one, by our own doing.
        self._digest = self._seen.digest
        self.notes = self._seen.notes

    def change(self, change: VmChange) -> tuple[str, ...]:
        """Bring traits to their shape; return Proxmox's warnings. Raises ConfigChangedError."""
        with self._told_what_changed():
            warnings = self._hypervisors.change_vm(self._node.hypervisor, change, digest=self._digest)
        self._digest = ""
        if change.notes is not None:
            self.notes = change.notes
        return warnings

    def shape_clone(self, shape: VmShape) -> tuple[str, ...]:
        """Give a clone that was cut short its shape; return Proxmox's warnings. Raises ConfigChangedError."""
        with self._told_what_changed():
            warnings = self._hypervisors.shape_clone(self._node.hypervisor, shape, digest=self._digest)
        self._digest = ""
        return warnings

    def grow_disk(self, vmid: Vmid, size_bytes: int, disk: VmDisk) -> tuple[str, ...]:
        """Grow a disk; return Proxmox's warnings. Raises ConfigChangedError."""
        here = self._node.hypervisor
        with self._told_what_changed():
            warnings = self._hypervisors.grow_disk(here, vmid, size_bytes, disk=disk, digest=self._digest)
        self._digest = ""
        return warnings

    def add_model_disk(self, vmid: Vmid, storage: StorageName, size_bytes: int) -> tuple[str, ...]:
        """Give the VM a disk for models; return Proxmox's warnings. Raises ConfigChangedError."""
        here = self._node.hypervisor
        with self._told_what_changed():
            warnings = self._hypervisors.add_model_disk(here, vmid, storage, size_bytes, digest=self._digest)
        self._digest = ""
        return warnings

    def write_notes(self, change: Callable[[NodeNotes], NodeNotes]) -> None:
        """Change our lines in the notes as they are now; a person may be writing theirs at this moment."""
        ours = change(read_notes(self.notes))
        self._write(lambda _: ours)

    def write_notes_of(self, change: Callable[[NodeNotes], NodeNotes]) -> None:
        """Change some of our lines, whatever the others have become since they were last seen here."""
        self._write(change)

    def _write(self, change: Callable[[NodeNotes], NodeNotes]) -> None:
        here, vmid = self._node.hypervisor, self._node.vmid
        for tries_left in reversed(range(_MOST_TRIES)):
            config = self._hypervisors.config(here, vmid)
            text = write_notes(config.notes, self._node.name, change(read_notes(config.notes)))
            try:
                self._hypervisors.set_notes(here, vmid, text, digest=config.digest)
            except ConfigChangedError:
                if not tries_left:
                    raise
            else:
                self.notes = text
                break
        self._digest = ""

    @contextmanager
    def _told_what_changed(self) -> Iterator[None]:
        """Say of a write that came too late what somebody else has changed."""
        try:
            yield
        except ConfigChangedError as error:
            now = self._hypervisors.config(self._node.hypervisor, self._node.vmid)
            name = self._node.name
            raise ConfigChangedError(
                f"cannot go on: somebody has changed the VM since the plan was made: {what_changed(self._seen, now)} "
                f"(digest {self._seen.digest} then, {now.digest} now)",
                subject=self._node.subject,
                next_step=f"provisioner plan {name} shows what is to do now; then: provisioner up {name}",
                retryable=True,
            ) from error
