"""Modes that several nodes serve together: what the fleet file may say of them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from provisioner.domain.actions import RunPlaybook, StepKind
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.mode import ModeSpec
from provisioner.domain.names import ModeName, NodeName
from provisioner.engines.registry import ENGINES
from provisioner.errors import InputError
from provisioner.planning.engine_steps import engine_steps
from provisioner.planning.fit.refusal import fit_refusal
from provisioner.planning.guest_software import base_variables
from provisioner.planning.mode_judgement import mode_refusal
from tests.fleets import FLEET, SUM, fleet_from

GPUS = """\
      rtx3090: {mapping: rtx3090, vram: 24GiB}
      second: {mapping: second, vram: 24GiB}
      small: {mapping: small, vram: 12GiB}
"""
BASE = (
    FLEET.replace("      rtx3090: {mapping: rtx3090, vram: 24GiB}\n", GPUS)
    .replace(
        "engines:\n",
        "engines:\n  vllm: {version: 0.33.0}\n"
        f"  exo: {{version: 1.0.71, source: exo.tar.gz, sha256: {SUM}}}\n"
        f"  ollama: {{source: ollama.tar.zst, sha256: {SUM}}}\n",
    )
    .replace(
        "modes:\n",
        "modes:\n  big: {engine: vllm, model: some/big, nodes: [llm-gpu-01, llm-gpu-02]}\n",
    )
    .replace("gpus: [rtx3090], modes: [small], gateway: 10.10.0.1}", "gpus: [rtx3090], modes: [big, small]}")
    .replace("gpus: [rtx3090], modes: [small]}", "gpus: [second], modes: [big, small]}")
)


def changed(*replacements: tuple[str, str]) -> str:
    text = BASE
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def big(fleet: FleetSpec) -> ModeSpec:
    return fleet.modes[ModeName("big")]


def test_the_first_is_the_head_and_answers_for_all(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, BASE)
    head, other = (fleet.nodes[NodeName(name)] for name in ("llm-gpu-01", "llm-gpu-02"))
    assert fleet.answering(other).name == head.name
    assert [node.name for node in fleet.others_beside(head)] == ["llm-gpu-02"]
    assert [node.name for node in fleet.nodes_serving("some/big")] == ["llm-gpu-01"]
    assert [node.name for node in fleet.heads(big(fleet))] == ["llm-gpu-01"]
    assert fleet.answering(fleet.in_mode(other, ModeName("small"))).name == other.name


def test_each_lets_the_others_in_at_all_ports(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, BASE)
    for name, peer in (("llm-gpu-01", "10.10.90.2"), ("llm-gpu-02", "10.10.90.1")):
        assert base_variables(fleet, fleet.nodes[NodeName(name)], ENGINES)["guest_base_peers"] == [peer]


@pytest.mark.parametrize(
    ("replacements", "said"),
    [
        ([("engine: vllm, model: some/big", "engine: ollama, model: some/big")], "only exo, vllm spread one model"),
        ([("nodes: [llm-gpu-01, llm-gpu-02]", "nodes: [llm-gpu-01, llm-gpu-09]")], 'unknown node "llm-gpu-09"'),
        ([("nodes: [llm-gpu-01, llm-gpu-02]", "nodes: [llm-gpu-01]")], "modes.big.nodes"),
        (
            [("nodes: [llm-gpu-01, llm-gpu-02]", "nodes: [llm-gpu-01, llm-gpu-01]")],
            'node "llm-gpu-01" twice',
        ),
        ([("gpus: [second], modes: [big, small]", "gpus: [second], modes: [small]")], "which does not have this mode"),
        (
            [("gpus: [second], modes: [big, small]}", "gpus: [second], modes: [big], web_ui: {version: 0.12.4}}")],
            "web_ui of llm-gpu-01, whose engine answers",
        ),
        (
            [("gpus: [second], modes: [big, small]}", "gpus: [second], modes: [big, small], adopt: true}")],
            "which is adopted",
        ),
        ([("gpus: [second]", "gpus: [second, small]")], "2 GPUs, and 1 of llm-gpu-01"),
        ([("gpus: [second]", "gpus: [small]")], "GPUs of 12GiB, and llm-gpu-01 has 24GiB"),
        ([("gpus: [second]", "gpus: [rtx3090]")], 'GPU "rtx3090", which llm-gpu-01 has too'),
        (
            [("gpus: [second], modes: [big, small]}", "gpus: [second], modes: [big, small], address: 10.99.0.2/24}")],
            "neither one network nor a gateway for each",
        ),
        (
            [("gpus: [second], modes: [big, small]}", "gpus: [second], modes: [big, small], api_key: env:OTHER}")],
            "another api_key than that of llm-gpu-01",
        ),
        ([("modes:\n", "modes:\n  a: {engine: vllm, model: m/m, ray: true}\n")], "ray beside nodes only"),
        ([("ollama: {source", "ollama: {ray: 2.48.0, source")], "no such key: only vllm uses Ray"),
        (
            [
                ("llm-gpu-02]}", "llm-gpu-02], ray: true}"),
                ("modes:\n", "modes:\n  big-ray: {engine: vllm, model: m/m}\n"),
            ],
            "another name",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_line(
    tmp_path: Path, replacements: list[tuple[str, str]], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        fleet_from(tmp_path, changed(*replacements))
    assert said in str(caught.value)


def test_a_node_beside_those_that_serve_it_together_is_refused(tmp_path: Path) -> None:
    third = "  llm-gpu-03: {hypervisor: pve1, gpus: [small], modes: [big]}\n"
    with pytest.raises(InputError, match="which llm-gpu-01, llm-gpu-02 serve together"):
        fleet_from(tmp_path, BASE + third)


def test_exo_takes_unlike_machines(tmp_path: Path) -> None:
    text = changed(
        ("engine: vllm, model: some/big", "engine: exo, model: some/big"), ("gpus: [second]", "gpus: [small]")
    )
    fleet = fleet_from(tmp_path, text)
    request = ENGINES[big(fleet).engine].load("some/big", nodes=2)
    assert request is not None
    assert request.body == {"model_id": "some/big", "min_nodes": 2}


@pytest.mark.parametrize(
    ("version", "mode", "refused"),
    [
        ("0.11.0", "", "through Ray only"),
        ("0.11.0", ", ray: true", ""),
        ("0.12.0", "", ""),
        ("0.33.0", ", ray: true", "does not bring Ray"),
        ("0.33.0, ray: 2.48.0", ", ray: true", ""),
    ],
)
def test_a_version_that_cannot_is_refused_by_the_plan(tmp_path: Path, version: str, mode: str, refused: str) -> None:
    text = changed(("version: 0.33.0", f"version: {version}"), ("llm-gpu-02]}", f"llm-gpu-02]{mode}}}"))
    fleet = fleet_from(tmp_path, text)
    node = fleet.nodes[NodeName("llm-gpu-01")]
    found = mode_refusal(fleet, node, ENGINES[big(fleet).engine], big(fleet))
    assert (refused in found.reason) if found is not None else not refused


def test_what_fits_is_judged_by_the_cards_of_all_of_them(tmp_path: Path) -> None:
    model = ("model: some/big", "model: Qwen/Qwen2.5-14B-Instruct")
    both = fleet_from(tmp_path, changed(model))
    node = both.nodes[NodeName("llm-gpu-01")]
    assert fit_refusal(both, node, big(both)) is None
    alone = fleet_from(tmp_path, changed(model, (", nodes: [llm-gpu-01, llm-gpu-02]", "")))
    assert fit_refusal(alone, node, big(alone)) is not None


class TestRay:
    """Ray beside vLLM: a unit of its own that comes and goes with the engine's."""

    def launches(self, tmp_path: Path, name: str) -> dict[str, dict[str, object]]:
        text = changed(("version: 0.33.0", "version: 0.33.0, ray: 2.48.0"), ("llm-gpu-02]}", "llm-gpu-02], ray: true}"))
        fleet = fleet_from(tmp_path, text)
        steps = engine_steps(fleet, fleet.nodes[NodeName(name)], ENGINES, StepKind.CHANGE)
        told = [step.action.variables for step in steps if isinstance(step.action, RunPlaybook)]
        launches = [
            each for variables in told for each in cast("list[dict[str, object]]", variables["engine_launches"])
        ]
        return {str(each["unit"]): each for each in launches}

    def test_the_head_runs_it_beside_its_engine(self, tmp_path: Path) -> None:
        launches = self.launches(tmp_path, "llm-gpu-01")
        assert set(launches) == {"big", "big-ray", "small"}
        assert launches["big"]["needs"] == ["big-ray"]
        assert launches["big-ray"]["part_of"] == "big"
        assert launches["big"]["always"]
        assert "always" not in launches["small"]
        assert launches["big"]["environment"]["RAY_ADDRESS"] == "10.10.90.1:29500"  # type: ignore[index]
        assert "--head" in launches["big-ray"]["argv"]  # type: ignore[operator]

    def test_another_mode_stops_both(self, tmp_path: Path) -> None:
        launches = self.launches(tmp_path, "llm-gpu-01")
        assert set(launches["small"]["conflicts"]) == {"big", "big-ray"}  # type: ignore[call-overload]
        assert launches["big"]["conflicts"] == launches["big-ray"]["conflicts"] == ["small"]

    def test_the_others_only_join(self, tmp_path: Path) -> None:
        launches = self.launches(tmp_path, "llm-gpu-02")
        assert set(launches) == {"big", "small"}
        assert "--address=10.10.90.1:29500" in launches["big"]["argv"]  # type: ignore[operator]
