"""`up`, `plan` and `destroy` against fakes that keep state."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.models.catalogue import MODELS
from provisioner.domain.models.model import Subject
from provisioner.domain.names import HypervisorName, MappingId, NodeName, StorageName, Vmid
from provisioner.domain.notes import read_notes
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import (
    EngineError,
    GuestError,
    HypervisorError,
    NotReadyError,
    PlaybookError,
    ProvisionerError,
    RefusedError,
)
from provisioner.services.events import Event, Phase
from provisioner.services.provisioning import Provisioning, UpReport
from tests.fakes.hypervisors import FakeHypervisors, FakeVm, refusal
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")
LOCAL = StorageName("local")


def seed_in(world: FakeWorld) -> str:
    """The only seed; its name has the key in it."""
    (name,) = (name for name in world.cluster.files[LOCAL, "iso"] if name.endswith("-seed.iso"))
    return name


@pytest.fixture
def provisioning(fleet: FleetSpec, world: FakeWorld) -> Provisioning:
    return Provisioning(fleet, world)


def up(provisioning: Provisioning, node: NodeSpec) -> UpReport:
    return provisioning.apply(provisioning.plan(node), lambda event: None)


def test_up_goes_from_nothing_to_an_answer(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    report = up(provisioning, node)
    assert report.changed == (
        "image",
        "seed",
        "create",
        "grow disk",
        "start",
        "guest",
        "seal seed",
        "base",
        "configure",
    )
    assert report.endpoint.url == "http://10.10.90.1:8080/v1"
    assert report.reply == "hello"
    assert world.cluster.vms[node.vmid].disk_bytes == 200 * GIB


def test_a_second_up_changes_nothing(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    up(provisioning, node)
    acts = list(world.cluster.acts)
    assert not provisioning.plan(node).has_changes
    assert up(provisioning, node).changed == ()
    assert world.cluster.acts == acts


def test_no_secret_is_left_on_the_iso_storage(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    up(provisioning, node)
    assert "private" not in json.loads(world.cluster.files[LOCAL, "iso"][seed_in(world)])
    assert read_notes(world.cluster.vms[node.vmid].notes).seed_is_sealed


def test_printing_a_plan_moves_nothing(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    text = str(provisioning.plan(node))
    assert "create: there is no VM 5001 yet: 12 cores, 48GiB memory with rtx3090" in text
    assert world.cluster.acts == []


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs after it."""


STEPS = ("image", "seed", "create", "grow disk", "start", "guest", "seal seed", "base", "driver", "configure", "prove")


@pytest.mark.parametrize("phase", [Phase.STARTED, Phase.DONE])
@pytest.mark.parametrize("step", STEPS)
def test_up_killed_anywhere_is_continued_by_the_next(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld, step: str, phase: Phase
) -> None:
    def kill(event: Event) -> None:
        if event.step == step and event.phase is phase:
            raise Killed

    with pytest.raises(Killed):
        provisioning.apply(provisioning.plan(node), kill)
    report = up(provisioning, node)
    assert report.reply == "hello"
    assert world.cluster.acts.count("create 5001") == 1
    assert up(provisioning, node).changed == ()


def test_a_creation_under_way_is_awaited_and_continued(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    def kill(event: Event) -> None:
        if event.step == "create" and event.phase is Phase.DONE:
            raise Killed

    with pytest.raises(Killed):
        provisioning.apply(provisioning.plan(node), kill)
    vm = world.cluster.vms[node.vmid]
    whole = vm.seen
    # As Proxmox shows it: nothing but the lock until the creation ends.
    vm.seen = replace(whole, lock="create", name="", tags=frozenset())

    def unlock() -> None:
        vm.seen = whole

    world.clock.at(3.0, unlock)
    plan = provisioning.plan(node)
    assert plan.steps[0].name == "await creation"
    assert provisioning.apply(plan, lambda event: None).reply == "hello"
    assert world.cluster.acts.count("create 5001") == 1


def test_a_creation_that_turns_out_to_be_somebody_elses_is_refused(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    up(provisioning, node)
    vm = world.cluster.vms[node.vmid]
    vm.seen = replace(vm.seen, lock="create", name="", tags=frozenset(), power=Power.STOPPED)

    def unlock() -> None:
        vm.seen = replace(vm.seen, lock=None, name="nextcloud")

    world.clock.at(3.0, unlock)
    with pytest.raises(RefusedError, match="nextcloud"):
        up(provisioning, node)


def test_a_creation_that_failed_meanwhile_is_begun_anew(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    up(provisioning, node)
    vm = world.cluster.vms[node.vmid]
    vm.seen = replace(vm.seen, lock="create", power=Power.STOPPED)
    world.guests.disks.clear()
    world.clock.at(2.0, lambda: world.cluster.vms.clear())
    report = up(provisioning, node)
    assert "create" in report.changed
    assert report.reply == "hello"


def test_a_creation_that_never_ends_names_the_way_out(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    up(provisioning, node)
    vm = world.cluster.vms[node.vmid]
    vm.seen = replace(vm.seen, lock="create", power=Power.STOPPED)
    with pytest.raises(HypervisorError) as caught:
        up(provisioning, node)
    assert "qm unlock 5001" in caught.value.next_step


def test_a_lost_seed_of_a_settled_node_is_sealed_again_with_the_same_key(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    up(provisioning, node)
    key = read_notes(world.cluster.vms[node.vmid].notes).host_key
    world.cluster.stop_vm(PVE1, node.vmid)
    world.cluster.files[LOCAL, "iso"].clear()
    report = up(provisioning, node)
    assert report.changed == ("seal seed", "start")
    assert read_notes(world.cluster.vms[node.vmid].notes).host_key == key


def test_a_seed_lost_before_the_first_boot_is_made_anew_with_a_new_key(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    def kill(event: Event) -> None:
        if event.step == "grow disk" and event.phase is Phase.DONE:
            raise Killed

    with pytest.raises(Killed):
        provisioning.apply(provisioning.plan(node), kill)
    before = read_notes(world.cluster.vms[node.vmid].notes).host_key
    world.cluster.files[LOCAL, "iso"].clear()
    report = up(provisioning, node)
    assert report.changed == ("renew notes", "seed", "start", "guest", "seal seed", "base", "configure")
    assert read_notes(world.cluster.vms[node.vmid].notes).host_key != before


def test_a_persons_text_in_the_notes_is_kept(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    def kill(event: Event) -> None:
        if event.step == "create" and event.phase is Phase.DONE:
            raise Killed

    with pytest.raises(Killed):
        provisioning.apply(provisioning.plan(node), kill)
    world.cluster.vms[node.vmid].notes += "\nAsk Ada before touching.\n"
    up(provisioning, node)
    assert "Ask Ada before touching." in world.cluster.vms[node.vmid].notes


class TestRefusals:
    """Nothing is touched."""

    def refused(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> RefusedError:
        acts = list(world.cluster.acts)
        with pytest.raises(RefusedError) as caught:
            up(provisioning, node)
        assert world.cluster.acts == acts
        return caught.value

    def test_a_vmid_of_a_foreign_vm_is_refused_and_a_free_one_named(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        up(provisioning, node)
        vm = world.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, tags=frozenset(), name="nextcloud")
        error = self.refused(provisioning, node, world)
        assert 'vmid 5001 belongs to VM "nextcloud" on pve1' in error.summary
        assert "5003 is free" in error.next_step

    def test_a_vm_of_ours_with_another_name_is_refused(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        up(provisioning, node)
        vm = world.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, name="llm-gpu-02")
        assert "made for another node" in self.refused(provisioning, node, world).summary

    def test_a_missing_mapping_is_refused(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
        world.cluster.mapping_errors.clear()
        error = self.refused(provisioning, node, world)
        assert 'no PCI mapping "rtx3090" in sight' in error.summary
        assert "Mapping.Use" in error.next_step

    def test_a_mapping_that_no_longer_fits_is_refused_with_proxmoxs_words(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        world.cluster.mapping_errors[MappingId("rtx3090")] = ("Invalid configuration: iommugroup changed",)
        assert "iommugroup changed" in self.refused(provisioning, node, world).summary

    def test_an_unknown_storage_is_refused_and_the_known_ones_listed(
        self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld
    ) -> None:
        (name,) = fleet.clusters
        roles = replace(fleet.clusters[name].storage, disks=StorageName("tank"))
        changed = replace(fleet, clusters={name: replace(fleet.clusters[name], storage=roles)})
        error = self.refused(Provisioning(changed, world), node, world)
        assert 'no storage "tank" on pve1; there is: local, local-lvm' in error.summary

    def test_a_storage_without_the_content_type_is_refused(
        self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld
    ) -> None:
        (name,) = fleet.clusters
        roles = replace(fleet.clusters[name].storage, images=StorageName("local-lvm"))
        changed = replace(fleet, clusters={name: replace(fleet.clusters[name], storage=roles)})
        assert "holds images, not import" in self.refused(Provisioning(changed, world), node, world).summary

    def test_a_locked_vm_is_refused(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
        up(provisioning, node)
        vm = world.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, lock="backup")
        assert "locked (backup)" in self.refused(provisioning, node, world).summary


class TestFailures:
    """Each is named, and the next `up` succeeds once the cause is gone."""

    def fails(self, provisioning: Provisioning, node: NodeSpec, kind: type[ProvisionerError]) -> ProvisionerError:
        with pytest.raises(kind) as caught:
            up(provisioning, node)
        return caught.value

    def test_a_gpu_in_use_by_another_vm(
        self, provisioning: Provisioning, fleet: FleetSpec, node: NodeSpec, world: FakeWorld
    ) -> None:
        up(provisioning, node)
        other = fleet.nodes[NodeName("llm-gpu-02")]
        up(provisioning, other)
        acts = world.cluster.acts
        # The quiet one gives way, and only once it has had the card for its time.
        assert acts.index("start 5001") < acts.index("shut down 5001") < acts.index("start 5002")
        assert world.clock.monotonic() >= node.min_residence_seconds

    def test_a_gpu_in_use_by_somebody_elses_vm(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        seen = VmSeen(Vmid(200), "windows", PVE1, Power.RUNNING)
        cards = (MappingId("rtx3090"),)
        world.cluster.vms[Vmid(200)] = FakeVm(seen, notes="", disk_bytes=GIB, mappings=cards, seed=None)
        assert "already in use by VMID '200'" in self.fails(provisioning, node, HypervisorError).summary
        world.cluster.stop_vm(PVE1, Vmid(200))
        assert up(provisioning, node).reply == "hello"

    def test_a_guest_that_never_boots(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
        world.guests.never_boots = True
        error = self.fails(provisioning, node, NotReadyError)
        assert "within 900 s; last: connection refused" in error.summary
        assert "Console" in error.next_step
        world.guests.never_boots = False
        assert up(provisioning, node).reply == "hello"

    def test_a_guest_that_goes_off_while_booting_is_noticed_early(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        world.guests.never_boots = True
        world.clock.at(5.0, lambda: world.cluster.stop_vm(PVE1, node.vmid))
        error = self.fails(provisioning, node, NotReadyError)
        assert "went off while its guest was booting" in error.summary
        assert world.clock.monotonic() < 60

    def test_a_refused_key_is_told_after_a_grace(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        world.guests.refuses_key = True
        error = self.fails(provisioning, node, GuestError)
        assert "refuses our SSH key" in error.summary
        assert world.clock.monotonic() < 60
        # Newer OpenSSH shuts out an address that fails too often.
        assert world.guests.refusals <= 3
        world.guests.refuses_key = False
        assert up(provisioning, node).reply == "hello"

    def test_cloud_init_errors(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
        world.guests.cloud_init = {"status": "error", "errors": ["could not install qemu-guest-agent"]}
        assert "could not install qemu-guest-agent" in self.fails(provisioning, node, GuestError).summary

    def test_a_failing_task(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
        world.guests.failing_task = "Unpack the release archive"
        assert "Unpack the release archive" in self.fails(provisioning, node, PlaybookError).summary
        world.guests.failing_task = None
        assert up(provisioning, node).reply == "hello"

    def test_an_engine_that_never_answers_shows_its_log(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        world.guests.engine_dead = True
        error = self.fails(provisioning, node, EngineError)
        assert "within 900 s; last: connection refused" in error.summary
        assert "its log ends:\n  nothing of interest" in error.summary
        world.guests.engine_dead = False
        assert up(provisioning, node).reply == "hello"

    @pytest.mark.parametrize("method", ["download_image", "upload_iso", "create_vm", "grow_disk", "start_vm"])
    def test_a_full_storage_or_any_other_refusal_of_proxmox(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld, method: str
    ) -> None:
        world.cluster.fails[method] = refusal("No space left on device")
        assert "No space left" in self.fails(provisioning, node, HypervisorError).summary
        assert up(provisioning, node).reply == "hello"


class TestDestroy:
    """Only what is ours."""

    def test_it_removes_vm_disks_and_seed(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
        up(provisioning, node)
        seed = seed_in(world)
        removed = provisioning.destroy(node, lambda event: None)
        assert removed == ("vm 5001 and its disks", f"seed local:iso/{seed}")
        assert not world.cluster.vms
        assert seed not in world.cluster.files[LOCAL, "iso"]

    def test_it_can_be_run_again(self, provisioning: Provisioning, node: NodeSpec) -> None:
        up(provisioning, node)
        provisioning.destroy(node, lambda event: None)
        assert provisioning.destroy(node, lambda event: None) == ()

    def test_a_foreign_vm_is_never_destroyed(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        up(provisioning, node)
        vm = world.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, tags=frozenset({"family"}))
        with pytest.raises(RefusedError, match="tags: family"):
            provisioning.destroy(node, lambda event: None)
        assert world.cluster.vms[node.vmid].seen.power is Power.RUNNING

    def test_the_tag_is_read_again_right_before_the_deletion(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        up(provisioning, node)

        class Swapping(FakeHypervisors):
            def stop_vm(self, hypervisor: HypervisorName, vmid: Vmid) -> None:
                super().stop_vm(hypervisor, vmid)
                vm = self.vms[vmid]
                vm.seen = replace(vm.seen, tags=frozenset())

        world.cluster.__class__ = Swapping
        with pytest.raises(RefusedError):
            provisioning.destroy(node, lambda event: None)
        assert node.vmid in world.cluster.vms

    def test_without_the_right_to_delete_isos_the_seed_stays_without_a_secret(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        def kill(event: Event) -> None:
            if event.step == "start":
                raise Killed

        with pytest.raises(Killed):
            provisioning.apply(provisioning.plan(node), kill)
        assert "private" in json.loads(world.cluster.files[LOCAL, "iso"][seed_in(world)])
        world.cluster.may_delete_isos = False
        told: list[Event] = []
        assert provisioning.destroy(node, told.append) == ("vm 5001 and its disks",)
        assert "private" not in json.loads(world.cluster.files[LOCAL, "iso"][seed_in(world)])
        assert any("Datastore.Allocate on /storage/local" in event.detail for event in told)


def test_a_model_in_a_file_here_that_cannot_fit_is_refused_before_anything_is_made(
    fleet: FleetSpec, node: NodeSpec, world: FakeWorld
) -> None:
    (name,) = fleet.mode_of(node).models
    path = fleet.models[name].local_path
    assert path is not None
    shape = MODELS[0].shape
    world.model_files.subjects[path] = Subject(name, shape, "q4_k_m", 90 * GIB, is_measured=True, origin="its header")
    with pytest.raises(RefusedError, match="does not fit its GPUs"):
        up(Provisioning(fleet, world), node)
    assert world.cluster.vms == {}
