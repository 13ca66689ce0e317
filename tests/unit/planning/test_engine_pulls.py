"""What is fetched by name for a mode: all that its engine will ask for when it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ModeSpec
from provisioner.domain.names import EngineName, ModeName, NodeName
from provisioner.engines.registry import ENGINES
from provisioner.planning.launches import engine_variables, fetching_variables, setting_of, units_of
from provisioner.planning.model_budget import hot_models
from tests.fleets import FLEET, fleet_from

IMAGE = "ghcr.io/huggingface/text-generation-inference@sha256:" + "a" * 64
WORDS = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"


def fleet_with(folder: Path, mode: str, engine: str = "vllm") -> tuple[FleetSpec, NodeSpec]:
    text = FLEET.replace("engines:\n", f"engines:\n  vllm: {{version: 0.33.0}}\n  tgi: {{image: '{IMAGE}'}}\n")
    text = text.replace("modes:\n", f"modes:\n  r1: {{engine: {engine}, model: org/r1, {mode}}}\n", 1)
    fleet = fleet_from(folder, text.replace("gpus: [rtx3090], modes: [small]", "gpus: [rtx3090], modes: [r1]"))
    return fleet, fleet.nodes[NodeName("llm-gpu-01")]


ROWS = {
    "its own tokenizer": ("context: 8192", ["org/r1"]),
    "that of another": (f"tokenizer: {WORDS}", ["org/r1", f"{WORDS}#tokenizer"]),
    "a revision": ("arguments: {revision: refs/pr/1}", ["org/r1@refs/pr/1"]),
    "a revision goes for both": (
        f"tokenizer: {WORDS}, arguments: {{revision: abc}}",
        ["org/r1@abc", f"{WORDS}@abc#tokenizer"],
    ),
    "each its own": (
        f"tokenizer: {WORDS}, arguments: {{revision: abc, tokenizer_revision: main}}",
        ["org/r1@abc", f"{WORDS}@main#tokenizer"],
    ),
    "the tokenizer of another revision": (
        "arguments: {tokenizer-revision: v2}",
        ["org/r1", "org/r1@v2#tokenizer"],
    ),
    "the same by name": ("tokenizer: org/r1", ["org/r1"]),
    "one on the disk": ("tokenizer: /var/lib/llm/words", ["org/r1"]),
}


@pytest.mark.parametrize("name", ROWS)
def test_vllm_finds_model_and_tokenizer_at_their_revisions(tmp_path: Path, name: str) -> None:
    mode, pulls = ROWS[name]
    fleet, node = fleet_with(tmp_path, mode)
    engine, units = ENGINES[EngineName("vllm")], units_of(fleet, node, ENGINES)
    wanted = fleet.modes[ModeName("r1")]
    assert isinstance(wanted, ModeSpec)
    assert engine_variables(fleet, node, engine, units)["engine_pulls"] == pulls
    assert fetching_variables(fleet, node, engine, wanted, units)["engine_pulls"] == pulls
    marks = engine.fetched(setting_of(fleet, node, wanted))
    assert marks == tuple(f"{{data}}/huggingface/pulled/{pull.replace('/', '--')}" for pull in pulls)


def test_tgi_finds_its_model_at_its_revision(tmp_path: Path) -> None:
    fleet, node = fleet_with(tmp_path, "arguments: {revision: abc}", "tgi")
    engine = ENGINES[EngineName("tgi")]
    assert engine_variables(fleet, node, engine, units_of(fleet, node, ENGINES))["engine_pulls"] == ["org/r1@abc"]


def test_the_tokenizer_of_a_rare_mode_stays_while_that_serves(tmp_path: Path) -> None:
    fleet, node = fleet_with(tmp_path, f"tokenizer: {WORDS}, pull: demand")
    assert set(hot_models(fleet, node)) == {"org/r1", WORDS}
