# ruff: noqa: E501 - a table reads better in its lines
"""Modes and engines in the fleet file: what they may say, and where each mistake is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
import yaml

from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.adapters.files.fleet_schema import json_schema
from provisioner.domain.fleet import FleetSpec, SecretSource
from provisioner.domain.mode import Pull
from provisioner.domain.names import EngineName, ModeName, NodeName
from provisioner.domain.quantities import GIB
from tests.fleets import FLEET, SUM, fleet_from

DIGEST = f"ghcr.io/huggingface/text-generation-inference:3.3.5@sha256:{SUM}"
ENGINES = f"""\
  vllm: {{version: 0.33.0, requirements: vllm.txt}}
  ollama:
    version: 0.32.15
    source: ollama.tar.zst
    sha256: {SUM}
    more_archives: [{{source: "https://example.org/rocm.tar.zst", sha256: {SUM}}}]
  tgi: {{image: "{DIGEST}"}}
  exo: {{source: exo.tar.gz, sha256: {SUM}}}
"""
MODES = """\
  ml: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct-AWQ, context: 8192, arguments: {enforce-eager: true, seed: 7}}
  r1: {engine: vllm, model: casperhansen/deepseek-r1-distill-qwen-7b-awq, tokenizer: deepseek-ai/DeepSeek-R1, context: 8192}
  chat:
    engine: ollama
    models: ["llama3.1:8b", "mistral:7b"]
    pinned: ["llama3.1:8b"]
    pull: demand
    memory_limit: 8GiB
    cpu_limit: 2.5
  layers: {engine: llama.cpp, model: gemma-2-2b-it.gguf, gpu_layers: 20, threads: 4}
  gaming: {release_gpu_to: 200, may_shut_down: true}
"""
WIDE = (
    FLEET.replace("engines:\n", f"huggingface_token: env:HF_TOKEN\nengines:\n{ENGINES}")
    .replace("modes:\n", f"modes:\n{MODES}", 1)
    .replace(
        "gpus: [rtx3090], modes: [small], gateway", "gpus: [rtx3090], modes: [ml, r1, chat, layers, gaming], gateway"
    )
)


@pytest.fixture
def wide(tmp_path: Path) -> FleetSpec:
    """A fleet file that says all that a mode may say."""
    return fleet_from(tmp_path, WIDE)


class TestWhatIsRead:
    """A file without mistakes."""

    def test_a_mode_with_arguments(self, wide: FleetSpec) -> None:
        assert wide.modes[ModeName("ml")].arguments == {"enforce-eager": True, "seed": 7}
        assert wide.modes[ModeName("r1")].tokenizer == "deepseek-ai/DeepSeek-R1"

    def test_a_mode_with_several_models_and_limits(self, wide: FleetSpec) -> None:
        chat = wide.modes[ModeName("chat")]
        assert (chat.model, chat.models) == ("llama3.1:8b", ("llama3.1:8b", "mistral:7b"))
        assert (chat.pinned, chat.pull) == (("llama3.1:8b",), Pull.DEMAND)
        assert (chat.memory_limit_bytes, chat.cpu_limit) == (8 * GIB, 2.5)

    def test_a_mode_that_gives_the_gpus_away_is_no_serving_mode(self, wide: FleetSpec) -> None:
        assert ModeName("gaming") not in wide.modes
        release = wide.releases[ModeName("gaming")]
        assert (release.vmid, release.may_shut_down) == (200, True)
        node = wide.nodes[NodeName("llm-gpu-01")]
        assert [mode.name for mode in wide.modes_of(node)] == ["ml", "r1", "chat", "layers"]

    def test_software_with_all_its_pins(self, wide: FleetSpec, tmp_path: Path) -> None:
        assert wide.engines[EngineName("vllm")].requirements == tmp_path / "vllm.txt"
        ollama = wide.engines[EngineName("ollama")]
        assert [each.source for each in ollama.archives] == [
            str(tmp_path / "ollama.tar.zst"),
            "https://example.org/rocm.tar.zst",
        ]
        assert wide.engines[EngineName("tgi")].image == DIGEST

    def test_an_engine_of_the_catalogue_needs_no_entry(self, tmp_path: Path) -> None:
        fleet = fleet_from(tmp_path, WIDE.replace("  vllm: {version: 0.33.0, requirements: vllm.txt}\n", ""))
        assert fleet.engines[EngineName("vllm")].version == "0.33.0"

    def test_the_token_is_a_reference(self, wide: FleetSpec) -> None:
        assert wide.huggingface_token is not None
        assert (wide.huggingface_token.source, wide.huggingface_token.name) == (SecretSource.ENV, "HF_TOKEN")

    def test_the_published_schema_knows_all_of_it(self) -> None:
        jsonschema.validate(yaml.safe_load(WIDE), json_schema())

    @pytest.mark.parametrize("key", ["engine", "tokenizer", "arguments", "gpu_layers", "pinned", "release_gpu_to"])
    def test_editors_complete_its_keys(self, key: str) -> None:
        assert key in json_schema()["$defs"]["ModeShape"]["properties"]


@dataclass(frozen=True)
class Mistake:
    """A change to the file, and what is said of it, on which line's text."""

    old: str
    new: str
    found: str
    allowed: str
    line: str


MISTAKES = {
    "an engine that nobody knows": Mistake("engine: vllm, model: Q", "engine: vlm, model: Q", '"vlm"', "ollama, vllm", "  ml:"),
    "an engine without its archive": Mistake("    source: ollama.tar.zst\n    sha256: " + SUM + "\n    more_archives: [{source: \"https://example.org/rocm.tar.zst\", sha256: " + SUM + "}]\n", "", 'engine "ollama" has no archive', "sha256sum.txt: https://github.com/ollama", "engine: ollama"),
    "an engine without its version": Mistake("version: 0.33.0, ", "", 'engine "vllm" has no version', "engines.vllm with version", "  ml:"),
    "an archive without its sum": Mistake(f"{{source: exo.tar.gz, sha256: {SUM}}}", "{source: exo.tar.gz}", "exo.tar.gz", "source and sha256 together", "  exo:"),
    "a version that is a number": Mistake("version: 0.32.15", "version: 0.32", "0.32", "string", "version: 0.32"),
    "an image without its digest": Mistake(f"@sha256:{SUM}", "", "3.3.5", "pinned by its digest", "  tgi:"),
    "two models for an engine that serves one": Mistake("engine: vllm, model: Qwen/Qwen2.5-7B-Instruct-AWQ", "engine: vllm, models: [a, b]", "2 models", "one model per mode", "  ml:"),
    "model and models": Mistake("  layers: {", "  layers: {models: [a], ", "", "either model or models", "  layers:"),
    "a mode without a model": Mistake(", model: gemma-2-2b-it.gguf, gpu_layers", ", gpu_layers", "", "either model or models", "  layers:"),
    "a pinned model that is none of its models": Mistake('pinned: ["llama3.1:8b"]', "pinned: [phi3]", '"phi3"', "models of the mode", "pinned:"),
    "a key without effect": Mistake("engine: ollama\n", "engine: ollama\n    threads: 4\n", "threads of a mode with engine ollama", "no such key", "threads: 4"),
    "layers that are no number": Mistake("gpu_layers: 20", "gpu_layers: many", "many", "", "  layers:"),
    "a size without a unit": Mistake("memory_limit: 8GiB", "memory_limit: 8", "8", "unit", "memory_limit:"),
    "release beside an engine": Mistake("{release_gpu_to: 200, may", "{engine: vllm, release_gpu_to: 200, may", "", "without engine", "  gaming:"),
    "a permission without a release": Mistake("gpu_layers: 20", "may_shut_down: true", "", "beside release_gpu_to only", "  layers:"),
    "release as the first mode": Mistake("[ml, r1, chat, layers, gaming]", "[gaming, ml]", "serves nothing", "a mode with an engine first", "llm-gpu-01:"),
    "release to the node itself": Mistake("release_gpu_to: 200", "release_gpu_to: 5001", "itself", "another VM's vmid", "llm-gpu-01:"),
    "release of a card that does not come back": Mistake("vram: 24GiB", "vram: 24GiB, survives_stop: false", "survives_stop", "no mode with release_gpu_to", "llm-gpu-01:"),
    "a page where an engine listens": Mistake("modes: [ml, r1, chat, layers, gaming]", "web_ui: {version: 0.12.4, port: 11434}, modes: [chat]", "where ollama listens", "another port", "llm-gpu-01:"),
    "a mode twice": Mistake("[ml, r1, chat", "[ml, ml, chat", '"ml" twice', "each mode once", "llm-gpu-01:"),
    "a token in the file": Mistake("env:HF_TOKEN", "hf_secretsecret", "not repeated", "env:NAME or file:PATH", "huggingface_token"),
    "a flag with its dashes": Mistake("enforce-eager: true", "--enforce-eager: true", "--enforce-eager", "without its dashes", "  ml:"),
    "a model file without a source": Mistake("layers: {engine: llama.cpp, model: gemma-2-2b-it.gguf", "layers: {engine: llama.cpp, model: other.gguf", 'model "other.gguf" has no source', "under models", "  layers:"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_with_its_line(tmp_path: Path, mistake: Mistake) -> None:
    text = WIDE.replace(mistake.old, mistake.new, 1)
    assert text != WIDE
    with pytest.raises(FleetFileError) as caught:
        fleet_from(tmp_path, text)
    assert "secretsecret" not in caught.value.summary
    told = [(line, problem) for line, problem in caught.value.problems if mistake.found in problem.found]
    assert told, caught.value.summary
    line, problem = told[0]
    assert mistake.allowed in problem.allowed
    assert mistake.line in text.splitlines()[line - 1]
