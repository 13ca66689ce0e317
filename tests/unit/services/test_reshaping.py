"""`plan`, `up` and `apply` for a node whose VM exists: what changed, by whose hand, and when it takes effect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.actions import Plan, StepKind
from provisioner.domain.fleet import FleetSpec, ModeSpec, NodeSpec, VmOptions
from provisioner.domain.names import HypervisorName, MappingId, ModeName, NodeName
from provisioner.domain.notes import read_notes
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import Power
from provisioner.domain.vm_traits import Trait
from provisioner.errors import ConfigChangedError, GuestError, RefusedError, ShutdownIgnoredError
from provisioner.planning.plans import what_outdates
from provisioner.services.events import Event, Phase, ignore
from provisioner.services.provisioning import Provisioning, UpReport
from tests.fakes.world import FakeWorld

PVE1 = HypervisorName("pve1")


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs after it."""


@pytest.fixture
def settled(fleet: FleetSpec, node: NodeSpec, world: FakeWorld) -> FakeWorld:
    """A world with the first node provisioned and serving."""
    provisioning = Provisioning(fleet, world)
    provisioning.apply(provisioning.plan(node), ignore)
    world.cluster.acts.clear()
    return world


def wishing(fleet: FleetSpec, node: NodeSpec, world: FakeWorld, **changes: object) -> tuple[Provisioning, NodeSpec]:
    """Change what the fleet file says of the node."""
    wished = replace(node, **changes)  # type: ignore[arg-type]
    return Provisioning(replace(fleet, nodes={**fleet.nodes, wished.name: wished}), world), wished


def up(provisioning: Provisioning, node: NodeSpec) -> UpReport:
    return provisioning.apply(provisioning.plan(node), ignore)


def steps(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps if step.kind is StepKind.CHANGE]


def test_a_running_node_is_changed_shut_down_and_started(fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
    provisioning, wished = wishing(fleet, node, settled, cores=8, memory_bytes=64 * GIB)
    plan = provisioning.plan(wished)
    assert steps(plan) == ["change", "restart"]
    assert "for the next cold start: cores 12 → 8, memory 48GiB → 64GiB" in str(plan)
    assert "it is shut down cleanly and started, unless it is busy" in str(plan)
    report = provisioning.apply(plan, ignore)
    # The engine gets as many threads as there are cores.
    assert report.changed == ("change", "restart", "configure")
    assert report.left_for_next_start == ""
    assert settled.cluster.acts == ["change 5001", "shut down 5001", "start 5001"]
    assert up(provisioning, wished).changed == ()


def test_a_sleeping_node_is_changed_and_started(fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
    settled.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
    settled.cluster.acts.clear()
    provisioning, wished = wishing(fleet, node, settled, cores=8)
    assert up(provisioning, wished).changed == ("change", "start", "configure")
    assert settled.cluster.acts == ["change 5001", "start 5001"]


def test_what_takes_effect_at_once_restarts_nothing(fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
    options = VmOptions(protection=True, tags=frozenset({"llm"}))
    provisioning, wished = wishing(fleet, node, settled, options=options)
    assert up(provisioning, wished).changed == ("change",)
    assert settled.cluster.acts == ["change 5001"]
    assert settled.cluster.vms[node.vmid].seen.tags == {"provisioner", "llm"}


def test_a_busy_node_keeps_running_its_engine_too_and_the_change_waits(
    fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
) -> None:
    settled.guests.running = 2
    provisioning, wished = wishing(fleet, node, settled, cores=8)
    told: list[Event] = []
    report = provisioning.apply(provisioning.plan(wished), told.append)
    assert "2 requests running" in report.left_for_next_start
    assert report.changed == ("change",)
    assert settled.cluster.acts == ["change 5001"]
    assert any("left for its next start" in event.detail for event in told if event.step == "restart")
    plan = provisioning.plan(wished)
    assert steps(plan) == ["restart"]
    assert [str(drift) for drift in plan.steps[0].drifts] == ["cores 12 → 8"]
    settled.guests.running = 0
    assert up(provisioning, wished).changed == ("restart", "configure")


def test_a_node_that_somebody_works_in_keeps_running(fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
    settled.guests.shows["connections"] = "session 7\nName=alice\nTTY=pts/0\nprogram pts/0 python3 train.py"
    provisioning, wished = wishing(fleet, node, settled, cores=8)
    assert "alice is logged in" in up(provisioning, wished).left_for_next_start
    assert settled.cluster.acts == ["change 5001"]


def test_a_node_whose_gpu_would_not_come_back_keeps_running(
    fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
) -> None:
    server = fleet.hypervisors[node.hypervisor]
    fragile = replace(server, gpus={name: replace(gpu, survives_stop=False) for name, gpu in server.gpus.items()})
    fleet = replace(fleet, hypervisors={**fleet.hypervisors, node.hypervisor: fragile})
    provisioning, wished = wishing(fleet, node, settled, cores=8)
    assert "GPU rtx3090 would not come back" in up(provisioning, wished).left_for_next_start
    assert settled.cluster.acts == ["change 5001"]


def test_an_engine_that_does_not_answer_counts_as_busy(fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
    provisioning, wished = wishing(fleet, node, settled, cores=8)

    def silence(event: Event) -> None:
        settled.guests.engine_dead = event.step in ("change", "restart")

    report = provisioning.apply(provisioning.plan(wished), silence)
    assert "does not say whether it is busy" in report.left_for_next_start
    assert "shut down 5001" not in settled.cluster.acts


def test_a_guest_that_ignores_its_shutdown_is_not_cut_off(fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
    settled.cluster.ignores_shutdown = True
    provisioning, wished = wishing(fleet, node, settled, cores=8)
    with pytest.raises(ShutdownIgnoredError):
        up(provisioning, wished)
    assert settled.cluster.acts == ["change 5001"]


@pytest.mark.parametrize("phase", [Phase.STARTED, Phase.DONE])
@pytest.mark.parametrize("step", ["change", "grow disk", "restart", "guest", "grow filesystem", "configure"])
def test_a_change_killed_anywhere_is_continued_by_the_next_run(
    fleet: FleetSpec, node: NodeSpec, settled: FakeWorld, step: str, phase: Phase
) -> None:
    provisioning, wished = wishing(fleet, node, settled, cores=8, disk_bytes=300 * GIB)

    def kill(event: Event) -> None:
        if event.step == step and event.phase is phase:
            raise Killed

    plan = provisioning.plan(wished)
    with pytest.raises(Killed):
        provisioning.apply(plan, kill)
    # What is left of a plan may still be carried out as it was shown.
    provisioning.apply(plan, ignore)
    vm, disk = settled.cluster.vms[node.vmid], settled.guests.disks[node.vmid]
    assert vm.started_with[0][Trait.CORES] == "8"
    assert vm.disk_bytes == disk.filesystem_bytes == 300 * GIB
    assert not provisioning.plan(wished).has_changes
    assert settled.cluster.acts.count("shut down 5001") == 1


class TestFilesystem:
    """After the first boot nobody but us grows it."""

    def test_it_follows_the_disk(self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
        provisioning, wished = wishing(fleet, node, settled, disk_bytes=300 * GIB)
        assert steps(provisioning.plan(wished)) == ["grow disk", "grow filesystem"]
        assert up(provisioning, wished).changed == ("grow disk", "grow filesystem")
        assert settled.guests.disks[node.vmid].filesystem_bytes == 300 * GIB

    def test_a_guest_without_the_tools_is_left_alone_and_that_is_told(
        self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
    ) -> None:
        settled.guests.missing_commands = {"growpart"}
        provisioning, wished = wishing(fleet, node, settled, disk_bytes=300 * GIB)
        told: list[Event] = []
        provisioning.apply(provisioning.plan(wished), told.append)
        assert any("the guest has no growpart" in event.detail for event in told)

    def test_a_failure_is_named_and_the_next_run_goes_on(
        self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
    ) -> None:
        settled.guests.resize_fails = True
        provisioning, wished = wishing(fleet, node, settled, disk_bytes=300 * GIB)
        with pytest.raises(GuestError, match="Permission denied to resize"):
            up(provisioning, wished)
        settled.guests.resize_fails = False
        assert up(provisioning, wished).changed == ("grow filesystem",)


class TestRenaming:
    """A VM follows its node's name, and no other node's VM is taken."""

    def test_one_renamed_in_proxmox_gets_its_name_back(
        self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
    ) -> None:
        vm = settled.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, name="gpu-box")
        assert up(Provisioning(fleet, settled), node).changed == ("change",)
        assert vm.seen.name == node.name

    def test_one_renamed_in_the_fleet_file_takes_the_new_name(
        self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
    ) -> None:
        renamed = replace(node, name=NodeName("chat"))
        others = {name: each for name, each in fleet.nodes.items() if name != node.name}
        provisioning = Provisioning(replace(fleet, nodes={**others, renamed.name: renamed}), settled)
        assert up(provisioning, renamed).changed == ("change",)
        vm = settled.cluster.vms[node.vmid]
        assert vm.seen.name == "chat"
        assert "node chat, made from ubuntu-24.04" in vm.notes
        assert up(provisioning, renamed).changed == ()
        assert vm.seed is not None
        assert provisioning.destroy(renamed, ignore) == ("vm 5001 and its disks", f"seed local:iso/{vm.seed[1]}")

    def test_without_evidence_it_is_another_nodes(self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
        vm = settled.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, name="llm-gpu-09")
        vm.notes = vm.notes.replace("llm-gpu-01", "llm-gpu-09").replace("10.10.90.1", "10.10.90.9")
        with pytest.raises(RefusedError, match="made for another node"):
            up(Provisioning(fleet, settled), node)


class TestRefusals:
    """What would lose a disk, or takes more than a token, is not tried."""

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"disk_bytes": 100 * GIB}, "the disk has 200GiB, wanted are 100GiB: disks only grow"),
            ({"image": "debian-13"}, 'made from image "ubuntu-24.04", wanted is "debian-13"'),
            ({"options": VmOptions(numa=True, hugepages="1GiB")}, "hugepages are none, wanted are 1GiB"),
        ],
    )
    def test_it_is_said_before_anything_moves(
        self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld, changes: dict[str, object], words: str
    ) -> None:
        image = next(iter(fleet.images.values()))
        more = replace(fleet, images={**fleet.images, "debian-13": image})  # type: ignore[dict-item]
        provisioning, wished = wishing(more, node, settled, **changes)
        with pytest.raises(RefusedError, match=words):
            up(provisioning, wished)
        assert settled.cluster.acts == []

    def test_a_boot_disk_that_was_taken_away(self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
        settled.cluster.vms[node.vmid].disk_bytes = None  # type: ignore[assignment]
        with pytest.raises(RefusedError, match="lost its boot disk"):
            up(Provisioning(fleet, settled), node)

    def test_one_vm_cannot_have_more_cards_than_a_pool_holds(
        self, fleet: FleetSpec, node: NodeSpec, world: FakeWorld
    ) -> None:
        gpu = fleet.hypervisors[PVE1].gpus[node.gpus[0]]
        twin = replace(gpu, name="twin")
        server = replace(fleet.hypervisors[PVE1], gpus={gpu.name: gpu, twin.name: twin})
        pooled = replace(fleet, hypervisors={PVE1: server})
        provisioning, wished = wishing(pooled, node, world, gpus=(gpu.name, twin.name))
        world.cluster.entries[MappingId("rtx3090")] = ("node=pve1,path=0000:01:00", "node=pve2,path=0000:01:00")
        with pytest.raises(RefusedError, match='wants 2 cards of mapping "rtx3090", which names 1 on pve1'):
            up(provisioning, wished)
        world.cluster.entries[MappingId("rtx3090")] = ("node=pve1,path=0000:01:00", "node=pve1,path=0000:02:00")
        assert up(provisioning, wished).reply


def test_a_newer_build_of_the_same_image_is_no_reason_to_rebuild(
    fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
) -> None:
    newer = {name: replace(image, sha256="f" * 64) for name, image in fleet.images.items()}
    assert not Provisioning(replace(fleet, images=newer), settled).plan(node).has_changes


def test_the_notes_say_what_the_vm_is_and_where(fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
    notes = settled.cluster.vms[node.vmid].notes
    assert notes.splitlines()[0] == (
        "Managed by provisioner: node llm-gpu-01, made from ubuntu-24.04, serving gemma-2-2b-it.gguf at "
        "http://10.10.90.1:8080/v1. The next lines are read back."
    )
    small = fleet.modes[ModeName("small")]
    other = replace(
        fleet,
        modes={small.name: ModeSpec(small.name, small.engine, "other.gguf")},
        models={**fleet.models, "other.gguf": fleet.models[small.model]},
    )
    assert "change" in up(Provisioning(other, settled), node).changed
    assert "serving other.gguf at" in settled.cluster.vms[node.vmid].notes


def test_a_person_who_writes_notes_during_the_first_boot_loses_nothing(
    fleet: FleetSpec, node: NodeSpec, world: FakeWorld
) -> None:
    provisioning = Provisioning(fleet, world)

    def write(event: Event) -> None:
        if event.step == "guest" and event.phase is Phase.STARTED:
            world.cluster.vms[node.vmid].notes += "\nAsk Ada before touching.\n"

    provisioning.up(node, write)
    notes = world.cluster.vms[node.vmid].notes
    assert "Ask Ada before touching." in notes
    assert read_notes(notes).seed_is_sealed


class TestOutdatedPlans:
    """What was shown is done, or nothing."""

    def test_a_vm_changed_since_is_refused_with_both(
        self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
    ) -> None:
        provisioning, wished = wishing(fleet, node, settled, cores=8)
        plan = provisioning.plan(wished)
        settled.cluster.vms[node.vmid].traits[Trait.NUMA] = "yes"
        with pytest.raises(RefusedError) as caught:
            provisioning.apply(plan, ignore)
        assert "numa no → yes" in caught.value.summary
        assert plan.digest in caught.value.summary
        assert settled.cluster.vms[node.vmid].digest in caught.value.summary
        assert settled.cluster.acts == []

    def test_a_vm_changed_in_the_last_moment_is_refused_by_its_digest(
        self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
    ) -> None:
        provisioning, wished = wishing(fleet, node, settled, cores=8)

        def meddle(event: Event) -> None:
            if event.step == "change":
                settled.cluster.vms[node.vmid].traits[Trait.NUMA] = "yes"

        with pytest.raises(ConfigChangedError, match="numa no → yes"):
            provisioning.up(wished, meddle)
        assert settled.cluster.acts == []

    def test_power_alone_outdates_nothing_that_was_shown(
        self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld
    ) -> None:
        provisioning = Provisioning(fleet, settled)
        settled.cluster.shut_down_vm(PVE1, node.vmid, seconds=60)
        plan = provisioning.plan(node)
        settled.cluster.start_vm(PVE1, node.vmid)
        assert provisioning.apply(plan, ignore).changed == ()

    def test_a_start_that_was_not_shown_is_not_made(self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
        provisioning = Provisioning(fleet, settled)
        plan = provisioning.plan(node)
        settled.cluster.stop_vm(PVE1, node.vmid)
        with pytest.raises(RefusedError, match="now to be done: start"):
            provisioning.apply(plan, ignore)

    def test_a_refusal_speaks_for_itself(self, fleet: FleetSpec, node: NodeSpec, settled: FakeWorld) -> None:
        provisioning = Provisioning(fleet, settled)
        shown = provisioning.plan(node)
        vm = settled.cluster.vms[node.vmid]
        vm.seen = replace(vm.seen, lock="backup", power=Power.STOPPED)
        assert what_outdates(shown, provisioning.plan(node)) is None
        with pytest.raises(RefusedError, match="locked"):
            provisioning.apply(shown, ignore)
