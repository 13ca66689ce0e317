"""How many bytes the keys and values of a context take. Pure.

Standard attention keeps two vectors per cached head, layer and token; MLA one
small vector per layer and token. Layers with a sliding window stop growing
there, and each engine rounds that up in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from provisioner.domain.models.shape import ModelShape

KV_BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "fp8": 8.0,
    "fp8_e4m3": 8.0,
    "fp8_e4m3fn": 8.0,
    "fp8_e5m2": 8.0,
    "q8_0": 8.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "iq4_nl": 4.5,
    "q4_0": 4.5,
}
"""Bits per cached number; those of llama.cpp by its block sizes (gguf-py/gguf/constants.py)."""


class Cells(Enum):
    """How an engine deals out the cache."""

    UNIFORM = "uniform"
    """llama.cpp: in steps of 256 tokens; a window keeps its tokens and one batch (llama-kv-cache-iswa.cpp)."""
    PAGED = "paged"
    """vLLM and TGI: in blocks of 16 tokens; a window keeps its tokens, one batch and a block
    (vLLM's SlidingWindowSpec)."""


_STEP = {Cells.UNIFORM: 256, Cells.PAGED: 16}


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """What is to be cached: `context` tokens for each of `parallel` requests, in `dtype`.

    `batch` is how many tokens the engine computes at once.
    """

    context: int
    parallel: int
    dtype: str
    cells: Cells
    batch: int


def layer_bytes_per_token(shape: ModelShape, dtype: str, tensor: int = 1) -> float:
    """Return what one token leaves in one layer on one of `tensor` GPUs.

    Heads are dealt out; where there are fewer heads than GPUs each GPU has one
    whole head. MLA's vector serves all heads, so every GPU keeps all of it.
    """
    numbers = (
        shape.latent.cached_width if shape.latent is not None else 2 * -(-shape.kv_heads // tensor) * shape.head_width
    )
    return numbers * KV_BITS[dtype] / 8


def bytes_per_token(shape: ModelShape, dtype: str) -> int:
    """Return what one token leaves in all layers, before any sliding window sets in."""
    return round(shape.layers * layer_bytes_per_token(shape, dtype))


def cache_bytes(shape: ModelShape, request: CacheRequest, tensor: int = 1) -> int:
    """Return what the whole cache takes on one of `tensor` GPUs that share each layer."""
    step = _STEP[request.cells]
    each = layer_bytes_per_token(shape, request.dtype, tensor)
    whole = _up(request.context, step)
    if shape.window is None:
        return round(shape.layers * whole * request.parallel * each)
    extra = step if request.cells is Cells.PAGED else 0
    short = min(whole, _up(shape.window.tokens + request.batch, step) + extra)
    tokens = (shape.layers - shape.window.layers) * whole + shape.window.layers * short
    return round(tokens * request.parallel * each)


def _up(tokens: int, step: int) -> int:
    return -(-tokens // step) * step
