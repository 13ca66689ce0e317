"""Catalogue: Google's Gemma, Microsoft's Phi, DeepSeek, gpt-oss. Where the dimensions stand is said per entry."""

from __future__ import annotations

from provisioner.domain.models.llamas import LITGPT
from provisioner.domain.models.model import CatalogueModel
from provisioner.domain.models.shape import Experts, LatentAttention, ModelShape, SlidingWindow

_GEMMA = "google/gemma_pytorch config.py"
# SigLIP 400M and its projector; Ollama's files carry it too, at 16 bits.
_GEMMA_EYES = 420_000_000
_DISTILLED = "deepseek-ai/DeepSeek-R1-Distill-Qwen"


def _gemma2(size: str, parameters: float, shape: tuple[int, ...]) -> CatalogueModel:
    layers, width, heads, kv_heads, head, feed_forward = shape
    return CatalogueModel(
        name=f"gemma2:{size}",
        family="Gemma 2",
        repository=f"google/gemma-2-{size}-it",
        shape=ModelShape(
            layers,
            width,
            heads,
            kv_heads,
            head,
            feed_forward,
            256000,
            8192,
            is_tied=True,
            norms=4,
            window=SlidingWindow(4096, layers // 2),
        ),
        parameters=parameters,
        licence="Gemma Terms of Use",
        is_gated=True,
        also=("gemma2",) if size == "9b" else (),
        sources=(LITGPT, _GEMMA),
    )


def _gemma3(size: str, parameters: float, shape: tuple[int, ...], sliding: int, window: int) -> CatalogueModel:
    layers, width, heads, kv_heads, head, feed_forward = shape
    return CatalogueModel(
        name=f"gemma3:{size}",
        family="Gemma 3",
        repository=f"google/gemma-3-{size}-it",
        shape=ModelShape(
            layers,
            width,
            heads,
            kv_heads,
            head,
            feed_forward,
            262144,
            32768 if size == "1b" else 131072,
            is_tied=True,
            norms=4,
            normalises_heads=True,
            window=SlidingWindow(window, sliding),
            other_weights=0 if size == "1b" else _GEMMA_EYES,
        ),
        parameters=parameters,
        licence="Gemma Terms of Use",
        is_gated=True,
        also=("gemma3",) if size == "4b" else (),
        sources=(LITGPT, "Ollama's library (context of 1b: 32768)"),
        unverified="the size of the vision tower, taken from its name" if size != "1b" else "",
    )


def _distilled(size: str, parameters: float, shape: tuple[int, ...], quantized: dict[str, str]) -> CatalogueModel:
    layers, width, heads, kv_heads, head, feed_forward = shape
    return CatalogueModel(
        name=f"deepseek-r1:{size}",
        family="DeepSeek R1 Distill Qwen",
        repository=f"{_DISTILLED}-{size.upper()}",
        shape=ModelShape(layers, width, heads, kv_heads, head, feed_forward, 152064, 131072, has_attention_bias=True),
        parameters=parameters,
        licence="MIT",
        is_gated=False,
        quantized=quantized,
        also=("deepseek-r1",) if size == "7b" else (),
        sources=("dimensions of the Qwen 2.5 that it was made from: " + LITGPT, "a distill's size in Ollama's library"),
        unverified="that its architecture is Qwen 2.5's own; its file sizes agree",
    )


OTHERS = (
    _gemma2("2b", 2.61e9, (26, 2304, 8, 4, 256, 9216)),
    _gemma2("9b", 9.24e9, (42, 3584, 16, 8, 256, 14336)),
    _gemma2("27b", 27.2e9, (46, 4608, 32, 16, 128, 36864)),
    _gemma3("1b", 1.0e9, (26, 1152, 4, 1, 256, 6912), 22, 512),
    _gemma3("4b", 4.3e9, (34, 2560, 8, 4, 256, 10240), 29, 1024),
    _gemma3("12b", 12.2e9, (48, 3840, 16, 8, 256, 15360), 40, 1024),
    _gemma3("27b", 27.4e9, (62, 5376, 32, 16, 128, 21504), 52, 1024),
    CatalogueModel(
        name="phi3:mini",
        family="Phi 3",
        repository="microsoft/Phi-3-mini-4k-instruct",
        # It has a window of 2047 tokens in its config; llama.cpp and vLLM keep the whole context all the same.
        shape=ModelShape(32, 3072, 32, 32, 96, 8192, 32064, 4096),
        parameters=3.82e9,
        licence="MIT",
        is_gated=False,
        also=("phi3", "phi3:3.8b"),
        sources=(LITGPT, "transformers 5.23, defaults of Phi3Config"),
        unverified="that engines leave its sliding window unused",
    ),
    CatalogueModel(
        name="phi4:14b",
        family="Phi 4",
        repository="microsoft/phi-4",
        shape=ModelShape(40, 5120, 40, 10, 128, 17920, 100352, 16384),
        parameters=14.7e9,
        licence="MIT",
        is_gated=False,
        also=("phi4",),
        sources=(LITGPT,),
    ),
    CatalogueModel(
        name="phi4-mini:3.8b",
        family="Phi 4",
        repository="microsoft/Phi-4-mini-instruct",
        shape=ModelShape(32, 3072, 24, 8, 128, 8192, 200064, 131072, is_tied=True),
        parameters=3.84e9,
        licence="MIT",
        is_gated=False,
        also=("phi4-mini",),
        sources=(LITGPT,),
    ),
    _distilled("7b", 7.61e9, (28, 3584, 28, 4, 128, 18944), {"awq": "casperhansen/deepseek-r1-distill-qwen-7b-awq"}),
    _distilled("14b", 14.8e9, (48, 5120, 40, 8, 128, 13824), {"awq": "casperhansen/deepseek-r1-distill-qwen-14b-awq"}),
    _distilled("32b", 32.8e9, (64, 5120, 40, 8, 128, 27648), {"awq": "casperhansen/deepseek-r1-distill-qwen-32b-awq"}),
    CatalogueModel(
        name="deepseek-r1:8b",
        family="DeepSeek R1 Distill Llama",
        repository="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        shape=ModelShape(32, 4096, 32, 8, 128, 14336, 128256, 131072),
        parameters=8.03e9,
        licence="MIT, and the Llama 3.1 Community License",
        is_gated=False,
        sources=(LITGPT,),
        unverified="that Ollama's tag 8b still is the Llama one (newer libraries put a Qwen 3 there)",
    ),
    CatalogueModel(
        name="deepseek-coder:6.7b",
        family="DeepSeek Coder",
        repository="deepseek-ai/deepseek-coder-6.7b-instruct",
        shape=ModelShape(32, 4096, 32, 32, 128, 11008, 32256, 16384),
        parameters=6.74e9,
        licence="DeepSeek License",
        is_gated=False,
        also=("deepseek-coder",),
        sources=("xorbitsai/inference deepseek-coder.rst (context)",),
        unverified="all other dimensions: those of a plain Llama 7B with its own vocabulary, from memory",
    ),
    CatalogueModel(
        name="deepseek-r1:671b",
        family="DeepSeek V3",
        repository="deepseek-ai/DeepSeek-R1",
        shape=ModelShape(
            61,
            7168,
            128,
            128,
            128,
            18432,
            129280,
            163840,
            experts=Experts(256, 8, 2048, shared_feed_forward=2048, dense_layers=3),
            latent=LatentAttention(512, 64, 128, 128, query_rank=1536),
        ),
        parameters=671e9,
        licence="MIT",
        is_gated=False,
        also=("deepseek-v3", "deepseek-v3:671b", "deepseek-ai/DeepSeek-V3"),
        native="fp8",
        sources=("config.json of DeepSeek-R1 as quoted in public code", "transformers 5.23, DeepseekV3Config"),
    ),
    CatalogueModel(
        name="gpt-oss:20b",
        family="gpt-oss",
        repository="openai/gpt-oss-20b",
        shape=ModelShape(
            24,
            2880,
            64,
            8,
            64,
            2880,
            201088,
            131072,
            has_attention_bias=True,
            experts=Experts(32, 4, 2880),
            window=SlidingWindow(128, 12),
        ),
        parameters=20.9e9,
        licence="Apache 2.0",
        is_gated=False,
        also=("gpt-oss",),
        native="mxfp4",
        sources=("ModelConfig of the checkpoint and llama.cpp's log of its header (ik_llama.cpp issue 822)",),
        unverified="that every other layer has the window",
    ),
    CatalogueModel(
        name="gpt-oss:120b",
        family="gpt-oss",
        repository="openai/gpt-oss-120b",
        shape=ModelShape(
            36,
            2880,
            64,
            8,
            64,
            2880,
            201088,
            131072,
            has_attention_bias=True,
            experts=Experts(128, 4, 2880),
            window=SlidingWindow(128, 18),
        ),
        parameters=116.8e9,
        licence="Apache 2.0",
        is_gated=False,
        native="mxfp4",
        sources=("its header as logged by llama.cpp (llama-swap issue 437, llama.cpp issue 15253)",),
        unverified="128 experts, of which 4 work (from its name and size)",
    ),
)
