"""`up` and a guest's base and driver: laid down once, passed over while nothing has changed, proved at the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.errors import GuestError, RefusedError
from provisioner.services.events import Event, Phase
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


class TestRenewing:
    """Kernel and driver are held, and upgraded on purpose."""

    def test_it_is_told_by_the_plan_and_handed_to_the_playbook(
        self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld
    ) -> None:
        up(provisioning, node)
        world.guests.played.clear()
        plan = provisioning.plan(node, renew_driver=True)
        assert plan.has_changes
        assert "kernel and driver are upgraded together, held again" in str(plan)
        report = provisioning.apply(plan, lambda event: None)
        assert "driver" in report.changed
        assert "install-nvidia-driver" in world.guests.played
        assert not provisioning.plan(node).renews_driver

    def test_a_busy_node_is_left_alone(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
        up(provisioning, node)
        world.guests.played.clear()
        world.guests.running = 1
        with pytest.raises(RefusedError, match="cannot work on its kernel and driver: 1 requests running"):
            provisioning.up(node, lambda event: None, renew_driver=True)
        assert "install-nvidia-driver" not in world.guests.played

    def test_no_request_gets_in_meanwhile(self, provisioning: Provisioning, node: NodeSpec, world: FakeWorld) -> None:
        up(provisioning, node)
        entered: list[bool] = []

        def tell(event: Event) -> None:
            if (event.step, event.phase) == ("driver", Phase.PROGRESS):
                entered.append(world.in_flight.enter(node.name, 0.0))

        provisioning.up(node, tell, renew_driver=True)
        assert entered
        assert not any(entered)
        assert world.in_flight.of(node.name).is_open

    def test_a_node_without_a_driver_of_nvidias_is_told_so(self, provisioning: Provisioning, node: NodeSpec) -> None:
        refusal = provisioning.plan(replace(node, gpus=()), renew_driver=True).refusal
        assert refusal is not None
        assert "no driver of NVIDIA's on it to renew" in refusal.reason
