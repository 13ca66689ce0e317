"""What `fit` computes, beside what others have published: file sizes, cache sizes, profiles of running engines.

Each row says where the figure stands and under what conditions. The tolerance
belongs to the figure: 0.1 per cent where bytes were published, half of the last
digit where a table rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from provisioner.domain.models.catalogue import find_model
from provisioner.domain.models.shape import ModelShape, parameters
from provisioner.domain.quantities import GIB, MIB
from provisioner.planning.fit.cache import CacheRequest, Cells, cache_bytes
from provisioner.planning.fit.engines import Load, activation_bytes, llama_cpp_buffer
from provisioner.planning.fit.weights import weight_bytes

GB = 10**9
README = "ggml-org/llama.cpp tools/quantize/README.md at 311c2c9f"
BLOG = "huggingface.co/blog/llama31, quoted in huggingface/blog issue 2345"
QWEN = "QwenLM/Qwen2.5 docs speed_benchmark.rst at a912d23: transformers 4.46, one A100, one sequence"
TAGS = "an answer of Ollama's /api/tags, wenku.csdn.net/answer/4fz5j1xej4"
OLLAMA = "ollama/ollama README.md at v0.6.8"
VLLM_3090 = "vllm-project/vllm issue 10517: RTX 3090, 20000 tokens in one batch"


@dataclass(frozen=True)
class Figure:
    source: str
    what: str
    published: float
    ours: float
    tolerance: float

    @property
    def error(self) -> float:
        return self.ours / self.published - 1


def shape(name: str) -> ModelShape:
    found = find_model(name)
    assert found is not None, name
    return found.model.shape


def gguf(name: str, kind: str) -> int:
    return weight_bytes(shape(name), kind, in_gguf=True).total


def safetensors(name: str, kind: str) -> int:
    return weight_bytes(shape(name), kind, in_gguf=False).total


def cache(name: str, tokens: int, *, kind: str = "f16", cells: Cells = Cells.PAGED) -> int:
    return cache_bytes(shape(name), CacheRequest(tokens, 1, kind, cells, batch=512))


def running(name: str, kind: str, tokens: int) -> int:
    return safetensors(name, kind) + cache(name, tokens)


def on_one_3090(name: str, tokens: int) -> Load:
    return Load(shape(name), tokens, 1, 1, 1, 24 * GIB)


FIGURES = (
    # Weights in files.
    *(
        Figure(README, f"llama3.1:8b {kind}, file", published * GIB, gguf("llama3.1:8b", kind), 0.002)
        for kind, published in {
            "q2_k": 2.95,
            "q3_k_s": 3.41,
            "q3_k_l": 4.02,
            "iq4_xs": 4.17,
            "q4_k_s": 4.36,
            "q4_k_m": 4.58,
            "q5_k_s": 5.21,
            "q5_k_m": 5.33,
            "q6_k": 6.14,
            "q8_0": 7.95,
            "f16": 14.96,
        }.items()
    ),
    Figure("ollama PR 6279, log", "llama3.1:70b q4_0, file", 37.22 * GIB, gguf("llama3.1:70b", "q4_0"), 0.001),
    Figure(OLLAMA, "llama3.3:70b q4_k_m, file", 43 * GB, gguf("llama3.3:70b", "q4_k_m"), 0.012),
    Figure(README, "llama3.1:405b q4_k_m, file", 249.1 * GB, gguf("llama3.1:405b", "q4_k_m"), 0.03),
    Figure(TAGS, "deepseek-r1:7b q4_k_m, bytes", 4_683_075_271, gguf("deepseek-r1:7b", "q4_k_m"), 0.002),
    Figure(TAGS, "deepseek-r1:14b q4_k_m, bytes", 8_988_112_040, gguf("deepseek-r1:14b", "q4_k_m"), 0.001),
    Figure(OLLAMA, "deepseek-r1:671b q4_k_m, file", 404 * GB, gguf("deepseek-r1:671b", "q4_k_m"), 0.01),
    Figure(OLLAMA, "gemma3:4b q4_k_m with vision, file", 3.3 * GB, gguf("gemma3:4b", "q4_k_m"), 0.03),
    Figure(OLLAMA, "gemma3:12b q4_k_m with vision, file", 8.1 * GB, gguf("gemma3:12b", "q4_k_m"), 0.03),
    Figure(OLLAMA, "gemma3:27b q4_k_m with vision, file", 17 * GB, gguf("gemma3:27b", "q4_k_m"), 0.03),
    # Phi's query, key and value are one tensor in the file, which then has 5 bits.
    Figure(OLLAMA, "phi4:14b q4_k_m, file", 9.1 * GB, gguf("phi4", "q4_k_m"), 0.03),
    Figure(OLLAMA, "qwq:32b q4_k_m, file", 20 * GB, gguf("qwq", "q4_k_m"), 0.02),
    Figure("bartowski/gemma-2-27b-it-GGUF", "gemma2:27b q8_0, file", 28.93 * GB, gguf("gemma2:27b", "q8_0"), 0.001),
    Figure("bartowski/gemma-2-9b-it-GGUF", "gemma2:9b q8_0, file", 9.82 * GB, gguf("gemma2:9b", "q8_0"), 0.002),
    Figure("bartowski/Qwen_Qwen3-32B-GGUF", "qwen3:32b q8_0, file", 34.82 * GB, gguf("qwen3:32b", "q8_0"), 0.001),
    Figure("bartowski/Qwen_Qwen3-32B-GGUF", "qwen3:32b bf16, file", 65.53 * GB, gguf("qwen3:32b", "bf16"), 0.001),
    Figure(
        "bartowski/Mixtral-8x22B-v0.1-GGUF",
        "mixtral:8x22b q4_k_m, file",
        85.58 * GB,
        gguf("mixtral:8x22b", "q4_k_m"),
        0.001,
    ),
    Figure("llama.cpp issue 15253, log", "gpt-oss:120b mxfp4, file", 59.02 * GIB, gguf("gpt-oss:120b", "mxfp4"), 0.005),
    # Weights as they are held.
    Figure("flytomelight llm-cal", "qwen2.5:7b bf16, bytes", 15_230_967_808, safetensors("qwen2.5:7b", "bf16"), 0.0001),
    Figure("vllm issue 13882, log", "qwen2.5:7b awq, loaded", 5.2032 * GIB, safetensors("qwen2.5:7b", "awq"), 0.005),
    Figure(VLLM_3090, "llama3.1:8b bf16, loaded", 14.9888 * GIB, safetensors("llama3.1:8b", "bf16"), 0.003),
    Figure(
        "vllm issue 13061, log, a half on each of two 4090",
        "deepseek-r1:14b bf16, loaded",
        2 * 13.9476 * GIB,
        safetensors("deepseek-r1:14b", "bf16"),
        0.02,
    ),
    Figure("ik_llama.cpp issue 822, log", "gpt-oss:20b, weights", 20.91e9, parameters(shape("gpt-oss:20b")), 0.001),
    # The cache.
    Figure(BLOG, "llama3.1:8b, 16000 tokens", 1.95 * GIB, cache("llama3.1:8b", 16000), 0.003),
    Figure(BLOG, "llama3.1:8b, 128000 tokens", 15.62 * GIB, cache("llama3.1:8b", 128000), 0.001),
    Figure(BLOG, "llama3.1:70b, 16000 tokens", 4.88 * GIB, cache("llama3.1:70b", 16000), 0.002),
    Figure(BLOG, "llama3.1:70b, 128000 tokens", 39.06 * GIB, cache("llama3.1:70b", 128000), 0.001),
    Figure(
        "the same issue: the table has twice this for 16 heads; with 8",
        "llama3.1:405b, 128000 tokens",
        61.5234375 * GIB,
        cache("llama3.1:405b", 128000),
        0.001,
    ),
    Figure("flytomelight llm-cal", "qwen2.5:7b, 32768 tokens", 1.75 * GIB, cache("qwen2.5:7b", 32768), 0.001),
    Figure(VLLM_3090, "llama3.1:8b, 1952 blocks of 16", 3.81 * GIB, cache("llama3.1:8b", 1952 * 16), 0.002),
    # Both together, as a running program was measured (it calls GiB GB: 14.38 for 15.2e9 bytes of weights).
    *(
        Figure(QWEN, f"{name} {kind}, 2048 tokens generated", published * GIB, running(name, kind, 2049), 0.03)
        for name, kind, published in (
            ("qwen2.5:7b", "bf16", 14.38),
            ("qwen2.5:7b", "gptq-int8", 8.42),
            ("qwen2.5:7b", "awq", 5.39),
            ("qwen2.5:14b", "bf16", 28.08),
            ("qwen2.5:14b", "awq", 9.79),
            ("qwen2.5:32b", "bf16", 61.58),
            ("qwen2.5:32b", "awq", 18.67),
            ("qwen2.5:72b", "bf16", 136.20),
            ("qwen2.5:72b", "awq", 39.44),
        )
    ),
    # What stands beside both.
    Figure(
        "a public llama.cpp log, flash attention on or a short context",
        "llama3.1:8b, compute buffer",
        258.5 * MIB,
        llama_cpp_buffer(on_one_3090("llama3.1:8b", 512)),
        0.003,
    ),
    Figure(
        VLLM_3090 + ", against 29000: the difference",
        "llama3.1:8b, activations of 9000 tokens",
        (17.98 - 17.06) * GIB,
        activation_bytes(on_one_3090("llama3.1:8b", 29000), 9000),
        0.02,
    ),
)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda each: each.what)
def test_our_figure_is_the_published_one(figure: Figure) -> None:
    assert abs(figure.error) <= figure.tolerance, f"{figure.source}: {figure.published:.0f}, ours {figure.ours:.0f}"


def test_there_are_enough_figures_of_every_kind() -> None:
    assert len(FIGURES) >= 15
    assert len({figure.source for figure in FIGURES}) >= 10


# Published by the people who ran it: the smallest cards that were enough, and one that was not.
RUNS = (
    ("vllm issue 10517", "meta-llama/Llama-3.1-8B-Instruct", ("rtx3090",), 20000, True),
    (
        "vllm issue 10517: 131072 is more than its cache holds",
        "meta-llama/Llama-3.1-8B-Instruct",
        ("rtx3090",),
        131072,
        False,
    ),
    (
        "vllm issue 13061: 131072 on two 4090 is too much",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
        ("2xrtx4090",),
        131072,
        False,
    ),
    (
        "vllm issue 13061: the cache holds 81536 with 0.98",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
        ("2xrtx4090",),
        32768,
        True,
    ),
    ("vllm issue 13882: 8 GiB at 0.7 leave nothing", "Qwen/Qwen2.5-7B-Instruct-AWQ", ("5734MiB",), 4096, False),
    ("Mistral-Small's model card: a single RTX 4090 once quantised", "mistral-small:24b", ("rtx4090",), 16384, True),
    ("the same: 55 GB in 16 bits", "mistralai/Mistral-Small-24B-Instruct-2501", ("rtx4090",), 4096, False),
)


@pytest.mark.parametrize(("source", "model", "gpus", "context", "fits"), RUNS, ids=[run[0] for run in RUNS])
def test_what_ran_fits_and_what_did_not_does_not(
    source: str, model: str, gpus: tuple[str, ...], context: int, fits: bool
) -> None:
    from provisioner.fitting import fit

    assert fit(model, gpus=gpus, context=context).fits is fits, source
