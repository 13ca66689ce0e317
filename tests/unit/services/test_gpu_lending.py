"""A node's GPUs at another VM, and a person who wants them to stay there."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.names import HypervisorName, MappingId, ModeName, NodeName, Vmid
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import RefusedError
from provisioner.services.arbitration import Arbitration
from provisioner.services.events import Event, OnEvent, Phase, ignore
from provisioner.services.gpu_lending import GpuLending
from provisioner.services.mode_switching import ModeSwitching
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from tests.fakes.hypervisors import FakeVm
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

PVE1 = HypervisorName("pve1")
WINDOWS = Vmid(200)
TEXT = FLEET.replace("modes:\n", "modes:\n  gaming: {release_gpu_to: 200, may_shut_down: true}\n").replace(
    "llm-gpu-01: {hypervisor: pve1, gpus: [rtx3090], modes: [small]",
    "llm-gpu-01: {hypervisor: pve1, gpus: [rtx3090], modes: [small, gaming]",
)


class Lent:
    """A node whose card Windows has."""

    def __init__(self, folder: Path) -> None:
        fleet = fleet_from(folder, TEXT)
        self.world = FakeWorld()
        self.node = fleet.nodes[NodeName("llm-gpu-01")]
        Provisioning(fleet, self.world).up(self.node, ignore)
        seen = VmSeen(WINDOWS, "windows", PVE1, Power.STOPPED)
        cards = (MappingId("rtx3090"),)
        traits = dict(self.world.cluster.vms[self.node.vmid].traits)
        self.world.cluster.vms[WINDOWS] = FakeVm(seen, "", GIB, cards, None, traits=traits)
        self.arbitration = Arbitration(fleet, self.world)
        ModeSwitching(fleet, self.world).switch(self.node, "gaming", ignore)
        self.given = fleet.in_mode(self.node, ModeName("gaming"))
        self.lending = GpuLending(fleet, self.world, Sleeping(fleet, self.world))
        self.world.cluster.acts.clear()

    def take_back(self, on_event: OnEvent = ignore, *, force: bool = False) -> None:
        self.lending.take_back(self.given, on_event, force=force)

    def hold(self) -> None:
        self.arbitration.hold(self.node, by="anna", seconds=7200, why="a match")


@pytest.fixture
def lent(tmp_path: Path) -> Lent:
    return Lent(tmp_path)


def test_the_card_is_taken_back(lent: Lent) -> None:
    lent.take_back()
    assert lent.world.cluster.acts == ["shut down 200"]


def test_a_held_node_leaves_its_card_where_it_is(lent: Lent) -> None:
    lent.hold()
    with pytest.raises(RefusedError, match=r"cannot switch the mode: it is held by anna .*\(a match\)") as caught:
        lent.take_back()
    assert "provisioner release llm-gpu-01 --by anna" in caught.value.next_step
    assert lent.world.cluster.acts == []
    lent.take_back(force=True)
    assert lent.world.cluster.acts == ["shut down 200"]


def test_a_hold_comes_in_time_until_the_other_vm_is_told_to_go(lent: Lent) -> None:
    def hold(event: Event) -> None:
        if event.step == "shut down VM 200" and event.phase is Phase.STARTED:
            lent.hold()

    with pytest.raises(RefusedError, match="held by anna"):
        lent.take_back(hold)
    assert lent.world.cluster.acts == []
