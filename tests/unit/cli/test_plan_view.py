"""A plan on a terminal: colours where somebody sees them, the same words where nobody does."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from provisioner.cli.app import root
from provisioner.cli.plan_view import plan_lines
from provisioner.domain.actions import (
    ChangeVm,
    Plan,
    ProveEngine,
    Refusal,
    RestartVm,
    StartVm,
    Step,
    StepKind,
    VmChange,
)
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import Vmid
from provisioner.domain.vm_traits import Drift, Trait
from provisioner.planning.vm_shape import vm_shape
from tests.fleets import FLEET

PROVE = Step("prove", StepKind.ENSURE, ProveEngine(1), "it answers")
CORES, NAME = Drift(Trait.CORES, "8", "12"), Drift(Trait.NAME, "old", "llm-gpu-01")


@pytest.fixture
def change(fleet: FleetSpec, node: NodeSpec) -> Step:
    action = ChangeVm(VmChange(vm_shape(fleet, node), frozenset({Trait.CORES, Trait.NAME})))
    return Step("change", StepKind.CHANGE, action, "two things", (NAME, CORES), frozenset({Trait.CORES}))


def words(plan: Plan) -> list[str]:
    return [click.unstyle(line) for line in plan_lines(plan)]


def test_each_drift_has_a_line_with_both_values(node: NodeSpec, change: Step) -> None:
    restart = Step("restart", StepKind.CHANGE, RestartVm(Vmid(5001)), "it runs", (CORES,), frozenset({Trait.CORES}))
    assert words(Plan(node, (change, restart, PROVE))) == [
        'node "llm-gpu-01" (vm 5001 on pve1)',
        "  ~ change",
        "      name: old → llm-gpu-01",
        "      cores: 8 → 12 (at the next cold start)",
        "  ! restart: it runs",
        "      cores: 8 → 12 (at the next cold start)",
        "  = prove: it answers",
    ]


def test_nothing_to_change_is_said_so(node: NodeSpec) -> None:
    assert words(Plan(node, (PROVE,), remark="adopted")) == [
        'node "llm-gpu-01" (vm 5001 on pve1): adopted',
        "  nothing to change",
        "  = prove: it answers",
    ]


def test_a_refusal_says_why_and_what_next(node: NodeSpec) -> None:
    assert words(Plan(node, (), Refusal("disks only grow", "write disk: 200GiB")))[1:] == [
        "  refused: disks only grow",
        "  next: write disk: 200GiB",
    ]


def test_what_is_done_what_is_changed_and_what_restarts_differ_in_colour(node: NodeSpec, change: Step) -> None:
    start = Step("start", StepKind.CHANGE, StartVm(Vmid(5001)), "it is off")
    restart = Step("restart", StepKind.CHANGE, RestartVm(Vmid(5001)), "it runs", (CORES,))
    lines = list(plan_lines(Plan(node, (change, start, restart, PROVE), None)))
    heads = [line.split("m", 1)[0] for line in lines if click.unstyle(line)[:4] in ("  ~ ", "  + ", "  ! ", "  = ")]
    assert len(set(heads)) == len(heads) == 4


def test_a_fleet_without_a_node_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(FLEET[: FLEET.index("nodes:\n")])
    result = CliRunner().invoke(root, ["--fleet", str(path), "plan"])
    assert (result.exit_code, result.output) == (0, f"the fleet has no node yet; next: add one under nodes in {path}\n")
