"""Nodes whose cloud-init drive Proxmox makes, against fakes that keep state: the guest makes its own host key."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from provisioner.domain.actions import Plan
from provisioner.domain.cloud_init import CloudInit
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName
from provisioner.domain.notes import read_notes, write_notes
from provisioner.domain.snapshot import Power
from provisioner.domain.vm_traits import Trait
from provisioner.errors import HostKeyError, NotReadyError, PermissionMissingError, RefusedError
from provisioner.planning.vm_shape import vm_shape
from provisioner.services.events import Event, Phase
from provisioner.services.provisioning import Provisioning, UpReport
from tests.fakes.hypervisors import FakeVm
from tests.fakes.world import FakeWorld
from tests.fleets import NATIVE, fleet_from

STEPS = (
    "image",
    "create",
    "grow disk",
    "start",
    "host key",
    "guest",
    "seal seed",
    "base",
    "driver",
    "configure",
    "prove",
)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetSpec:
    return fleet_from(tmp_path, NATIVE)


@pytest.fixture
def node(fleet: FleetSpec) -> NodeSpec:
    return fleet.nodes[NodeName("llm-gpu-01")]


@pytest.fixture
def provisioning(fleet: FleetSpec, world: FakeWorld) -> Provisioning:
    return Provisioning(fleet, world)


def up(provisioning: Provisioning, node: NodeSpec) -> UpReport:
    return provisioning.apply(provisioning.plan(node), lambda event: None)


def text(plan: Plan, name: str) -> str:
    return next(str(step) for step in plan.steps if step.name == name)


def names(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps]


def vm_of(world: FakeWorld, node: NodeSpec) -> FakeVm:
    return world.cluster.vms[node.vmid]


def other_address(world: FakeWorld, node: NodeSpec) -> None:
    """Have somebody write another address into the VM's options, where nothing shows whether it was started so."""
    vm = vm_of(world, node)
    vm.traits[Trait.CLOUD_INIT_ADDRESS] = vm.started_with[0][Trait.CLOUD_INIT_ADDRESS] = "10.10.90.9/16"


def test_up_reads_the_key_before_the_first_login(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    plan = provisioning.plan(node)
    assert names(plan) == list(STEPS)
    assert "nothing to seal" in text(plan, "seal seed")
    assert "read through the guest agent before the first login" in text(plan, "host key")
    assert up(provisioning, node).changed == tuple(step for step in STEPS[:-1] if step != "driver")
    notes = read_notes(vm_of(world, node).notes)
    assert (notes.host_key, notes.seed_is_sealed) == ("ssh-ed25519 BBBB1", True)
    assert not [act for act in world.cluster.acts if act.startswith("upload")]


def test_a_second_up_changes_nothing(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    up(provisioning, node)
    acts = list(world.cluster.acts)
    assert not provisioning.plan(node).has_changes
    assert up(provisioning, node).changed == ()
    assert world.cluster.acts == acts


def test_cloud_init_stays_on_in_such_a_guest(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    up(provisioning, node)
    assert world.guests.disks[node.vmid].files == set()


class Killed(BaseException):
    """Stands for kill -9."""


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
    assert up(provisioning, node).reply == "hello"
    assert world.cluster.acts.count("create 5001") == 1
    assert world.cluster.acts.count("shut down 5001") == 0
    assert up(provisioning, node).changed == ()


def test_without_an_agent_nobody_logs_in(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    world.guests.has_agent = False
    with pytest.raises(NotReadyError, match="would trust whoever answers") as caught:
        up(provisioning, node)
    assert "write cloud_init: seed" in caught.value.next_step
    assert "destroy llm-gpu-01" in caught.value.next_step
    assert read_notes(vm_of(world, node).notes).host_key is None
    world.guests.has_agent = True
    assert up(provisioning, node).changed[0] == "host key"


def test_a_token_that_may_not_read_says_so_at_once(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    words = "cannot read: VM.GuestAgent.FileRead is missing"
    world.cluster.fails["read_guest_file"] = PermissionMissingError(words, subject="fake", next_step="grant it")
    with pytest.raises(PermissionMissingError, match="FileRead"):
        up(provisioning, node)
    assert world.clock.monotonic() < node.patience.boot_seconds


def test_a_guest_that_dies_meanwhile_ends_the_wait(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    world.guests.has_agent = False

    def dies(event: Event) -> None:
        if event.step == "host key":
            vm = vm_of(world, node)
            vm.seen = replace(vm.seen, power=Power.STOPPED)

    with pytest.raises(NotReadyError, match="went off"):
        provisioning.apply(provisioning.plan(node), dies)


@pytest.mark.parametrize("runs", [True, False])
def test_a_changed_address_is_a_new_first_boot_with_new_keys(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld, runs: bool
) -> None:
    up(provisioning, node)
    if not runs:
        world.cluster._off(node.vmid)
    other_address(world, node)
    plan = provisioning.plan(node)
    assert "cloud-init address 10.10.90.9/16 → 10.10.90.1/16 via 10.10.0.1" in text(plan, "change")
    assert "NEW SSH host keys" in text(plan, "change")
    assert names(plan)[:3] == ["change", "restart" if runs else "start", "host key"]
    assert up(provisioning, node).changed[:3] == tuple(names(plan)[:3])
    assert not provisioning.plan(node).has_changes


def test_an_address_that_only_waits_is_put_back_without_a_restart(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    up(provisioning, node)
    vm_of(world, node).traits[Trait.CLOUD_INIT_ADDRESS] = "10.10.90.9/16"
    plan = provisioning.plan(node)
    assert "NEW SSH host keys" not in str(plan)
    assert up(provisioning, node).changed == ("change",)
    assert not provisioning.plan(node).has_changes


def test_what_the_fleet_file_changes_reaches_the_guest(fleet: FleetSpec, world: FakeWorld, node: NodeSpec) -> None:
    up(Provisioning(fleet, world), node)
    before = world.guests.disks[node.vmid].host_key
    wished = replace(node, nameservers=(IPv4Address("10.10.0.2"),))
    changed = Provisioning(replace(fleet, nodes={**fleet.nodes, node.name: wished}), world)
    assert up(changed, wished).changed[:3] == ("change", "restart", "host key")
    after = world.guests.disks[node.vmid].host_key
    assert after != before
    assert read_notes(vm_of(world, node).notes).host_key == after
    assert not changed.plan(wished).has_changes


@pytest.mark.parametrize("phase", [Phase.STARTED, Phase.DONE])
@pytest.mark.parametrize("step", ["change", "restart", "host key", "guest", "seal seed", "base", "configure"])
def test_a_new_first_boot_killed_anywhere_is_continued(
    fleet: FleetSpec, world: FakeWorld, node: NodeSpec, step: str, phase: Phase
) -> None:
    up(Provisioning(fleet, world), node)
    wished = replace(node, nameservers=(IPv4Address("10.10.0.2"),))
    changed = Provisioning(replace(fleet, nodes={**fleet.nodes, node.name: wished}), world)

    def kill(event: Event) -> None:
        if event.step == step and event.phase is phase:
            raise Killed

    with pytest.raises(Killed):
        changed.apply(changed.plan(wished), kill)
    assert up(changed, wished).reply == "hello"
    assert world.cluster.acts.count("shut down 5001") == 1
    assert read_notes(vm_of(world, node).notes).host_key == world.guests.disks[node.vmid].host_key
    assert not changed.plan(wished).has_changes


def test_a_busy_node_keeps_its_first_boot(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    up(provisioning, node)
    other_address(world, node)
    world.guests.running = 1
    with pytest.raises(RefusedError, match="1 requests running"):
        up(provisioning, node)
    assert read_notes(vm_of(world, node).notes).boots_anew
    assert world.cluster.acts.count("start 5001") == 1
    world.guests.running = 0
    assert names(provisioning.plan(node))[:2] == ["restart", "host key"]
    assert up(provisioning, node).changed[:2] == ("restart", "host key")


def test_a_key_that_changed_by_itself_is_not_believed(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    up(provisioning, node)
    world.guests.disks[node.vmid].host_key = "ssh-ed25519 CCCC"
    with pytest.raises(HostKeyError):
        up(provisioning, node)
    vm = vm_of(world, node)
    # A person who knows why takes the line out; then it is read anew.
    vm.notes = write_notes(vm.notes, node.name, replace(read_notes(vm.notes), host_key=None))
    assert up(provisioning, node).changed[0] == "host key"
    assert read_notes(vm.notes).host_key == "ssh-ed25519 CCCC"


def test_the_way_of_a_vm_that_exists_is_not_changed(fleet: FleetSpec, world: FakeWorld, node: NodeSpec) -> None:
    seeded = replace(node, cloud_init=CloudInit.SEED)
    as_seeded = Provisioning(replace(fleet, nodes={**fleet.nodes, node.name: seeded}), world)
    up(as_seeded, seeded)
    refusal = Provisioning(fleet, world).plan(node).refusal
    assert refusal is not None
    assert "made with a seed ISO" in refusal.reason
    as_seeded.destroy(seeded, lambda event: None)
    world.guests.disks.clear()
    up(Provisioning(fleet, world), node)
    refusal = as_seeded.plan(seeded).refusal
    assert refusal is not None
    assert "Proxmox's own cloud-init drive" in refusal.reason


def test_another_bridge_is_no_new_first_boot(provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
    up(provisioning, node)
    vm = vm_of(world, node)
    vm.traits[Trait.NETWORK] = vm.traits[Trait.NETWORK].replace("vmbr0", "vmbr9")
    assert "host key" not in names(provisioning.plan(node))
    # A card is plugged anew at once.
    vm.traits[Trait.NETWORK] = vm.traits[Trait.NETWORK].replace("BC:24", "BC:25")
    vm.started_with[0][Trait.NETWORK] = vm.traits[Trait.NETWORK]
    assert "host key" in names(provisioning.plan(node))


def test_an_address_in_the_fleet_file_is_what_the_drive_says(fleet: FleetSpec, node: NodeSpec) -> None:
    moved = replace(node, address=IPv4Interface("10.10.90.7/16"))
    drive = vm_shape(fleet, moved).cloud_init
    assert drive is not None
    assert str(drive.address) == "10.10.90.7/16"
