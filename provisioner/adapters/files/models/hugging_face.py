"""From a ``config.json`` and the weights beside it to a model's shape and bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provisioner.adapters.files.models.gguf_model import SLIDING_PERIODS
from provisioner.domain.models.model import Subject
from provisioner.domain.models.shape import Experts, LatentAttention, ModelShape, SlidingWindow, implausible
from provisioner.errors import InputError
from provisioner.planning.fit.weights import SAFETENSORS, weight_bytes

_LARGEST_CONFIG = 4 << 20
_LARGEST_INDEX = 64 << 20
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_SIX_LAYER_MODELS = ("gemma3_text", "gemma3")
_LARGEST = 1 << 40


def read_config(path: Path, name: str) -> Subject:
    """Read a model from its ``config.json``. Raises InputError, OSError."""
    config = _json(path, _LARGEST_CONFIG)
    shape = _shape(config, path)
    if what := implausible(shape):
        raise _wrong(path, f"no model has {what}")
    quantization = _quantization(config)
    measured = _weights_beside(path)
    if measured is not None:
        count, origin = measured
        return Subject(name, shape, quantization, count, is_measured=True, origin=origin)
    count = weight_bytes(shape, quantization, in_gguf=False).total
    return Subject(name, shape, quantization, count, is_measured=False, origin="computed from config.json")


def _json(path: Path, largest: int) -> dict[str, Any]:
    if path.stat().st_size > largest:
        raise _wrong(path, f"it has {path.stat().st_size} bytes, more than any such file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _wrong(path, "it is no JSON object")
    return found


def _wrong(path: Path, what: str) -> InputError:
    return InputError(
        f"cannot read the model's {path.name}: {what}",
        subject=str(path),
        next_step="download it again; a config.json of a language model names num_hidden_layers and hidden_size",
    )


def _shape(config: Mapping[str, Any], path: Path) -> ModelShape:
    text = config.get("text_config")
    read = _Config(text if isinstance(text, dict) else config, path)
    kind = str(read.values.get("model_type", ""))
    layers = read.needed("num_hidden_layers", "n_layer")
    width, heads = read.needed("hidden_size", "n_embd"), read.needed("num_attention_heads", "n_head")
    feed_forward = read.number("intermediate_size", "n_inner")
    tied = read.values.get("tie_word_embeddings", config.get("tie_word_embeddings", kind.startswith(("gemma", "gpt2"))))
    return ModelShape(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=read.number("num_key_value_heads") or heads,
        head_width=read.number("head_dim") or width // heads,
        feed_forward=feed_forward or 4 * width,
        vocabulary=read.needed("vocab_size"),
        context=read.number("max_position_embeddings", "n_positions", "n_ctx"),
        is_tied=bool(tied),
        has_attention_bias=kind.startswith("qwen2") or bool(read.values.get("attention_bias")),
        is_gated=kind not in ("gpt2", "opt", "gpt_neox", "bloom", "phi", "starcoder2"),
        norms=4 if kind.startswith(("gemma2", "gemma3")) else 2,
        normalises_heads=kind.startswith(("qwen3", "gemma3")),
        experts=_experts(read, feed_forward),
        latent=_latent(read),
        window=_window(read, kind, layers),
    )


def _experts(read: _Config, feed_forward: int) -> Experts | None:
    count = read.number("n_routed_experts", "num_local_experts", "num_experts")
    if count < 2:
        return None
    inner = read.number("moe_intermediate_size") or feed_forward
    shared = read.number("shared_expert_intermediate_size") or read.number("n_shared_experts") * inner
    active = read.number("num_experts_per_tok", "experts_per_token") or 1
    return Experts(count, active, inner, shared, read.number("first_k_dense_replace"))


def _latent(read: _Config) -> LatentAttention | None:
    rank = read.number("kv_lora_rank")
    if not rank:
        return None
    return LatentAttention(
        kv_rank=rank,
        rope_width=read.number("qk_rope_head_dim"),
        nope_width=read.number("qk_nope_head_dim"),
        value_width=read.number("v_head_dim"),
        query_rank=read.number("q_lora_rank"),
    )


def _window(read: _Config, kind: str, layers: int) -> SlidingWindow | None:
    tokens = read.number("sliding_window")
    if not tokens or read.values.get("use_sliding_window") is False:
        return None
    types = read.values.get("layer_types")
    if isinstance(types, list):
        sliding = sum(each == "sliding_attention" for each in types)
    elif kind == "mistral":
        sliding = layers
    else:
        period = read.number("sliding_window_pattern")
        period = period or (6 if kind in _SIX_LAYER_MODELS else SLIDING_PERIODS.get(kind, 0))
        sliding = layers - layers // period if period else 0
    return SlidingWindow(tokens, min(sliding, layers)) if sliding else None


def _quantization(config: Mapping[str, Any]) -> str:
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        text = config.get("text_config")
        inner = text if isinstance(text, dict) else {}
        dtype = config.get("dtype") or config.get("torch_dtype") or inner.get("dtype") or inner.get("torch_dtype")
        return _DTYPES.get(str(dtype), "bf16")
    method, bits = str(found.get("quant_method", "")), found.get("bits")
    if method == "gptq" and bits == 8:
        return "gptq-int8"
    if method == "compressed-tensors":
        text = json.dumps(found.get("config_groups", {}))
        return "gptq" if '"num_bits": 4' in text else "fp8"
    return method if method in SAFETENSORS else "fp8" if "fp8" in method else "bf16"


def _weights_beside(path: Path) -> tuple[int, str] | None:
    """Add up the weights that lie beside the configuration, or take the index's word for them."""
    index = path.with_name("model.safetensors.index.json")
    names: set[str] = set()
    promised = 0
    if index.is_file():
        content = _json(index, _LARGEST_INDEX)
        listed, metadata = content.get("weight_map"), content.get("metadata")
        names = {str(each) for each in listed.values()} if isinstance(listed, dict) else set()
        total = metadata.get("total_size") if isinstance(metadata, dict) else None
        promised = int(total) if isinstance(total, (int, float)) and 0 < total < _LARGEST * 1024 else 0
    # A file named by an index is looked for beside it and nowhere else.
    files = [path.with_name(Path(each).name) for each in sorted(names)] or sorted(path.parent.glob("*.safetensors"))
    there = [each for each in files if each.is_file()]
    if files and len(there) == len(files):
        return sum(_data_bytes(each) for each in there), f"read from {len(there)} safetensors files"
    return (promised, "total_size of model.safetensors.index.json") if promised else None


def _data_bytes(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
    header = struct.unpack("<Q", head)[0] if len(head) == 8 else size
    if 8 + header > size:
        raise InputError(
            f"cannot read the weights: {path.name} is cut short, or a Git LFS pointer ({size} bytes)",
            subject=str(path),
            next_step="download it again",
        )
    return size - 8 - int(header)


class _Config:
    """Whole numbers out of a configuration."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self._path = values, path

    def number(self, *keys: str) -> int:
        """Return the first of these that is there, or 0. Raises InputError for what is no number."""
        for key in keys:
            found = self.values.get(key)
            if found is None:
                continue
            if isinstance(found, list) and found and all(isinstance(each, int) for each in found):
                found = -(-sum(found) // len(found))
            if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < _LARGEST:
                raise _wrong(self._path, f"{key} is {json.dumps(found)[:60]}")
            return int(found)
        return 0

    def needed(self, *keys: str) -> int:
        """Return the first of these. Raises InputError when none is there."""
        found = self.number(*keys)
        if not found:
            raise _wrong(self._path, f"{keys[0]} is missing")
        return found
