"""What it takes to get into a mode, and whose VM may have a GPU: by values alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.conventions import TAG
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import GpuRelease
from provisioner.domain.names import HypervisorName, MappingId, ModeName, Vmid
from provisioner.domain.snapshot import MappingSeen, Power, VmConfig, VmSeen
from provisioner.domain.vm_traits import PassedDevice
from provisioner.engines.registry import ENGINES
from provisioner.errors import InputError
from provisioner.planning.mode_switch import (
    SwitchKind,
    may_hold_gpus,
    release_refusal,
    require_mode,
    switch_decision,
    take_back_refusal,
)
from tests.unit.planning.test_engine_steps import fleet_with

RELEASE = GpuRelease(ModeName("gaming"), Vmid(200))
WINDOWS = VmSeen(Vmid(200), "windows", HypervisorName("pve1"), Power.STOPPED)


@pytest.fixture
def modes(tmp_path: Path) -> tuple[FleetSpec, NodeSpec]:
    fleet, node = fleet_with(tmp_path, "ml", "chat", "talk")
    return replace(fleet, releases={RELEASE.name: RELEASE}), replace(node, modes=(*node.modes, RELEASE.name))


@pytest.mark.parametrize(
    ("now", "target", "power", "waits", "kind"),
    [
        ("ml", "ml", Power.RUNNING, False, SwitchKind.PROOF),
        ("ml", "ml", Power.RUNNING, True, SwitchKind.UNITS),
        ("ml", "chat", Power.RUNNING, False, SwitchKind.UNITS),
        ("chat", "talk", Power.RUNNING, False, SwitchKind.MODELS),
        ("chat", "talk", Power.RUNNING, True, SwitchKind.UNITS),
        ("ml", "chat", Power.STOPPED, False, SwitchKind.NOTE),
        ("ml", "gaming", Power.RUNNING, False, SwitchKind.RELEASE),
        ("ml", "gaming", Power.STOPPED, False, SwitchKind.RELEASE),
        ("gaming", "ml", Power.STOPPED, True, SwitchKind.TAKE_BACK),
    ],
)
def test_how_a_node_gets_into_a_mode(
    modes: tuple[FleetSpec, NodeSpec], now: str, target: str, power: Power, waits: bool, kind: SwitchKind
) -> None:
    fleet, node = modes
    node = fleet.in_mode(node, ModeName(now))
    assert switch_decision(fleet, node, ENGINES, ModeName(target), power, waits=waits).kind is kind


def test_a_mode_that_is_defined_but_not_the_nodes_says_how_to_make_it_so(modes: tuple[FleetSpec, NodeSpec]) -> None:
    fleet, node = modes
    with pytest.raises(InputError, match="not one of its modes") as caught:
        require_mode(fleet, node, "tgi")
    assert "write tgi among the modes of llm-gpu-01" in caught.value.next_step


@pytest.mark.parametrize(
    ("device", "may"),
    [
        (PassedDevice(0, MappingId("rtx3090")), True),
        (PassedDevice(0, MappingId("v100")), False),
        (PassedDevice(0, None, "0000:01:00"), True),
        (PassedDevice(0, None, "01:00.1"), True),
        (PassedDevice(0, None, "0000:02:00.0"), False),
    ],
)
def test_a_vm_may_hold_a_card_by_its_mapping_or_by_its_address(
    modes: tuple[FleetSpec, NodeSpec], device: PassedDevice, may: bool
) -> None:
    fleet, node = modes
    entries = ("node=pve1,path=0000:01:00.0,id=10de:2204", "node=pve2,path=0000:02:00.0,id=10de:2204")
    mappings = {MappingId("rtx3090"): MappingSeen(MappingId("rtx3090"), (), entries)}
    assert may_hold_gpus(fleet, node, VmConfig("", None, devices=(device,)), mappings) is may


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (None, "there is no VM 200"),
        (replace(WINDOWS, is_container=True), "200 is a container"),
        (replace(WINDOWS, hypervisor=HypervisorName("pve2")), "is on pve2, and the GPUs are on pve1"),
        (replace(WINDOWS, lock="backup"), "locked (backup)"),
        (WINDOWS, None),
    ],
)
def test_which_vm_cannot_be_given_a_gpu(node: NodeSpec, other: VmSeen | None, words: str | None) -> None:
    found = release_refusal(node, RELEASE, other)
    assert (found.reason if found else None) == words if words is None else words in (found.reason if found else "")


@pytest.mark.parametrize(
    ("release", "other", "may"),
    [
        (RELEASE, WINDOWS, False),
        (replace(RELEASE, may_shut_down=True), WINDOWS, True),
        (RELEASE, replace(WINDOWS, tags=frozenset({TAG})), True),
    ],
)
def test_who_may_be_shut_down_for_it(node: NodeSpec, release: GpuRelease, other: VmSeen, may: bool) -> None:
    assert (take_back_refusal(node, release, other) is None) is may
