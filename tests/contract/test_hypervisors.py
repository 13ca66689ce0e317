"""One contract, two clusters: the fake that unit tests use, and the real adapter against the embedded Proxmox."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from provisioner.adapters.proxmox.hypervisors import ProxmoxHypervisors
from provisioner.adapters.proxmox.session import ProxmoxSession, TokenLogin
from provisioner.adapters.secrets import SecretText
from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.actions import VmChange, VmShape
from provisioner.domain.cloud_init import NativeDrive
from provisioner.domain.fleet import ImageSpec
from provisioner.domain.host import Source
from provisioner.domain.model_keeping import ModelDisk, VmDisk
from provisioner.domain.names import HypervisorName, ImageName, MappingId, NodeName, StorageName, Vmid
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import Power
from provisioner.domain.templates import Template, TemplateShape
from provisioner.domain.vm_traits import AT_ONCE, NATIVE_DRIVE, Trait, wanted_traits
from provisioner.errors import ConfigChangedError, HypervisorError, VmidTakenError
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.lab.material import pretended_material
from provisioner.planning.access import is_held
from provisioner.ports.guest_shell import GuestAway
from provisioner.ports.hypervisors import Hypervisors
from tests.fakes.clock import FakeClock
from tests.fakes.host_facts import GPU
from tests.fakes.hypervisors import FakeHypervisors
from tests.lab.support import cluster_spec

PVE1 = HypervisorName("pve1")
LOCAL = StorageName("local")
NOTES = "ssh-host-key: ssh-ed25519 AAAA\nseed: open\n"


@dataclass(frozen=True)
class Case:
    """A cluster and an image that it can fetch."""

    cluster: Hypervisors
    image: ImageSpec
    iso: bytes


@pytest.fixture(params=["fake", "lab", "lab 8.4"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    material = pretended_material(tmp_path)
    if request.param == "fake":
        image = ImageSpec(ImageName("tiny"), "http://example.org/tiny.qcow2", material.image.sha256)
        yield Case(FakeHypervisors(FakeClock()), image, b'{"public": "x"}')
        return
    pve = "8.4" if request.param == "lab 8.4" else "9.1"
    with served_folder(tmp_path) as url, RunningLab(tmp_path / "lab", pve=pve) as lab:
        cluster = cluster_spec(lab)
        session = ProxmoxSession(cluster.address, TokenLogin(cluster.token_id, SecretText(lab.token())))
        image = ImageSpec(ImageName("tiny"), f"{url}/{material.image.path.name}", material.image.sha256)
        yield Case(ProxmoxHypervisors(session, SystemClock()), image, b"no iso, and nobody looks")


def shape(case: Case, vmid: int, name: str = "llm-gpu-01") -> VmShape:
    return VmShape(
        vmid=Vmid(vmid),
        name=NodeName(name),
        cores=2,
        memory_bytes=GIB,
        disk_storage=StorageName("local-lvm"),
        image_storage=LOCAL,
        image_volume=case.image.volume_name,
        iso_storage=LOCAL,
        seed_volume="seed.iso",
        bridge="vmbr0",
        mac="BC:24:11:00:13:89",
        gpu_mappings=(MappingId("rtx3090"),),
    )


def created(case: Case, vmid: int = 5001) -> Vmid:
    if case.image.volume_name not in case.cluster.volumes(PVE1, LOCAL, "import"):
        case.cluster.download_image(PVE1, LOCAL, case.image)
    case.cluster.upload_iso(PVE1, LOCAL, "seed.iso", case.iso)
    case.cluster.create_vm(PVE1, shape(case, vmid), NOTES)
    return Vmid(vmid)


def test_an_empty_cluster_shows_hypervisor_storages_and_mappings(case: Case) -> None:
    snapshot = case.cluster.snapshot()
    assert snapshot.hypervisors == {PVE1: True}
    assert snapshot.vms == {}
    assert "import" in snapshot.storages[PVE1, LOCAL].content
    assert "images" in snapshot.storages[PVE1, StorageName("local-lvm")].content
    assert case.cluster.mappings(PVE1)[MappingId("rtx3090")].errors == ()


def test_the_hardware_is_shown_without_drivers(case: Case) -> None:
    facts = case.cluster.host_facts(PVE1)
    assert facts.sources == (Source.API,)
    assert facts.functions is not None
    card = facts.functions[GPU]
    assert (card.ids, card.subsystem_id, card.is_display, card.is_driver_known) == (
        "10de:2204",
        "10de:3095",
        True,
        False,
    )
    assert facts.groups is not None
    assert facts.groups[GPU] == 15
    assert facts.memory is not None
    assert facts.memory.obtainable is not None
    assert facts.cpu_flags is not None
    assert "svm" in facts.cpu_flags
    assert (facts.threads, facts.is_secure_boot) == (32, False)
    assert facts.log is None
    assert facts.pve == case.cluster.version()


def test_rights_are_shown_by_path(case: Case) -> None:
    permissions = case.cluster.permissions()
    assert is_held(permissions, "/vms/5001", "VM.PowerMgmt")
    assert is_held(permissions, "/mapping/pci/rtx3090", "Mapping.Use")
    assert not is_held(permissions, "/access", "Permissions.Modify")


def test_a_mappings_entries_are_shown(case: Case) -> None:
    (entry,) = case.cluster.mappings(PVE1)[MappingId("rtx3090")].entries
    parts = dict(part.split("=") for part in entry.split(","))
    assert parts == {
        "node": "pve1",
        "path": "0000:01:00",
        "id": "10de:2204",
        "iommugroup": "15",
        "subsystem-id": "10de:3095",
    }


def test_an_image_is_fetched_and_listed(case: Case) -> None:
    assert case.cluster.volumes(PVE1, LOCAL, "import") == frozenset()
    case.cluster.download_image(PVE1, LOCAL, case.image)
    assert case.cluster.volumes(PVE1, LOCAL, "import") == {case.image.volume_name}


def test_a_created_vm_is_off_ours_and_carries_its_notes(case: Case) -> None:
    vm = case.cluster.vm(PVE1, created(case))
    assert vm is not None
    assert (vm.power, vm.name, vm.is_ours, vm.lock) == (Power.STOPPED, "llm-gpu-01", True, None)
    assert case.cluster.config(PVE1, vm.vmid).notes == NOTES
    assert case.cluster.snapshot().vms[vm.vmid].is_ours


def test_a_vm_that_is_not_there_is_none_and_reads_as_empty(case: Case) -> None:
    assert case.cluster.vm(PVE1, Vmid(5009)) is None
    assert case.cluster.config(PVE1, Vmid(5009)).disk_bytes is None


def test_a_taken_vmid_is_told_apart(case: Case) -> None:
    created(case)
    with pytest.raises(VmidTakenError):
        case.cluster.create_vm(PVE1, shape(case, 5001), NOTES)


def test_a_missing_image_fails_and_leaves_no_vm(case: Case) -> None:
    case.cluster.upload_iso(PVE1, LOCAL, "seed.iso", case.iso)
    with pytest.raises(HypervisorError):
        case.cluster.create_vm(PVE1, shape(case, 5001), NOTES)
    assert case.cluster.vm(PVE1, Vmid(5001)) is None


def test_disks_grow_and_do_not_shrink(case: Case) -> None:
    vmid = created(case)
    case.cluster.grow_disk(PVE1, vmid, 200 * GIB)
    assert case.cluster.config(PVE1, vmid).disk_bytes == 200 * GIB
    with pytest.raises(HypervisorError, match="shrink"):
        case.cluster.grow_disk(PVE1, vmid, GIB)


def test_a_disk_for_models_is_added_and_grows_on_its_own(case: Case) -> None:
    vmid = created(case)
    disks = StorageName("local-lvm")
    boot = case.cluster.config(PVE1, vmid).disk_bytes
    digest = case.cluster.config(PVE1, vmid).digest
    with pytest.raises(HypervisorError):
        case.cluster.grow_disk(PVE1, vmid, 50 * GIB, disk=VmDisk.MODELS)
    case.cluster.add_model_disk(PVE1, vmid, disks, 40 * GIB, digest=digest)
    assert case.cluster.config(PVE1, vmid).model_disk == ModelDisk(disks, 40 * GIB, is_ours=True)
    with pytest.raises(ConfigChangedError):
        case.cluster.add_model_disk(PVE1, vmid, disks, 40 * GIB, digest=digest)
    case.cluster.start_vm(PVE1, vmid).wait()
    case.cluster.grow_disk(PVE1, vmid, 50 * GIB, disk=VmDisk.MODELS)
    config = case.cluster.config(PVE1, vmid)
    assert config.model_disk == ModelDisk(disks, 50 * GIB, is_ours=True)
    assert (config.disk_bytes, config.waiting) == (boot, ())


def test_a_running_vm_gets_its_disk_for_models_at_once(case: Case) -> None:
    vmid = created(case)
    case.cluster.start_vm(PVE1, vmid).wait()
    case.cluster.add_model_disk(PVE1, vmid, StorageName("local-lvm"), 40 * GIB)
    config = case.cluster.config(PVE1, vmid)
    assert config.model_disk is not None
    assert config.waiting == ()


def test_a_start_that_was_accepted_arrives_no_more(case: Case) -> None:
    start = case.cluster.start_vm(PVE1, created(case))
    assert not start.may_still_arrive
    start.wait()
    assert not start.may_still_arrive


def test_notes_are_replaced(case: Case) -> None:
    vmid = created(case)
    case.cluster.set_notes(PVE1, vmid, "seed: sealed\nGrüße, 100 % #1\n")
    assert case.cluster.config(PVE1, vmid).notes == "seed: sealed\nGrüße, 100 % #1\n"


def template_shape(case: Case) -> TemplateShape:
    disks = StorageName("local-lvm")
    return TemplateShape("0123abcd", "tiny", disks, "lvmthin", LOCAL, case.image.volume_name, False)


def templated(case: Case, vmid: int = 9000) -> Template:
    case.cluster.download_image(PVE1, LOCAL, case.image)
    case.cluster.upload_iso(PVE1, LOCAL, "seed.iso", case.iso)
    case.cluster.create_template(PVE1, Vmid(vmid), template_shape(case))
    case.cluster.make_template(PVE1, Vmid(vmid))
    return Template(Vmid(vmid), PVE1)


def test_a_template_is_ours_known_by_its_tags_and_never_starts(case: Case) -> None:
    template = templated(case)
    vm = case.cluster.vm(PVE1, template.vmid)
    assert vm is not None
    assert (vm.is_template, vm.power, vm.name) == (True, Power.STOPPED, "tpl-tiny-0123abcd")
    assert vm.tags == {"provisioner", "provisioner-template", "tpl-0123abcd"}
    with pytest.raises(HypervisorError, match="template"):
        case.cluster.start_vm(PVE1, template.vmid).wait()


def test_a_template_stays_one_when_two_make_it(case: Case) -> None:
    template = templated(case)
    case.cluster.make_template(PVE1, template.vmid)
    vm = case.cluster.vm(PVE1, template.vmid)
    assert vm is not None
    assert vm.is_template
    assert case.cluster.snapshot().vms[template.vmid].is_template


def test_a_clone_is_what_a_created_vm_is(case: Case) -> None:
    template = templated(case)
    case.cluster.clone_vm(PVE1, template, shape(case, 5001), NOTES)
    cloned, seen = case.cluster.config(PVE1, Vmid(5001)), case.cluster.vm(PVE1, Vmid(5001))
    case.cluster.destroy_vm(PVE1, Vmid(5001))
    case.cluster.create_vm(PVE1, shape(case, 5001), NOTES)
    made = case.cluster.config(PVE1, Vmid(5001))
    assert replace(cloned, digest="") == replace(made, digest="")
    assert seen == case.cluster.vm(PVE1, Vmid(5001))


def test_a_clone_grows_and_runs(case: Case) -> None:
    case.cluster.clone_vm(PVE1, templated(case), shape(case, 5001), NOTES)
    case.cluster.grow_disk(PVE1, Vmid(5001), 100 * GIB)
    case.cluster.start_vm(PVE1, Vmid(5001)).wait()
    vm = case.cluster.vm(PVE1, Vmid(5001))
    assert vm is not None
    assert vm.power is Power.RUNNING


def test_a_clone_meets_a_taken_vmid_as_a_creation_does(case: Case) -> None:
    template = templated(case)
    case.cluster.create_vm(PVE1, shape(case, 5001), "another's")
    with pytest.raises(VmidTakenError):
        case.cluster.clone_vm(PVE1, template, shape(case, 5001), NOTES)
    assert case.cluster.config(PVE1, Vmid(5001)).notes.strip() == "another's"
    with pytest.raises(VmidTakenError):
        case.cluster.create_template(PVE1, template.vmid, template_shape(case))


def test_a_template_in_use_is_not_deleted(case: Case) -> None:
    template = templated(case)
    case.cluster.clone_vm(PVE1, template, shape(case, 5001), NOTES)
    with pytest.raises(HypervisorError, match="is still in use by linked clone"):
        case.cluster.destroy_vm(PVE1, template.vmid)
    case.cluster.destroy_vm(PVE1, Vmid(5001))
    case.cluster.destroy_vm(PVE1, template.vmid)
    assert case.cluster.snapshot().vms == {}


def test_a_clone_is_given_its_shape_by_whoever_saw_it_last(case: Case) -> None:
    template = templated(case)
    case.cluster.clone_vm(PVE1, template, shape(case, 5001), NOTES)
    before = case.cluster.config(PVE1, Vmid(5001))
    with pytest.raises(ConfigChangedError):
        case.cluster.shape_clone(PVE1, shape(case, 5001), digest="0" * 40)
    case.cluster.shape_clone(PVE1, shape(case, 5001), digest=before.digest)
    assert replace(case.cluster.config(PVE1, Vmid(5001)), digest="") == replace(before, digest="")


def native_shape(case: Case) -> VmShape:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ+/IJIJIJIJIJIJIJIJIJIJIJIJIJIJIJIJIJIJIJIJ me"
    drive = NativeDrive("ops", IPv4Interface("10.10.90.1/16"), None, (IPv4Address("10.10.0.1"),), (line,))
    return replace(shape(case, 5001), cloud_init=drive)


def test_a_clone_with_proxmoxs_own_drive_is_what_a_created_vm_is(case: Case) -> None:
    template = templated(case)
    wanted = native_shape(case)
    case.cluster.clone_vm(PVE1, template, wanted, NOTES)
    cloned = case.cluster.config(PVE1, Vmid(5001))
    case.cluster.destroy_vm(PVE1, Vmid(5001))
    case.cluster.create_vm(PVE1, wanted, NOTES)
    assert replace(cloned, digest="") == replace(case.cluster.config(PVE1, Vmid(5001)), digest="")
    assert cloned.traits[Trait.CLOUD_INIT] == NATIVE_DRIVE


def wished(case: Case, **changes: object) -> VmChange:
    """A change of the VM that `created` makes, to everything that these wishes touch."""
    before = shape(case, 5001)
    after = replace(before, **changes)  # type: ignore[arg-type]
    old, new = wanted_traits(before), wanted_traits(after)
    traits = frozenset(trait for trait in new if old[trait] != new[trait])
    return VmChange(after, traits, known_gpus=frozenset({MappingId("rtx3090"), MappingId("rtx3060")}))


def test_a_created_vm_is_what_was_asked_for(case: Case) -> None:
    config = case.cluster.config(PVE1, created(case))
    wanted = {trait: value for trait, value in wanted_traits(shape(case, 5001)).items() if trait is not Trait.GPUS}
    assert {trait: config.traits.get(trait) for trait in wanted} == wanted
    assert [device.mapping for device in config.devices] == ["rtx3090"]
    assert config.seed == (LOCAL, "seed.iso")
    assert config.waiting == ()
    assert config.digest


CHANGES = [
    {"cores": 1},
    {"memory_bytes": 2 * GIB},
    {"numa": True},
    {"secure_boot": True},
    {"protection": True},
    {"name": NodeName("chat")},
    {"tags": frozenset({"provisioner", "llm"})},
    {"gpu_mappings": (MappingId("rtx3060"),)},
    {"gpu_mappings": (MappingId("rtx3060"), MappingId("rtx3090"))},
    {"gpu_mappings": ()},
    {"mac": "BC:24:11:00:00:01"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=", ".join)
@pytest.mark.parametrize("power", [Power.STOPPED, Power.RUNNING], ids=lambda power: power.value)
def test_traits_change_at_once_or_wait_for_the_next_start(case: Case, power: Power, changes: dict[str, object]) -> None:
    vmid, change = created(case), wished(case, **changes)
    if power is Power.RUNNING:
        case.cluster.start_vm(PVE1, vmid).wait()
    before = case.cluster.config(PVE1, vmid)
    case.cluster.change_vm(PVE1, change, digest=before.digest)
    after = case.cluster.config(PVE1, vmid)
    wanted = wanted_traits(change.shape)
    settled = change.traits - {Trait.GPUS}
    assert {trait: after.traits[trait] for trait in settled} == {trait: wanted[trait] for trait in settled}
    assert tuple(device.mapping for device in after.devices) == change.shape.gpu_mappings
    assert after.digest != before.digest
    waits = {drift.trait for drift in after.waiting}
    waits |= {Trait.GPUS} if after.devices != after.running_devices else set()
    assert waits == (change.traits - AT_ONCE if power is Power.RUNNING else set())
    untouched = before.traits.keys() - change.traits
    assert {trait: after.traits[trait] for trait in untouched} == {trait: before.traits[trait] for trait in untouched}
    case.cluster.stop_vm(PVE1, vmid)
    case.cluster.start_vm(PVE1, vmid).wait()
    restarted = case.cluster.config(PVE1, vmid)
    assert restarted.waiting == ()
    assert restarted.devices == restarted.running_devices


def test_what_was_meant_for_another_state_of_the_vm_is_not_written(case: Case) -> None:
    vmid = created(case)
    digest = case.cluster.config(PVE1, vmid).digest
    case.cluster.set_notes(PVE1, vmid, "seed: sealed\n", digest=digest)
    for act in (
        lambda: case.cluster.change_vm(PVE1, wished(case, cores=1), digest=digest),
        lambda: case.cluster.set_notes(PVE1, vmid, "seed: open\n", digest=digest),
        lambda: case.cluster.grow_disk(PVE1, vmid, 300 * GIB, digest=digest),
    ):
        with pytest.raises(ConfigChangedError):
            act()
    config = case.cluster.config(PVE1, vmid)
    assert (config.notes.strip(), config.traits[Trait.CORES]) == ("seed: sealed", "2")
    assert config.disk_bytes is not None
    assert config.disk_bytes < 300 * GIB


def test_power_goes_on_and_off(case: Case) -> None:
    vmid = created(case)
    case.cluster.start_vm(PVE1, vmid).wait()
    running = case.cluster.vm(PVE1, vmid)
    assert running is not None
    assert running.power is Power.RUNNING
    case.cluster.stop_vm(PVE1, vmid)
    stopped = case.cluster.vm(PVE1, vmid)
    assert stopped is not None
    assert stopped.power is Power.STOPPED


def test_a_gpu_serves_one_running_vm_at_a_time(case: Case) -> None:
    first, second = created(case), created(case, 5002)
    case.cluster.start_vm(PVE1, first).wait()
    with pytest.raises(HypervisorError, match=f"already in use by VMID '{first}'"):
        case.cluster.start_vm(PVE1, second).wait()
    case.cluster.stop_vm(PVE1, first)
    case.cluster.start_vm(PVE1, second).wait()


def test_a_start_without_its_seed_fails(case: Case) -> None:
    vmid = created(case)
    case.cluster.delete_iso(PVE1, LOCAL, "seed.iso")
    with pytest.raises(HypervisorError, match="does not exist"):
        case.cluster.start_vm(PVE1, vmid).wait()


def test_a_running_vm_is_not_destroyed_a_stopped_one_is(case: Case) -> None:
    vmid = created(case)
    case.cluster.start_vm(PVE1, vmid).wait()
    with pytest.raises(HypervisorError, match="running"):
        case.cluster.destroy_vm(PVE1, vmid)
    case.cluster.stop_vm(PVE1, vmid)
    case.cluster.destroy_vm(PVE1, vmid)
    assert case.cluster.vm(PVE1, vmid) is None
    assert case.cluster.snapshot().vms == {}


def test_a_guest_without_power_has_no_files_to_read(case: Case) -> None:
    vmid = created(case)
    with pytest.raises(GuestAway):
        case.cluster.read_guest_file(PVE1, vmid, "/etc/ssh/ssh_host_ed25519_key.pub")


def test_a_vm_whose_drive_the_cluster_makes_needs_no_seed(case: Case) -> None:
    case.cluster.download_image(PVE1, LOCAL, case.image)
    wanted = native_shape(case)
    case.cluster.create_vm(PVE1, wanted, NOTES)
    config = case.cluster.config(PVE1, Vmid(5001))
    assert config.seed is None
    native = {trait: value for trait, value in config.traits.items() if trait.name.startswith("CLOUD_INIT")}
    assert native == {trait: wanted_traits(wanted)[trait] for trait in native}
    case.cluster.start_vm(PVE1, Vmid(5001)).wait()
    assert wanted.cloud_init is not None
    moved = replace(wanted.cloud_init, address=IPv4Interface("10.10.90.2/16"))
    change = VmChange(replace(wanted, cloud_init=moved), frozenset({Trait.CLOUD_INIT_ADDRESS}))
    case.cluster.change_vm(PVE1, change, digest="")
    assert case.cluster.config(PVE1, Vmid(5001)).traits[Trait.CLOUD_INIT_ADDRESS] == "10.10.90.2/16"


def test_a_file_that_a_guest_does_not_have_is_none(case: Case) -> None:
    if isinstance(case.cluster, FakeHypervisors):
        case.cluster.guest_files = lambda vmid, path: {"/etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAA"}.get(
            path
        )
    vmid = created(case)
    case.cluster.start_vm(PVE1, vmid).wait()
    assert case.cluster.read_guest_file(PVE1, vmid, "/etc/nothing") is None
