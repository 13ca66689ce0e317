"""`up` refuses what cannot fit, says the sum, and lets through what nobody can know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.actions import Refusal
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ArgumentValue, Artifact, EngineSpec, ModeSpec
from provisioner.domain.models.catalogue import find_model
from provisioner.domain.models.model import Subject
from provisioner.domain.names import EngineName, HypervisorName, ModeName, NodeName
from provisioner.domain.quantities import GIB
from provisioner.planning.fit.refusal import fit_refusal, unfit_modes


def mode(engine: str, model: str, **more: object) -> ModeSpec:
    return ModeSpec(ModeName("m"), EngineName(engine), model, **more)  # type: ignore[arg-type]


def with_vram(fleet: FleetSpec, gib: int | None) -> FleetSpec:
    server = fleet.hypervisors[HypervisorName("pve1")]
    size = None if gib is None else gib * GIB
    gpus = {name: replace(gpu, vram_bytes=size) for name, gpu in server.gpus.items()}
    return replace(fleet, hypervisors={server.name: replace(server, gpus=gpus)})


def without_gpu(node: NodeSpec, memory_gib: int = 48) -> NodeSpec:
    return replace(node, gpus=(), memory_bytes=memory_gib * GIB)


def test_a_model_that_is_too_big_is_refused_with_the_sum_and_the_way_out(fleet: FleetSpec, node: NodeSpec) -> None:
    found = fit_refusal(fleet, node, mode("ollama", "llama3.1:70b"))
    assert isinstance(found, Refusal)
    assert 'mode "m": llama3.1:70b does not fit its GPUs: it needs 4' in found.reason
    assert "rtx3090 has room for 23.58 GiB" in found.reason
    assert "provisioner fit llama3.1:70b --engine ollama --gpu rtx3090 --context 4096" in found.next_step


@pytest.mark.parametrize(
    ("engine", "model", "more"),
    [
        ("vllm", "Qwen/Qwen2.5-7B-Instruct-AWQ", {"context": 8192}),
        ("vllm", "casperhansen/deepseek-r1-distill-qwen-7b-awq", {"context": 8192}),
        ("ollama", "llama3.1:8b", {"more_models": ("mistral:7b",), "pinned": ("llama3.1:8b",)}),
        ("llama.cpp", "gemma-2-2b-it-Q4_K_M.gguf", {}),
        ("tgi", "mistralai/Mistral-7B-Instruct-v0.3", {"context": 8192}),
    ],
)
def test_what_fits_is_let_through(
    fleet: FleetSpec, node: NodeSpec, engine: str, model: str, more: dict[str, object]
) -> None:
    assert fit_refusal(fleet, node, mode(engine, model, **more)) is None


@pytest.mark.parametrize(
    ("engine", "model"),
    [
        ("ollama", "somebody/a-model-of-400b"),
        ("llama.cpp", "Meta-Llama-3.1-70B-Instruct.gguf"),
        ("exo", "llama3.1:405b"),
        ("vllm", "meta-llama/Llama-3.1-70B-Instruct-some-unheard-of-quant"),
    ],
)
def test_what_nobody_knows_is_let_through(fleet: FleetSpec, node: NodeSpec, engine: str, model: str) -> None:
    assert fit_refusal(fleet, node, mode(engine, model)) is None


def test_nodes_that_serve_together_split_layers_inside_of_each_alone(fleet: FleetSpec, node: NodeSpec) -> None:
    names = [NodeName(f"llm-gpu-0{number}") for number in range(1, 5)]
    together = replace(fleet, nodes={name: replace(node, name=name) for name in names})
    # Ten key-value heads cannot be dealt out to four GPUs, four groups of layers can.
    phi4 = mode("vllm", "microsoft/phi-4", context=8192, nodes=tuple(names))
    assert fit_refusal(together, node, phi4) is None
    large = mode("vllm", "meta-llama/Llama-3.1-405B-Instruct", context=8192, nodes=tuple(names))
    refused = fit_refusal(together, node, large)
    assert refused is not None
    assert "provisioner fit" not in refused.next_step, "which knows of one node only"


def test_a_gpu_whose_memory_nobody_said_is_let_through(fleet: FleetSpec, node: NodeSpec) -> None:
    assert fit_refusal(with_vram(fleet, None), node, mode("ollama", "llama3.1:70b")) is None


def test_the_same_model_is_refused_on_a_small_card_and_not_on_a_big_one(fleet: FleetSpec, node: NodeSpec) -> None:
    asked = mode("vllm", "meta-llama/Llama-3.1-8B-Instruct", context=8192)
    assert fit_refusal(with_vram(fleet, 12), node, asked) is not None
    assert fit_refusal(with_vram(fleet, 48), node, asked) is None


def test_vllm_without_a_context_is_told_which_one_fits(fleet: FleetSpec, node: NodeSpec) -> None:
    found = fit_refusal(fleet, node, mode("vllm", "meta-llama/Llama-3.1-8B-Instruct"))
    assert found is not None
    assert "131072 tokens" in found.reason
    assert "context: " in found.next_step


def test_a_later_vllm_takes_more_of_the_card(fleet: FleetSpec, node: NodeSpec) -> None:
    asked = mode("vllm", "meta-llama/Llama-3.1-8B-Instruct")
    words = []
    for version in ("0.19.1", "0.33.0"):
        engines = {**fleet.engines, asked.engine: EngineSpec(asked.engine, version)}
        found = fit_refusal(replace(fleet, engines=engines), node, asked)
        assert found is not None
        words.append(found.reason)
    assert "room for 21.22 GiB" in words[0]
    assert "room for 21.69 GiB" in words[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"max-model-len": 4096},
        {"max_model_len": 4096},
        {"cpu-offload-gb": 20},
    ],
)
def test_what_a_mode_says_of_the_engines_flags_counts(
    fleet: FleetSpec, node: NodeSpec, arguments: dict[str, ArgumentValue]
) -> None:
    assert fit_refusal(fleet, node, mode("vllm", "meta-llama/Llama-3.1-8B-Instruct")) is not None
    assert fit_refusal(fleet, node, mode("vllm", "meta-llama/Llama-3.1-8B-Instruct", arguments=arguments)) is None


def test_a_smaller_share_of_the_card_counts(fleet: FleetSpec, node: NodeSpec) -> None:
    asked = mode("vllm", "Qwen/Qwen2.5-7B-Instruct-AWQ", context=4096, arguments={"gpu-memory-utilization": 0.2})
    assert fit_refusal(fleet, node, asked) is not None


def test_layers_left_on_the_cpu_are_a_choice(fleet: FleetSpec, node: NodeSpec) -> None:
    big = "Meta-Llama-3.1-70B-Instruct-Q4_K_M.gguf"
    assert fit_refusal(fleet, node, mode("llama.cpp", big)) is not None
    assert fit_refusal(fleet, node, mode("llama.cpp", big, gpu_layers=30)) is None


def test_a_node_without_gpu_is_judged_by_the_memory_of_its_vm(fleet: FleetSpec, node: NodeSpec) -> None:
    asked = mode("ollama", "llama3.1:8b")
    assert fit_refusal(fleet, without_gpu(node), asked) is None
    found = fit_refusal(fleet, without_gpu(node, 4), asked)
    assert found is not None
    assert "does not fit its memory" in found.reason
    assert "memory: 7GiB" in found.next_step


def test_a_limit_of_the_mode_is_less_memory(fleet: FleetSpec, node: NodeSpec) -> None:
    asked = mode("ollama", "llama3.1:8b", memory_limit_bytes=3 * GIB)
    assert fit_refusal(fleet, without_gpu(node), asked) is not None


def test_pinned_models_have_to_fit_beside_each_other(fleet: FleetSpec, node: NodeSpec) -> None:
    names = ("qwen2.5:14b", "qwen2.5:32b")
    asked = mode("ollama", names[0], more_models=names[1:])
    assert fit_refusal(fleet, node, asked) is None
    found = fit_refusal(fleet, node, replace(asked, pinned=names))
    assert found is not None
    assert "its pinned models need" in found.reason


def read_from_file(gib: int, quantization: str = "q4_k_m") -> Subject:
    shape = find_model("llama3.1:70b").model.shape  # type: ignore[union-attr]
    return Subject("mine", shape, quantization, gib * GIB, is_measured=True, origin="723 tensors read from the header")


def test_a_model_whose_file_lies_here_is_judged_by_what_it_says_itself(fleet: FleetSpec, node: NodeSpec) -> None:
    name = "somebodys-own.gguf"
    known = replace(fleet, models={name: Artifact(name, "/srv/models/own.gguf", "0" * 64)})
    asked = mode("llama.cpp", name)
    assert fit_refusal(known, node, asked) is None
    assert fit_refusal(known, node, asked, {name: read_from_file(20)}) is None
    found = fit_refusal(known, node, asked, {name: read_from_file(40)})
    assert found is not None
    assert f"{name} does not fit its GPUs" in found.reason
    assert "provisioner fit /srv/models/own.gguf --engine llama.cpp --gpu rtx3090" in found.next_step
    # Weights in a kind that nobody has described are the engine's business.
    assert fit_refusal(known, node, asked, {name: read_from_file(40, "tq1_0")}) is None


def test_every_mode_of_a_node_is_looked_at(fleet: FleetSpec, node: NodeSpec) -> None:
    bad = replace(mode("ollama", "llama3.1:405b"), name=ModeName("huge"))
    modes = {**fleet.modes, bad.name: bad}
    both = replace(node, modes=(*node.modes, bad.name))
    assert unfit_modes(fleet, node) is None
    found = unfit_modes(replace(fleet, modes=modes), both)
    assert found is not None
    assert found.reason.startswith('mode "huge": llama3.1:405b does not fit')
