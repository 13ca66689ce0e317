"""Catalogue: Alibaba's Qwen 2.5 and 3. Where the dimensions stand is said per entry."""

from __future__ import annotations

from provisioner.domain.models.llamas import LITGPT
from provisioner.domain.models.model import CatalogueModel
from provisioner.domain.models.shape import Experts, ModelShape

_CARD = "its model card (context: 32768 as configured, more with YaRN)"


def _qwen25(
    size: str, parameters: float, shape: tuple[int, ...], *, tied: bool = False, licence: str = "Apache 2.0"
) -> CatalogueModel:
    layers, width, heads, kv_heads, head, feed_forward, vocabulary = shape
    repository = f"Qwen/Qwen2.5-{size.upper()}-Instruct"
    return CatalogueModel(
        name=f"qwen2.5:{size}",
        family="Qwen 2.5",
        repository=repository,
        shape=ModelShape(
            layers, width, heads, kv_heads, head, feed_forward, vocabulary, 32768, is_tied=tied, has_attention_bias=True
        ),
        parameters=parameters,
        licence=licence,
        is_gated=False,
        quantized={
            "awq": f"{repository}-AWQ",
            "gptq": f"{repository}-GPTQ-Int4",
            "gptq-int8": f"{repository}-GPTQ-Int8",
        },
        also=("qwen2.5",) if size == "7b" else (),
        sources=(LITGPT, _CARD, "QwenLM/Qwen2.5 speed_benchmark.rst at a912d23 (the quantised ones)"),
    )


def _qwen3(size: str, parameters: float, shape: tuple[int, ...], *, tied: bool = False) -> CatalogueModel:
    layers, width, heads, kv_heads, head, feed_forward = shape
    repository = f"Qwen/Qwen3-{size.upper()}"
    return CatalogueModel(
        name=f"qwen3:{size}",
        family="Qwen 3",
        repository=repository,
        shape=ModelShape(
            layers, width, heads, kv_heads, head, feed_forward, 151936, 40960, is_tied=tied, normalises_heads=True
        ),
        parameters=parameters,
        licence="Apache 2.0",
        is_gated=False,
        quantized={"awq": f"{repository}-AWQ", "fp8": f"{repository}-FP8"},
        also=("qwen3",) if size == "8b" else (),
        sources=(LITGPT,),
        unverified="that every size has an AWQ repository",
    )


_CODER_7B = (28, 3584, 28, 4, 128, 18944, 152064)
_32B = (64, 5120, 40, 8, 128, 27648, 152064)

QWENS = (
    _qwen25("0.5b", 0.49e9, (24, 896, 14, 2, 64, 4864, 151936), tied=True),
    _qwen25("1.5b", 1.54e9, (28, 1536, 12, 2, 128, 8960, 151936), tied=True),
    _qwen25("3b", 3.09e9, (36, 2048, 16, 2, 128, 11008, 151936), tied=True, licence="Qwen Research License"),
    _qwen25("7b", 7.61e9, _CODER_7B),
    _qwen25("14b", 14.8e9, (48, 5120, 40, 8, 128, 13824, 152064)),
    _qwen25("32b", 32.8e9, _32B),
    _qwen25("72b", 72.7e9, (80, 8192, 64, 8, 128, 29568, 152064), licence="Qwen License"),
    CatalogueModel(
        name="qwen2.5-coder:7b",
        family="Qwen 2.5 Coder",
        repository="Qwen/Qwen2.5-Coder-7B-Instruct",
        shape=ModelShape(*_CODER_7B, 32768, has_attention_bias=True),
        parameters=7.61e9,
        licence="Apache 2.0",
        is_gated=False,
        quantized={"awq": "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ"},
        also=("qwen2.5-coder",),
        sources=(LITGPT,),
    ),
    CatalogueModel(
        name="qwq:32b",
        family="QwQ",
        repository="Qwen/QwQ-32B",
        shape=ModelShape(*_32B, 131072, has_attention_bias=True),
        parameters=32.8e9,
        licence="Apache 2.0",
        is_gated=False,
        quantized={"awq": "Qwen/QwQ-32B-AWQ"},
        also=("qwq",),
        sources=(LITGPT,),
    ),
    _qwen3("0.6b", 0.6e9, (28, 1024, 16, 8, 128, 3072), tied=True),
    _qwen3("1.7b", 1.7e9, (28, 2048, 16, 8, 128, 6144), tied=True),
    _qwen3("4b", 4.0e9, (36, 2560, 32, 8, 128, 9728), tied=True),
    _qwen3("8b", 8.2e9, (36, 4096, 32, 8, 128, 12288)),
    _qwen3("14b", 14.8e9, (40, 5120, 40, 8, 128, 17408)),
    _qwen3("32b", 32.8e9, (64, 5120, 64, 8, 128, 25600)),
    CatalogueModel(
        name="qwen3:30b",
        family="Qwen 3",
        repository="Qwen/Qwen3-30B-A3B",
        shape=ModelShape(
            48, 2048, 32, 4, 128, 6144, 151936, 40960, normalises_heads=True, experts=Experts(128, 8, 768)
        ),
        parameters=30.5e9,
        licence="Apache 2.0",
        is_gated=False,
        quantized={"fp8": "Qwen/Qwen3-30B-A3B-FP8"},
        also=("qwen3:30b-a3b",),
        sources=(LITGPT,),
    ),
    CatalogueModel(
        name="qwen3:235b",
        family="Qwen 3",
        repository="Qwen/Qwen3-235B-A22B",
        shape=ModelShape(
            94, 4096, 64, 4, 128, 12288, 151936, 40960, normalises_heads=True, experts=Experts(128, 8, 1536)
        ),
        parameters=235e9,
        licence="Apache 2.0",
        is_gated=False,
        quantized={"fp8": "Qwen/Qwen3-235B-A22B-FP8"},
        also=("qwen3:235b-a22b",),
        sources=(LITGPT,),
    ),
)
