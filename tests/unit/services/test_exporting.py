"""What is exported to be played by hand: all that `up` would play, in its order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.actions import InstallDriver
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.services.events import ignore
from provisioner.services.exporting import node_plays
from provisioner.services.provisioning import Provisioning
from tests.fakes.world import FakeWorld


@pytest.mark.parametrize("toolkit", [None, "13.0"])
def test_base_and_driver_are_exported_before_the_engine(
    fleet: FleetSpec, node: NodeSpec, world: FakeWorld, toolkit: str | None
) -> None:
    node = replace(node, software=replace(node.software, cuda_toolkit=toolkit))
    provisioning = Provisioning(fleet, world)
    provisioning.up(node, ignore)
    plays = dict(node_plays(provisioning.plan(node)).plays)
    cuda = ["install-cuda-toolkit"] if toolkit else []
    assert list(plays) == ["configure-guest-base", "install-nvidia-driver", *cuda, "deploy-llama-cpp"]
    assert plays["configure-guest-base"]["guest_base_ports"] == [8080]
    assert plays["install-nvidia-driver"]["nvidia_driver_packages"] == "580-server"


def test_a_driver_that_only_the_guest_could_tell_is_left_out(
    fleet: FleetSpec, node: NodeSpec, world: FakeWorld
) -> None:
    provisioning = Provisioning(fleet, world)
    provisioning.up(node, ignore)
    plan = provisioning.plan(node)
    steps = tuple(
        replace(step, action=replace(step.action, ids=())) if isinstance(step.action, InstallDriver) else step
        for step in plan.steps
    )
    plays = dict(node_plays(replace(plan, steps=steps)).plays)
    assert list(plays) == ["configure-guest-base", "deploy-llama-cpp"]
