"""From the header of a GGUF file to a model's shape and exact bytes; a file in parts is read in all its parts."""

from __future__ import annotations

import re
from pathlib import Path

from provisioner.adapters.files.models.gguf_header import GgufHeader, damaged, read_header
from provisioner.domain.models.model import Subject
from provisioner.domain.models.shape import Experts, LatentAttention, ModelShape, SlidingWindow, implausible
from provisioner.errors import InputError

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_MOST_PARTS = 512

# general.file_type: the llama_ftype of include/llama.h.
_FILE_TYPES = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    7: "q8_0",
    8: "q5_0",
    9: "q5_1",
    10: "q2_k",
    11: "q3_k_s",
    12: "q3_k_m",
    13: "q3_k_l",
    14: "q4_k_s",
    15: "q4_k_m",
    16: "q5_k_s",
    17: "q5_k_m",
    18: "q6_k",
    25: "iq4_nl",
    30: "iq4_xs",
    32: "bf16",
    38: "mxfp4",
}
SLIDING_PERIODS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "gpt_oss": 2, "cohere2": 4}
"""Every so-manieth layer looks at the whole context, the others have a window (llama.cpp, set_swa_pattern)."""
_FOUR_NORMS = ("gemma2", "gemma3")
_HEAD_NORMS = ("qwen3", "qwen3moe", "gemma3")


def read_gguf(path: Path, name: str) -> Subject:
    """Read a model from a GGUF file. Raises InputError, OSError."""
    headers = [read_header(part) for part in _parts(path)]
    first = headers[0]
    kind = first.values.get("general.file_type")
    many = f" in {len(headers)} files" if len(headers) > 1 else ""
    shape = _shape(first, headers, path)
    if what := implausible(shape):
        raise damaged(path, f"no model has {what}")
    return Subject(
        name=name,
        shape=shape,
        quantization=_FILE_TYPES.get(kind, f"type {kind}") if isinstance(kind, int) else "gguf",
        weights_bytes=sum(header.tensor_bytes for header in headers),
        is_measured=True,
        origin=f"{sum(len(header.tensors) for header in headers)} tensors read from the header{many}",
    )


def _parts(path: Path) -> list[Path]:
    found = _PART.search(path.name)
    if found is None:
        return [path]
    count = int(found[2])
    if not 1 <= count <= _MOST_PARTS:
        raise damaged(path, f"its name promises {count} parts")
    names = [path.with_name(f"{path.name[: found.start()]}-{at:05}-of-{found[2]}.gguf") for at in range(1, count + 1)]
    missing = [each.name for each in names if not each.is_file()]
    if missing:
        raise InputError(
            f"cannot read the whole model: {len(missing)} of its {count} parts are missing, the first is {missing[0]}",
            subject=str(path),
            next_step="download all parts into one folder",
        )
    return names


def _shape(header: GgufHeader, headers: list[GgufHeader], path: Path) -> ModelShape:
    architecture = header.values.get("general.architecture")
    if not isinstance(architecture, str):
        raise damaged(path, "general.architecture is missing")
    read = _Values(header, architecture, path)
    layers, width = read.needed("block_count"), read.needed("embedding_length")
    heads = read.needed("attention.head_count")
    head_width = read.number("attention.key_length") or width // heads
    tensors = {tensor.name: tensor for each in headers for tensor in each.tensors}
    embedding = tensors.get("token_embd.weight")
    vocabulary = read.number("vocab_size") or header.lengths.get("tokenizer.ggml.tokens", 0)
    if embedding is not None and len(embedding.dimensions) == 2:
        vocabulary = embedding.dimensions[1]
    feed_forward = read.number("feed_forward_length")
    return ModelShape(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=read.number("attention.head_count_kv") or heads,
        head_width=head_width,
        feed_forward=feed_forward,
        vocabulary=vocabulary,
        context=read.number("context_length"),
        is_tied="output.weight" not in tensors,
        has_attention_bias="blk.0.attn_q.bias" in tensors,
        is_gated="blk.0.ffn_up.weight" not in tensors or "blk.0.ffn_gate.weight" in tensors,
        norms=4 if architecture in _FOUR_NORMS else 2,
        normalises_heads=architecture in _HEAD_NORMS,
        experts=_experts(read, feed_forward),
        latent=_latent(read),
        window=_window(read, architecture, layers),
    )


def _experts(read: _Values, feed_forward: int) -> Experts | None:
    count = read.number("expert_count")
    if not count:
        return None
    inner = read.number("expert_feed_forward_length") or feed_forward
    shared = read.number("expert_shared_feed_forward_length") or read.number("expert_shared_count") * inner
    return Experts(count, read.number("expert_used_count"), inner, shared, read.number("leading_dense_block_count"))


def _latent(read: _Values) -> LatentAttention | None:
    rank = read.number("attention.kv_lora_rank")
    if not rank:
        return None
    rope = read.number("rope.dimension_count")
    # Newer conversions write the cached widths as key_length, and the real ones with _mla.
    key = read.number("attention.key_length_mla") or read.number("attention.key_length")
    value = read.number("attention.value_length_mla") or read.number("attention.value_length")
    return LatentAttention(rank, rope, max(0, key - rope), value, read.number("attention.q_lora_rank"))


def _window(read: _Values, architecture: str, layers: int) -> SlidingWindow | None:
    tokens, period = read.number("attention.sliding_window"), SLIDING_PERIODS.get(architecture, 0)
    pattern = read.list("attention.sliding_window_pattern")
    sliding = sum(map(bool, pattern)) if pattern else layers - layers // period if period else 0
    return SlidingWindow(tokens, min(layers, sliding)) if tokens and sliding else None


class _Values:
    """The values of one architecture, as whole numbers."""

    def __init__(self, header: GgufHeader, architecture: str, path: Path) -> None:
        self._header, self._architecture, self._path = header, architecture, path

    def number(self, key: str) -> int:
        """Return a number, or 0; of a list with one per layer its mean, rounded up."""
        found = self._header.values.get(f"{self._architecture}.{key}", 0)
        if isinstance(found, tuple):
            return -(-sum(int(each) for each in found) // len(found)) if found else 0
        if isinstance(found, str) or not 0 <= found < 1 << 40:
            raise damaged(self._path, f"{self._architecture}.{key} is {str(found)[:40]}")
        return int(found)

    def list(self, key: str) -> tuple[int | float | bool, ...]:
        """Return a list, or nothing."""
        found = self._header.values.get(f"{self._architecture}.{key}")
        return found if isinstance(found, tuple) else ()

    def needed(self, key: str) -> int:
        """Return a number that must be there. Raises InputError."""
        found = self.number(key)
        if not found:
            raise damaged(self._path, f"{self._architecture}.{key} is missing; it is no language model that serves")
        return found
