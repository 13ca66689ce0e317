"""A Proxmox cluster that keeps its state and refuses what the real one refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from provisioner.domain.actions import VmChange
from provisioner.domain.conventions import TAG
from provisioner.domain.fleet import ImageSpec
from provisioner.domain.host import HostFacts, Release
from provisioner.domain.model_keeping import ModelDisk, VmDisk
from provisioner.domain.names import HypervisorName, MappingId, StorageName, Vmid
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import ClusterSnapshot, MappingSeen, Power, StorageSeen, VmConfig, VmSeen
from provisioner.domain.templates import TEMPLATE_TAG, Template, TemplateShape
from provisioner.domain.vm_traits import AT_ONCE, Drift, PassedDevice, Trait, VmShape, listed, wanted_traits
from provisioner.errors import (
    ConfigChangedError,
    HypervisorError,
    PermissionMissingError,
    ShutdownIgnoredError,
    UnreachableError,
    VmidTakenError,
)
from provisioner.ports.guest_shell import GuestAway
from tests.fakes.clock import FakeClock
from tests.fakes.host_facts import ENTRY, EVERY_RIGHT, ready_host

PVE1 = HypervisorName("pve1")
IMAGE_BYTES = 3 * GIB
_ASIDE = frozenset((Trait.NAME, Trait.TAGS, Trait.NOTES, Trait.GPUS))


def refusal(words: str) -> HypervisorError:
    return HypervisorError(words, subject="fake cluster", next_step="none")


@dataclass
class FakeVm:
    seen: VmSeen
    notes: str
    disk_bytes: int
    mappings: tuple[MappingId, ...]
    seed: tuple[StorageName, str] | None
    """None where the cluster makes the cloud-init drive, and in a template."""
    started_at: float = 0.0
    traits: dict[Trait, str] = field(default_factory=dict)
    """As the next start has them, but for name, tags, notes and GPUs, which are above."""
    started_with: tuple[dict[Trait, str], tuple[MappingId, ...]] = ({}, ())
    """Traits and mappings of the last start."""
    raw_devices: tuple[PassedDevice, ...] = ()
    """Passed through by somebody else."""
    model_disk: ModelDisk | None = None

    @property
    def digest(self) -> str:
        facts = (self.seen.name, sorted(self.seen.tags), self.notes, self.disk_bytes, self.mappings, self.raw_devices)
        facts = (*facts, self.model_disk)
        text = repr((facts, sorted(self.traits.items(), key=lambda each: each[0].name)))
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @property
    def config(self) -> VmConfig:
        traits = self.traits | {Trait.NAME: self.seen.name, Trait.TAGS: listed(sorted(self.seen.tags))}
        running = self.seen.power is Power.RUNNING
        before, mappings = self.started_with if running else (self.traits, self.mappings)
        return VmConfig(
            notes=self.notes,
            disk_bytes=self.disk_bytes,
            digest=self.digest,
            traits=traits,
            waiting=tuple(
                Drift(trait, before[trait], value) for trait, value in self.traits.items() if before[trait] != value
            ),
            tags=self.seen.tags,
            devices=(*_passed(self.mappings), *self.raw_devices),
            running_devices=(*_passed(mappings), *self.raw_devices),
            seed=self.seed,
            model_disk=self.model_disk,
        )


def _passed(mappings: tuple[MappingId, ...]) -> tuple[PassedDevice, ...]:
    return tuple(PassedDevice(index, mapping) for index, mapping in enumerate(mappings))


@dataclass
class FakeTicket:
    failure: HypervisorError | None = None
    warnings: tuple[str, ...] = ()
    ends: bool = True
    may_still_arrive: bool = False

    def is_done(self) -> bool:
        if self.failure:
            raise self.failure
        return self.ends

    def wait(self) -> None:
        self.is_done()

    def overdue(self, seconds: float) -> HypervisorError:
        return refusal(f"cannot start: the task still runs after {seconds:g} s")


@dataclass
class FakeHypervisors:
    """One hypervisor, pve1, with storages local and local-lvm and a mapping rtx3090."""

    clock: FakeClock
    calls: int = 0
    vms: dict[Vmid, FakeVm] = field(default_factory=dict)
    files: dict[tuple[StorageName, str], dict[str, bytes]] = field(default_factory=dict)
    mapping_errors: dict[MappingId, tuple[str, ...]] = field(default_factory=lambda: {MappingId("rtx3090"): ()})
    entries: dict[MappingId, tuple[str, ...]] = field(default_factory=lambda: {MappingId("rtx3090"): (ENTRY,)})
    """What the mappings name, as Proxmox writes it."""
    storage_kinds: dict[StorageName, str] = field(default_factory=dict)
    """Storage -> Proxmox's type of it; nothing is told of the others."""
    linked: dict[Vmid, Vmid] = field(default_factory=dict)
    """Clone -> its template."""
    may_delete_isos: bool = True
    ignores_shutdown: bool = False
    starts_hang: bool = False
    hanging: list[FakeTicket] = field(default_factory=list)
    """The starts that hang; a test says how each goes on."""
    facts: HostFacts = field(default_factory=ready_host)
    """What it shows of pve1; what nobody may ask for is what a test makes None."""
    rights: dict[str, dict[str, int]] = field(default_factory=lambda: {"/": dict.fromkeys(EVERY_RIGHT, 1)})
    fails: dict[str, HypervisorError] = field(default_factory=dict)
    """Method name -> what it raises, once."""
    guest_files: Callable[[Vmid, str], str | None] | None = None
    """What guest agents read; None while no guest has one."""
    being_shut_down: set[Vmid] = field(default_factory=set)
    """VMs with a task under way that ends with their power off."""
    acts: list[str] = field(default_factory=list)
    """What was changed, in order."""

    def _call(self, name: str) -> None:
        self.calls += 1
        if name in self.fails:
            raise self.fails.pop(name)

    def snapshot(self) -> ClusterSnapshot:
        self._call("snapshot")
        content = {"local": frozenset({"iso", "import"}), "local-lvm": frozenset({"images"})}
        return ClusterSnapshot(
            hypervisors={PVE1: True},
            vms={vmid: self._seen(vm) for vmid, vm in self.vms.items()},
            storages={
                (PVE1, StorageName(name)): StorageSeen(
                    StorageName(name), PVE1, kinds, True, 500 * GIB, self.storage_kinds.get(StorageName(name), "")
                )
                for name, kinds in content.items()
            },
        )

    def mappings(self, hypervisor: HypervisorName) -> Mapping[MappingId, MappingSeen]:
        self._call("mappings")
        return {
            name: MappingSeen(name, errors, self.entries.get(name, ())) for name, errors in self.mapping_errors.items()
        }

    def version(self) -> Release | None:
        self._call("version")
        return self.facts.pve

    def permissions(self) -> Mapping[str, Mapping[str, int]]:
        self._call("permissions")
        return self.rights

    def host_facts(self, hypervisor: HypervisorName, *, may_read_journal: bool = False) -> HostFacts:
        self._call("host_facts")
        return self.facts

    def volumes(self, hypervisor: HypervisorName, storage: StorageName, content: str) -> frozenset[str]:
        self._call("volumes")
        return frozenset(self.files.get((storage, content), {}))

    def vm(self, hypervisor: HypervisorName, vmid: Vmid) -> VmSeen | None:
        self._call("vm")
        vm = self.vms.get(vmid)
        if vm is None or vm.seen.hypervisor != hypervisor:
            return None
        return self._seen(vm)

    def _seen(self, vm: FakeVm) -> VmSeen:
        running = vm.seen.power is Power.RUNNING
        return replace(vm.seen, uptime_seconds=self.clock.monotonic() - vm.started_at if running else 0.0)

    def active_tasks(self, hypervisor: HypervisorName, vmid: Vmid) -> frozenset[str]:
        self._call("active_tasks")
        vm = self.vms.get(vmid)
        return frozenset({"qmcreate"}) if vm is not None and vm.seen.is_being_made else frozenset()

    def going_down(self, hypervisor: HypervisorName) -> frozenset[Vmid]:
        self._call("going_down")
        return frozenset(self.being_shut_down)

    def config(self, hypervisor: HypervisorName, vmid: Vmid) -> VmConfig:
        self._call("config")
        vm = self.vms.get(vmid)
        return vm.config if vm else VmConfig("", None)

    def download_image(self, hypervisor: HypervisorName, storage: StorageName, image: ImageSpec) -> tuple[str, ...]:
        self._call("download_image")
        self.files.setdefault((storage, "import"), {})[image.volume_name] = b"image"
        self.acts.append(f"download {image.volume_name}")
        return ()

    def upload_iso(
        self, hypervisor: HypervisorName, storage: StorageName, name: str, content: bytes
    ) -> tuple[str, ...]:
        self._call("upload_iso")
        self.files.setdefault((storage, "iso"), {})[name] = content
        self.acts.append(f"upload {name}")
        return ()

    def create_vm(self, hypervisor: HypervisorName, shape: VmShape, notes: str) -> tuple[str, ...]:
        self._call("create_vm")
        if shape.vmid in self.vms:
            raise VmidTakenError(f"VM {shape.vmid} already exists", subject="fake cluster", next_step="none")
        if shape.image_volume not in self.files.get((shape.image_storage, "import"), {}):
            raise refusal(f"no image {shape.image_volume}")
        self.vms[shape.vmid] = FakeVm(
            seen=VmSeen(shape.vmid, shape.name, hypervisor, Power.STOPPED, shape.tags),
            notes=notes,
            disk_bytes=IMAGE_BYTES,
            mappings=shape.gpu_mappings,
            seed=(shape.iso_storage, shape.seed_volume) if shape.cloud_init is None else None,
            traits={trait: value for trait, value in wanted_traits(shape).items() if trait not in _ASIDE},
        )
        self.acts.append(f"create {shape.vmid}")
        return ()

    def create_template(self, hypervisor: HypervisorName, vmid: Vmid, template: TemplateShape) -> tuple[str, ...]:
        self._call("create_template")
        if vmid in self.vms:
            raise VmidTakenError(f"VM {vmid} already exists", subject="fake cluster", next_step="none")
        if template.image_volume not in self.files.get((template.image_storage, "import"), {}):
            raise refusal(f"no image {template.image_volume}")
        self.vms[vmid] = FakeVm(
            seen=VmSeen(vmid, template.name, hypervisor, Power.STOPPED, frozenset({TAG, TEMPLATE_TAG, template.tag})),
            notes="Template",
            disk_bytes=IMAGE_BYTES,
            mappings=(),
            seed=None,
        )
        self.acts.append(f"create template {vmid}")
        return ()

    def make_template(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        self._call("make_template")
        vm = self._existing(vmid)
        vm.seen = replace(vm.seen, is_template=True)
        self.acts.append(f"template {vmid}")
        return ()

    def clone_vm(self, hypervisor: HypervisorName, template: Template, shape: VmShape, notes: str) -> tuple[str, ...]:
        self._call("clone_vm")
        source = self._existing(template.vmid)
        if shape.vmid in self.vms:
            raise VmidTakenError(f"VM {shape.vmid} already exists", subject="fake cluster", next_step="none")
        if not source.seen.is_template:
            raise refusal("Linked clone feature is not supported for drive 'scsi0'")
        self.vms[shape.vmid] = FakeVm(
            seen=VmSeen(shape.vmid, shape.name, hypervisor, Power.STOPPED, shape.tags),
            notes=notes,
            disk_bytes=source.disk_bytes,
            mappings=shape.gpu_mappings,
            seed=(shape.iso_storage, shape.seed_volume) if shape.cloud_init is None else None,
            traits={trait: value for trait, value in wanted_traits(shape).items() if trait not in _ASIDE},
        )
        self.linked[shape.vmid] = template.vmid
        self.acts.append(f"clone {shape.vmid}")
        return ()

    def shape_clone(self, hypervisor: HypervisorName, shape: VmShape, *, digest: str = "") -> tuple[str, ...]:
        self._call("shape_clone")
        vm = self._existing(shape.vmid)
        self._require_digest(vm, digest)
        vm.seen = replace(vm.seen, tags=shape.tags)
        vm.mappings = shape.gpu_mappings
        vm.seed = (shape.iso_storage, shape.seed_volume) if shape.cloud_init is None else None
        vm.traits = {trait: value for trait, value in wanted_traits(shape).items() if trait not in _ASIDE}
        self.acts.append(f"shape {shape.vmid}")
        return ()

    def change_vm(self, hypervisor: HypervisorName, change: VmChange, *, digest: str) -> tuple[str, ...]:
        self._call("change_vm")
        vm = self._existing(change.shape.vmid)
        self._require_digest(vm, digest)
        for trait, value in wanted_traits(change.shape).items():
            if trait in change.traits - _ASIDE:
                vm.traits[trait] = value
                if trait in AT_ONCE:
                    vm.started_with[0][trait] = value
        if Trait.NAME in change.traits:
            vm.seen = replace(vm.seen, name=change.shape.name)
        if Trait.TAGS in change.traits:
            vm.seen = replace(vm.seen, tags=vm.seen.tags | change.shape.tags)
        if Trait.GPUS in change.traits:
            vm.mappings = change.shape.gpu_mappings
        if Trait.NOTES in change.traits and change.notes is not None:
            vm.notes = change.notes
        self.acts.append(f"change {change.shape.vmid}")
        return ()

    def set_notes(self, hypervisor: HypervisorName, vmid: Vmid, notes: str, *, digest: str = "") -> None:
        self._call("set_notes")
        self._require_digest(self._existing(vmid), digest)
        self._existing(vmid).notes = notes
        self.acts.append(f"notes {vmid}")

    def grow_disk(
        self,
        hypervisor: HypervisorName,
        vmid: Vmid,
        size_bytes: int,
        *,
        disk: VmDisk = VmDisk.BOOT,
        digest: str = "",
    ) -> tuple[str, ...]:
        self._call("grow_disk")
        vm = self._existing(vmid)
        self._require_digest(vm, digest)
        before = vm.config.bytes_of(disk)
        if before is None:
            raise refusal("disk 'scsi1' does not exist")
        if size_bytes < before:
            raise refusal("shrinking disks is not supported")
        if disk is VmDisk.BOOT:
            vm.disk_bytes = size_bytes
        elif vm.model_disk is not None:
            vm.model_disk = replace(vm.model_disk, size_bytes=size_bytes)
        self.acts.append(f"grow {vmid}" if disk is VmDisk.BOOT else f"grow model disk {vmid}")
        return ()

    def add_model_disk(
        self, hypervisor: HypervisorName, vmid: Vmid, storage: StorageName, size_bytes: int, *, digest: str = ""
    ) -> tuple[str, ...]:
        self._call("add_model_disk")
        vm = self._existing(vmid)
        self._require_digest(vm, digest)
        vm.model_disk = ModelDisk(storage, size_bytes, is_ours=True)
        self.acts.append(f"model disk {vmid}")
        return ()

    def read_guest_file(self, hypervisor: HypervisorName, vmid: Vmid, path: str) -> str | None:
        self._call("read_guest_file")
        if self._existing(vmid).seen.power is not Power.RUNNING or self.guest_files is None:
            raise GuestAway("QEMU guest agent is not running")
        return self.guest_files(vmid, path)

    def start_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> FakeTicket:
        try:
            self._call("start_vm")
        except UnreachableError as silence:
            # As the real one: it looks, and would ask again, before it gives up.
            return FakeTicket(silence, may_still_arrive=True)
        vm = self._existing(vmid)
        if self.starts_hang:
            self.hanging.append(FakeTicket(ends=False))
            return self.hanging[-1]
        if vm.seen.is_template:
            return FakeTicket(refusal("you can't start a vm if it's a template"))
        if vm.seed is not None and vm.seed[1] not in self.files.get((vm.seed[0], "iso"), {}):
            return FakeTicket(refusal(f"volume '{vm.seed[0]}:iso/{vm.seed[1]}' does not exist"))
        for other in self.vms.values():
            if other is not vm and other.seen.power is Power.RUNNING and set(other.mappings) & set(vm.mappings):
                return FakeTicket(refusal(f"PCI device '0000:01:00.0' already in use by VMID '{other.seen.vmid}'"))
        vm.seen = replace(vm.seen, power=Power.RUNNING)
        vm.started_at = self.clock.monotonic()
        vm.started_with = (dict(vm.traits), vm.mappings)
        self.acts.append(f"start {vmid}")
        return FakeTicket()

    def shut_down_vm(self, hypervisor: HypervisorName, vmid: Vmid, *, seconds: float) -> tuple[str, ...]:
        self._call("shut_down_vm")
        if self.ignores_shutdown:
            self.clock.advance(seconds)
            raise ShutdownIgnoredError("VM quit/powerdown failed - got timeout", subject="fake", next_step="none")
        self._off(vmid)
        self.acts.append(f"shut down {vmid}")
        return ()

    def stop_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        self._call("stop_vm")
        self._off(vmid)
        self.acts.append(f"stop {vmid}")
        return ()

    def destroy_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> tuple[str, ...]:
        self._call("destroy_vm")
        if self._existing(vmid).seen.power is Power.RUNNING:
            raise refusal(f"VM {vmid} is running - destroy failed")
        if vmid in self.linked.values():
            raise refusal(f"base volume 'base-{vmid}-disk-0' is still in use by linked cloned")
        self.linked.pop(vmid, None)
        del self.vms[vmid]
        self.acts.append(f"destroy {vmid}")
        return ()

    def delete_iso(self, hypervisor: HypervisorName, storage: StorageName, name: str) -> None:
        self._call("delete_iso")
        if not self.may_delete_isos:
            raise PermissionMissingError("Datastore.Allocate", subject="fake token", next_step="none")
        del self.files[storage, "iso"][name]
        self.acts.append(f"delete {name}")

    @staticmethod
    def _require_digest(vm: FakeVm, digest: str) -> None:
        if digest not in ("", vm.digest):
            words = "checksum mismatch (file change by other user?)"
            raise ConfigChangedError(words, subject="fake cluster", next_step="none")

    def _existing(self, vmid: Vmid) -> FakeVm:
        if vmid not in self.vms:
            raise refusal(f"Configuration file 'nodes/pve1/qemu-server/{vmid}.conf' does not exist")
        return self.vms[vmid]

    def _off(self, vmid: Vmid) -> None:
        vm = self._existing(vmid)
        vm.seen = replace(vm.seen, power=Power.STOPPED)
