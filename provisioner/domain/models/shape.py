"""The dimensions of a language model, as far as memory depends on them; pure values.

They are what a ``config.json`` or the header of a GGUF file says. Everything
that `fit` computes follows from them: the number of weights by kind, and what
one token of context leaves in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture of experts: all of them are resident, a few work on each token.

    Attributes:
        count: routed experts per layer.
        active: how many of them work on one token.
        feed_forward: the inner width of one expert.
        shared_feed_forward: the inner width of the experts that work on every token; 0 for none.
        dense_layers: how many of the first layers have an ordinary feed-forward instead.
    """

    count: int
    active: int
    feed_forward: int
    shared_feed_forward: int = 0
    dense_layers: int = 0


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (MLA): the cache holds one small vector per token and layer for all heads."""

    kv_rank: int
    rope_width: int
    nope_width: int
    value_width: int
    query_rank: int = 0
    """0: the query is projected in one step."""

    @property
    def cached_width(self) -> int:
        """Numbers per token and layer in the cache."""
        return self.kv_rank + self.rope_width


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """`layers` of the layers look back only `tokens` tokens, the others over the whole context."""

    tokens: int
    layers: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """One model's dimensions.

    Attributes:
        layers: transformer blocks.
        width: numbers per token between blocks (hidden size).
        heads: attention heads.
        kv_heads: heads whose keys and values are cached.
        head_width: numbers per head.
        feed_forward: inner width of the feed-forward.
        vocabulary: rows of the embedding.
        context: the longest context it was made for, in tokens; 0 where nobody says.
        is_tied: the output uses the embedding's weights.
        has_attention_bias: query, key and value have a bias each.
        is_gated: the feed-forward has three matrices (SwiGLU), not two.
        norms: normalisations of full width per layer.
        normalises_heads: query and key heads are normalised.
        other_weights: vision tower and the like; always kept at 16 bits.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    context: int
    is_tied: bool = False
    has_attention_bias: bool = False
    is_gated: bool = True
    norms: int = 2
    normalises_heads: bool = False
    experts: Experts | None = None
    latent: LatentAttention | None = None
    window: SlidingWindow | None = None
    other_weights: int = 0

    @property
    def dense_layers(self) -> int:
        """Layers with an ordinary feed-forward."""
        return self.layers if self.experts is None else self.experts.dense_layers

    @property
    def expert_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """How many weights of each kind a model has; the kinds are what quantisations tell apart.

    Those of the blocks are per layer. `loose` is what stays at 32 bits in a
    quantised file: normalisations, biases, the router of experts.
    """

    embedding: int
    output: int
    query: int
    key: int
    value: int
    attention_output: int
    latent: int
    dense_up: int
    dense_down: int
    expert_up: int
    expert_down: int
    loose: int
    other: int


def weight_counts(shape: ModelShape) -> WeightCounts:
    """Count a model's weights by kind."""
    d, matrices = shape.width, 2 if shape.is_gated else 1
    embedding = shape.vocabulary * d
    latent = shape.latent
    if latent is None:
        query, key = d * shape.heads * shape.head_width, d * shape.kv_heads * shape.head_width
        value, out, squeezed = key, query, 0
    else:
        query_width = shape.heads * (latent.nope_width + latent.rope_width)
        query = latent.query_rank * (d + query_width) if latent.query_rank else d * query_width
        squeezed = d * latent.cached_width + latent.kv_rank * shape.heads * (latent.nope_width + latent.value_width)
        key = value = 0
        out = shape.heads * latent.value_width * d
    experts = shape.experts
    expert_rows = 0 if experts is None else experts.count * experts.feed_forward + experts.shared_feed_forward
    bias = (shape.heads + 2 * shape.kv_heads) * shape.head_width if shape.has_attention_bias else 0
    head_norms = 2 * shape.head_width if shape.normalises_heads else 0
    router = 0 if experts is None else d * experts.count * shape.expert_layers
    return WeightCounts(
        embedding=embedding,
        output=0 if shape.is_tied else embedding,
        query=query,
        key=key,
        value=value,
        attention_output=out,
        latent=squeezed,
        dense_up=matrices * d * shape.feed_forward,
        dense_down=d * shape.feed_forward,
        expert_up=matrices * d * expert_rows,
        expert_down=d * expert_rows,
        loose=shape.layers * (shape.norms * d + bias + head_norms) + d + router,
        other=shape.other_weights,
    )


def parameters(shape: ModelShape) -> int:
    """Return how many weights a model has."""
    each = weight_counts(shape)
    attention = each.query + each.key + each.value + each.attention_output + each.latent
    return (
        each.embedding
        + each.output
        + shape.layers * attention
        + shape.dense_layers * (each.dense_up + each.dense_down)
        + shape.expert_layers * (each.expert_up + each.expert_down)
        + each.loose
        + each.other
    )


_MOST_LAYERS, _WIDEST = 4096, 1 << 26


def implausible(shape: ModelShape) -> str:
    """Say what about a shape cannot be, where it comes from a file; empty when nothing is."""
    numbers = {
        "layers": (shape.layers, _MOST_LAYERS),
        "hidden size": (shape.width, _WIDEST),
        "attention heads": (shape.heads, shape.width),
        "key-value heads": (shape.kv_heads, shape.heads),
        "head size": (shape.head_width, _WIDEST),
        "feed-forward": (shape.feed_forward + 1, _WIDEST),
        "vocabulary": (shape.vocabulary, _WIDEST),
    }
    if shape.experts is not None:
        numbers["experts"] = (shape.experts.count, _WIDEST)
        numbers["layers without experts"] = (shape.experts.dense_layers + 1, shape.layers + 1)
    for name, (found, most) in numbers.items():
        if not 1 <= found <= most:
            return f"{name}: {found}"
    return ""
