"""Catalogue: Meta's Llama, and Mistral's models. Where the dimensions stand is said per entry."""

from __future__ import annotations

from provisioner.domain.models.model import CatalogueModel
from provisioner.domain.models.shape import Experts, ModelShape

LITGPT = "Lightning-AI/litgpt litgpt/config.py at 26857050, after the repository's config.json"
_META = "meta-llama/llama-models sku_list.py"
_TRANSFORMERS = "transformers 5.23, defaults of MistralConfig and MixtralConfig"

_LLAMA_8B = ModelShape(32, 4096, 32, 8, 128, 14336, 128256, 131072)
_LLAMA_70B = ModelShape(80, 8192, 64, 8, 128, 28672, 128256, 131072)
_MISTRAL_GATE = "that the repository is gated (it asks for contact details, not for approval)"

LLAMAS = (
    CatalogueModel(
        name="llama3.1:8b",
        family="Llama 3.1",
        repository="meta-llama/Llama-3.1-8B-Instruct",
        shape=_LLAMA_8B,
        parameters=8.03e9,
        licence="Llama 3.1 Community License",
        is_gated=True,
        quantized={
            "awq": "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
            "gptq": "hugging-quants/Meta-Llama-3.1-8B-Instruct-GPTQ-INT4",
        },
        also=("llama3.1", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
        sources=(LITGPT, _META),
        unverified="the names of the quantised repositories",
    ),
    CatalogueModel(
        name="llama3.1:70b",
        family="Llama 3.1",
        repository="meta-llama/Llama-3.1-70B-Instruct",
        shape=_LLAMA_70B,
        parameters=70.6e9,
        licence="Llama 3.1 Community License",
        is_gated=True,
        quantized={"awq": "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4"},
        also=("meta-llama/Meta-Llama-3.1-70B-Instruct",),
        sources=(LITGPT, _META),
        unverified="the name of the quantised repository",
    ),
    CatalogueModel(
        name="llama3.1:405b",
        family="Llama 3.1",
        repository="meta-llama/Llama-3.1-405B-Instruct",
        # The first release kept 16 key-value heads, which doubled its cache; this is the one of today.
        shape=ModelShape(126, 16384, 128, 8, 128, 53248, 128256, 131072),
        parameters=405.9e9,
        licence="Llama 3.1 Community License",
        is_gated=True,
        quantized={"fp8": "meta-llama/Llama-3.1-405B-Instruct-FP8"},
        also=("meta-llama/Meta-Llama-3.1-405B-Instruct",),
        sources=(LITGPT, _META),
        unverified="the name of the quantised repository",
    ),
    CatalogueModel(
        name="llama3.2:1b",
        family="Llama 3.2",
        repository="meta-llama/Llama-3.2-1B-Instruct",
        shape=ModelShape(16, 2048, 32, 8, 64, 8192, 128256, 131072, is_tied=True),
        parameters=1.23e9,
        licence="Llama 3.2 Community License",
        is_gated=True,
        sources=(LITGPT, "its MODEL_CARD (parameters)"),
    ),
    CatalogueModel(
        name="llama3.2:3b",
        family="Llama 3.2",
        repository="meta-llama/Llama-3.2-3B-Instruct",
        shape=ModelShape(28, 3072, 24, 8, 128, 8192, 128256, 131072, is_tied=True),
        parameters=3.21e9,
        licence="Llama 3.2 Community License",
        is_gated=True,
        also=("llama3.2",),
        sources=(LITGPT, "its MODEL_CARD (parameters)"),
    ),
    CatalogueModel(
        name="llama3.3:70b",
        family="Llama 3.3",
        repository="meta-llama/Llama-3.3-70B-Instruct",
        shape=_LLAMA_70B,
        parameters=70.6e9,
        licence="Llama 3.3 Community License",
        is_gated=True,
        quantized={"awq": "casperhansen/llama-3.3-70b-instruct-awq"},
        also=("llama3.3",),
        sources=(LITGPT,),
        unverified="the name of the quantised repository",
    ),
    CatalogueModel(
        name="mistral:7b",
        family="Mistral",
        repository="mistralai/Mistral-7B-Instruct-v0.3",
        shape=ModelShape(32, 4096, 32, 8, 128, 14336, 32768, 32768),
        parameters=7.25e9,
        licence="Apache 2.0",
        is_gated=True,
        also=("mistral",),
        sources=(LITGPT, _TRANSFORMERS),
        unverified=_MISTRAL_GATE,
    ),
    CatalogueModel(
        name="mistral-small:24b",
        family="Mistral Small",
        repository="mistralai/Mistral-Small-24B-Instruct-2501",
        shape=ModelShape(40, 5120, 32, 8, 128, 32768, 131072, 32768),
        parameters=23.6e9,
        licence="Apache 2.0",
        is_gated=True,
        also=("mistral-small",),
        sources=("text_config of a mistral3 checkpoint of that width in public code", "its model card (context)"),
        unverified="that 3.1's text_config, which was read, has the dimensions of 2501; gating",
    ),
    CatalogueModel(
        name="mixtral:8x7b",
        family="Mixtral",
        repository="mistralai/Mixtral-8x7B-Instruct-v0.1",
        shape=ModelShape(32, 4096, 32, 8, 128, 14336, 32000, 32768, experts=Experts(8, 2, 14336)),
        parameters=46.7e9,
        licence="Apache 2.0",
        is_gated=True,
        also=("mixtral",),
        sources=(LITGPT, _TRANSFORMERS),
        unverified=_MISTRAL_GATE,
    ),
    CatalogueModel(
        name="mixtral:8x22b",
        family="Mixtral",
        repository="mistralai/Mixtral-8x22B-Instruct-v0.1",
        shape=ModelShape(56, 6144, 48, 8, 128, 16384, 32768, 65536, experts=Experts(8, 2, 16384)),
        parameters=141e9,
        licence="Apache 2.0",
        is_gated=True,
        sources=(LITGPT,),
        unverified=_MISTRAL_GATE,
    ),
)
