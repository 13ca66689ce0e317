"""`up` and a guest's base and driver: laid down once, passed over while nothing has changed, proved at the end."""

from __future__ import annotations

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.errors import GuestError
from provisioner.services.provisioning import Provisioning, UpReport
from tests.fakes.world import FakeWorld


@pytest.fixture
def provisioning(fleet: FleetSpec, world: FakeWorld) -> Provisioning:
    return Provisioning(fleet, world)


def up(provisioning: Provisioning, node: NodeSpec) -> UpReport:
    return provisioning.apply(provisioning.plan(node), lambda event: None)


def test_base_and_driver_are_laid_down_before_the_engine(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    world.guests.gpu_faults.add("gpu_driver_missing")
    assert {"base", "driver"} <= set(up(provisioning, node).changed)
    assert world.guests.played[:2] == ["configure-guest-base", "install-nvidia-driver"]
    assert world.guests.played[2].startswith("deploy-")


def test_a_guest_that_is_as_it_was_left_costs_no_play(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    up(provisioning, node)
    world.guests.played.clear()
    up(provisioning, node)
    assert [each for each in world.guests.played if not each.startswith("deploy-")] == []


def test_a_base_that_somebody_changed_is_laid_down_again(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld
) -> None:
    up(provisioning, node)
    world.guests.disks[node.vmid].recipes.clear()
    assert up(provisioning, node).changed == ("base",)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gpu_lost", "GPU is lost"),
        ("gpu_missing", "sees 0 of 1 GPUs"),
        ("gpu_driver_mismatch", "the programs' library is 580.95.05"),
    ],
)
def test_a_card_that_does_not_work_ends_up_with_its_diagnosis(
    provisioning: Provisioning, node: NodeSpec, world: FakeWorld, fault: str, words: str
) -> None:
    world.guests.gpu_faults.add(fault)
    with pytest.raises(GuestError) as caught:
        up(provisioning, node)
    assert words in caught.value.summary
    assert caught.value.next_step


def test_a_plan_names_the_driver(provisioning: Provisioning, node: NodeSpec) -> None:
    assert "driver: 580-server-open for its cards" in str(provisioning.plan(node))
