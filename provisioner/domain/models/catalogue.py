"""The models that `fit` knows by name, and how a name is understood.

One model goes by many names: Ollama's (``llama3.1:8b``), its repository's, a
quantised repository's, a file's. All of them lead to one entry, and often say
the quantisation as well.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from provisioner.domain.models.llamas import LLAMAS
from provisioner.domain.models.model import CatalogueModel
from provisioner.domain.models.others import OTHERS
from provisioner.domain.models.qwens import QWENS

MODELS: tuple[CatalogueModel, ...] = (*LLAMAS, *QWENS, *OTHERS)

# What a name may carry behind the model's own name.
_GGUF_QUANT = r"(?:i?q[2-8]_(?:k_[sml]|k|[01]|xs|nl)|f16|bf16|f32|fp16|mxfp4)"
_QUANTS = (
    (r"gptq[-_]?int8|int8[-_]gptq", "gptq-int8"),
    (r"gptq(?:[-_]?int4)?", "gptq"),
    (r"awq(?:[-_]?int4)?", "awq"),
    (r"fp8(?:[-_]dynamic|[-_]kv)?|quantized\.w8a8|w8a8", "fp8"),
    (r"int8", "int8"),
    (r"bnb[-_]4bit", "bitsandbytes"),
)
_OTHER_WORDS = r"(?:instruct|it|chat|gguf|hf|latest|text|qat|(?:v\d+(?:\.\d+)?)|\d{4}|4k|128k)"


@dataclass(frozen=True, slots=True)
class Named:
    """An entry, and the quantisation that the name asked for; empty when it said none.

    `is_ollama` tells that the name is one of Ollama's, whose default is Q4_K_M.
    """

    model: CatalogueModel
    quantization: str
    is_ollama: bool
    is_file: bool = False


def find_model(name: str) -> Named | None:
    """Return the entry that a name means, or None."""
    wanted = name.strip().lower().rstrip("/")
    is_file = wanted.endswith(".gguf")
    wanted = wanted.removesuffix(".gguf")
    exact = _EXACT.get(wanted)
    if exact is not None:
        model, quantization = exact
        return Named(model, quantization, is_ollama="/" not in wanted and not is_file, is_file=is_file)
    bare, quantization = _without_quantization(wanted.rsplit("/", 1)[-1])
    found = _EXACT.get(bare.removesuffix(":latest")) or _BY_KEY.get(_key(bare))
    if found is None:
        return None
    is_ollama = ":" in wanted and "/" not in wanted.split(":", 1)[0]
    return Named(found[0], quantization or found[1], is_ollama=is_ollama, is_file=is_file)


def near_names(name: str, count: int = 5) -> tuple[str, ...]:
    """Return the known names that look most like one that is not known."""
    wanted = name.lower().rsplit("/", 1)[-1]
    names = {key.rsplit("/", 1)[-1]: model.name for key, (model, _) in _EXACT.items()}
    close = difflib.get_close_matches(wanted, names, n=3 * count, cutoff=0.4)
    same_family = [each for each in names if wanted and each.startswith(re.split(r"[:\d-]", wanted)[0] or "?")]
    return tuple(dict.fromkeys(names[each] for each in (*close, *same_family)))[:count]


def _without_quantization(name: str) -> tuple[str, str]:
    found = re.search(rf"[-_.:]({_GGUF_QUANT})$", name)
    if found is not None:
        kind = {"fp16": "f16"}.get(found[1], found[1])
        return name[: found.start()], kind
    for pattern, kind in _QUANTS:
        match = re.search(rf"[-_.](?:{pattern})$", name)
        if match is not None:
            return name[: match.start()], kind
    return name, ""


def _key(name: str) -> str:
    """What is left of a name without its manners: ``Meta-Llama-3.1-8B-Instruct`` and ``llama3.1:8b`` are one."""
    words = re.sub(r"^(?:meta|google|qwen|deepseek-ai|mistralai)[-_](?=[a-z])", "", name)
    while (short := re.sub(rf"[-_.:]{_OTHER_WORDS}$", "", words)) != words:
        words = short
    return re.sub(r"[^a-z0-9.]", "", words)


def _exact() -> dict[str, tuple[CatalogueModel, str]]:
    table: dict[str, tuple[CatalogueModel, str]] = {}
    for model in MODELS:
        for name in (model.name, model.repository, *model.also):
            table[name.lower()] = (model, "")
        for kind, repository in model.quantized.items():
            table[repository.lower()] = (model, kind)
    return table


_EXACT = _exact()
_BY_KEY = {_key(name.rsplit("/", 1)[-1]): (model, "") for name, (model, kind) in _EXACT.items() if not kind}
