"""What a service that begins does about nodes that are on their way down."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.serving import Phase
from provisioner.domain.snapshot import Power
from provisioner.services.resuming import Resuming
from tests.fakes.hypervisors import refusal
from tests.unit.services.test_keeper import ONE, Site


class Scene(Site):
    """A node that is being shut down when the service begins."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.vmid = self.fleet.nodes[ONE].vmid
        self.world.cluster.being_shut_down.add(self.vmid)
        self.meanwhile: list[tuple[Phase, bool]] = []
        self.keeper.look()

    def begin(self) -> tuple[str, ...]:
        """Begin, and wait until the node has been seen off."""
        before = set(threading.enumerate())
        found = Resuming(self.fleet, self.world, self.keeper).begin()
        for each in set(threading.enumerate()) - before:
            each.join(10)
        return found

    def after(self, seconds: float, *, is_off: bool) -> None:
        """Let the shutdown end after so long."""

        def end() -> None:
            self.meanwhile.append((self.phase(), self.world.in_flight.of(ONE).is_open))
            self.world.cluster.being_shut_down.clear()
            if is_off:
                vm = self.world.cluster.vms[self.vmid]
                vm.seen = replace(vm.seen, power=Power.STOPPED)

        self.world.clock.at(seconds, end)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_node_on_its_way_down_takes_no_requests_until_it_is_off(scene: Scene) -> None:
    scene.after(8.0, is_off=True)
    assert scene.begin() == (ONE,)
    assert scene.meanwhile == [(Phase.DRAINING, False)]
    assert scene.phase() is Phase.ASLEEP
    assert scene.world.in_flight.of(ONE).is_open


def test_one_whose_guest_does_not_obey_serves_on(scene: Scene) -> None:
    scene.after(8.0, is_off=False)
    assert scene.begin() == (ONE,)
    assert scene.meanwhile == [(Phase.DRAINING, False)]
    assert scene.phase() is Phase.READY
    assert scene.world.in_flight.of(ONE).is_open


def test_it_is_seen_off_though_its_cluster_is_away_for_a_moment(scene: Scene) -> None:
    scene.after(8.0, is_off=True)
    scene.world.clock.at(1.0, lambda: scene.world.cluster.fails.update(going_down=refusal("away")))
    assert scene.begin() == (ONE,)
    assert scene.phase() is Phase.ASLEEP


def test_a_cluster_that_cannot_be_asked_keeps_nobody_from_serving(scene: Scene) -> None:
    scene.world.cluster.fails["going_down"] = refusal("away")
    assert scene.begin() == ()
    assert scene.phase() is Phase.READY
    assert scene.world.in_flight.of(ONE).is_open


def test_where_no_node_runs_nobody_is_asked(scene: Scene) -> None:
    vm = scene.world.cluster.vms[scene.vmid]
    vm.seen = replace(vm.seen, power=Power.STOPPED)
    scene.keeper.look()
    calls = scene.world.cluster.calls
    assert scene.begin() == ()
    assert scene.world.cluster.calls == calls
