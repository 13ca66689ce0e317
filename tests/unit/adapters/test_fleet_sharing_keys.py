"""The fleet file's words on sharing a GPU: priority, min_residence, gpu_wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.adapters.files.fleet_schema import json_schema
from provisioner.domain.names import ModeName, NodeName
from provisioner.errors import InputError
from tests.fleets import FLEET, fleet_from

FIRST = "llm-gpu-01: {hypervisor: pve1, gpus: [rtx3090], "


def with_words(words: str) -> str:
    return FLEET.replace(FIRST, f"{FIRST}{words}, ")


def test_a_node_says_its_own_and_the_rest_comes_from_the_defaults(tmp_path: Path) -> None:
    text = with_words("priority: 7, gpu_wait: 90s").replace("defaults:\n", "defaults:\n  min_residence: 1m\n")
    one, two = fleet_from(tmp_path, text).nodes.values()
    assert (one.priority, one.min_residence_seconds, one.gpu_wait_seconds) == (7, 60.0, 90.0)
    assert (two.priority, two.min_residence_seconds, two.gpu_wait_seconds) == (0, 60.0, 900.0)


def test_a_mode_says_another_priority_while_the_node_is_in_it(tmp_path: Path) -> None:
    modes = "  gaming: {release_gpu_to: 200, priority: 50}\n  calm: {engine: llama.cpp, model: gemma-2-2b-it.gguf}\n"
    text = with_words("priority: 7").replace("nodes:\n", f"{modes}nodes:\n", 1)
    fleet = fleet_from(tmp_path, text.replace("modes: [small], gateway", "modes: [calm, small, gaming], gateway"))
    node = fleet.nodes[NodeName("llm-gpu-01")]
    found = {mode: fleet.priority_of(fleet.in_mode(node, ModeName(mode))) for mode in ("calm", "small", "gaming")}
    assert found == {"calm": 7, "small": 7, "gaming": 50}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("priority: 101", "100"),
        ("priority: high", "integer"),
        ("priority: 1.5", "integer"),
        ("min_residence: 5", "unit"),
        ("gpu_wait: -1m", "unit"),
        ("gpu_waits: 1m", "gpu_waits"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, words: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        fleet_from(tmp_path, with_words(words))
    assert said in str(caught.value)


def test_on_a_node_without_gpus_they_mean_nothing_and_are_refused(tmp_path: Path) -> None:
    text = FLEET + "  llm-cpu-01: {hypervisor: pve1, modes: [small], priority: 3}\n"
    with pytest.raises(InputError, match="priority for a node with gpus only"):
        fleet_from(tmp_path, text)


def test_editors_know_them() -> None:
    shapes = json_schema()["$defs"]
    for key in ("priority", "min_residence", "gpu_wait"):
        assert key in shapes["NodeShape"]["properties"]
        assert key in shapes["DefaultsShape"]["properties"]
    assert "priority" in shapes["ModeShape"]["properties"]
