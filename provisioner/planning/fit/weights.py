"""How many bytes a model's weights take in each quantisation. Pure.

A quantisation is a recipe, not a number of bits: llama.cpp's mixtures give some
tensors more bits than others, and AWQ or GPTQ leave embedding and output alone.
So bytes are added up kind by kind. The mixtures follow the rules of llama.cpp's
quantiser (src/llama-quant.cpp), the bits per weight its block sizes
(gguf-py/gguf/constants.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioner.domain.models.shape import ModelShape, weight_counts

_BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 8.5,
    "q6_k": 6.5625,
    "q5_k": 5.5,
    "q5_0": 5.5,
    "q5_1": 6.0,
    "q4_k": 4.5,
    "q4_0": 4.5,
    "q4_1": 5.0,
    "iq4_xs": 4.25,
    "iq4_nl": 4.5,
    "q3_k": 3.4375,
    "q2_k": 2.625,
    "mxfp4": 4.25,
}
# Super-blocks of 256 weights do not divide every row; then the quantiser takes the next type in blocks of 32.
_IN_BLOCKS_OF_32 = {
    "q2_k": "q4_0",
    "q3_k": "iq4_nl",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
    "iq4_xs": "iq4_nl",
}
_SUPER_BLOCK = 256
_LAYERS_OF_70B = 80

Rules = tuple[tuple[str, str], ...]
"""Pairs of (which layers, type); the first pair that speaks of a layer decides. The rest have the base type."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """One of llama.cpp's file types."""

    base: str
    output: str = "q6_k"
    value: Rules = ()
    attention_output: Rules = ()
    down: Rules = ()


_MORE = (("more", "q6_k"),)
GGUF: Mapping[str, Mixture] = {
    "q8_0": Mixture("q8_0", "q8_0"),
    "q6_k": Mixture("q6_k"),
    "q5_k_m": Mixture("q5_k", value=_MORE, down=_MORE),
    "q5_k_s": Mixture("q5_k"),
    "q5_0": Mixture("q5_0"),
    "q4_k_m": Mixture("q4_k", value=_MORE, down=_MORE),
    "q4_k_s": Mixture("q4_k", value=(("first 4", "q5_k"),), down=(("first eighth", "q5_k"),)),
    "q4_1": Mixture("q4_1"),
    "q4_0": Mixture("q4_0"),
    "iq4_xs": Mixture("iq4_xs", value=(("all", "q5_k"),), down=(("first eighth", "q5_k"),)),
    "q3_k_l": Mixture("q3_k", value=(("all", "q5_k"),), attention_output=(("all", "q5_k"),), down=(("all", "q5_k"),)),
    "q3_k_m": Mixture(
        "q3_k",
        value=(("first 2", "q5_k"), ("all", "q4_k")),
        attention_output=(("all", "q4_k"),),
        down=(("first sixteenth", "q5_k"), ("all", "q4_k")),
    ),
    "q3_k_s": Mixture("q3_k"),
    "q2_k": Mixture("q2_k", value=(("all", "q4_k"),), attention_output=(("all", "q3_k"),), down=(("all", "q3_k"),)),
    "f16": Mixture("f16", "f16"),
    "bf16": Mixture("bf16", "bf16"),
    "f32": Mixture("f32", "f32"),
}
"""What llama.cpp and Ollama serve. Files made with an importance matrix may differ by a few per cent."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A quantisation of Hugging Face weights: the blocks' matrices in `bits`, the rest in 16.

    `experts_only` leaves attention at 16 bits too.
    """

    bits: float
    experts_only: bool = False


# Groups of 128 share a 16-bit scale and a zero point of the weights' own width (AutoAWQ's and GPTQ's default).
# fp8 and int8 have one scale per row or per block of 128 x 128: below a thousandth. bitsandbytes keeps one 32-bit
# maximum per 64 weights. MXFP4: 17 bytes per 32 weights.
SAFETENSORS: Mapping[str, Linear] = {
    "fp32": Linear(32.0),
    "bf16": Linear(16.0),
    "fp16": Linear(16.0),
    "fp8": Linear(8.0),
    "int8": Linear(8.0),
    "gptq-int8": Linear(8 + 24 / 128),
    "awq": Linear(4 + 20 / 128),
    "gptq": Linear(4 + 20 / 128),
    "bitsandbytes": Linear(4.5),
    "mxfp4": Linear(4.25, experts_only=True),
}
"""What vLLM and TGI serve."""


@dataclass(frozen=True, slots=True)
class Part:
    """The weights of one kind: for the arithmetic that is shown."""

    name: str
    weights: int
    bytes: float


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """All parts of a model's weights."""

    parts: tuple[Part, ...] = field(default=())

    @property
    def total(self) -> int:
        """All bytes together."""
        return round(sum(part.bytes for part in self.parts))


def weight_bytes(shape: ModelShape, quantization: str, *, in_gguf: bool) -> WeightBytes:
    """Return the bytes of a model's weights, kind by kind.

    Args:
        shape: the model's dimensions.
        quantization: a key of `GGUF` or of `SAFETENSORS`, or ``mxfp4``, which both know.
        in_gguf: whether they come as a GGUF file; ``mxfp4`` then has its attention at 8 bits.

    Raises:
        KeyError: that form has no such quantisation.
    """
    if not in_gguf:
        return _linear(shape, SAFETENSORS[quantization])
    if quantization == "mxfp4":
        return _mixture(shape, Mixture("q8_0", "q8_0"), experts="mxfp4")
    return _mixture(shape, GGUF[quantization])


def layers_with(rule: str, layers: int) -> range | list[int]:
    """Return the layers that a rule speaks of; ``more`` is the quantiser's own spread over the model."""
    eighth = layers // 8
    if rule == "all":
        return range(layers)
    if rule == "more":
        return [i for i in range(layers) if i < eighth or i >= 7 * layers // 8 or (i - eighth) % 3 == 2]
    shares = {"first 2": 2, "first 4": 4, "first eighth": eighth, "first sixteenth": layers // 16}
    return range(min(layers, shares[rule]))


def _linear(shape: ModelShape, quant: Linear) -> WeightBytes:
    each = weight_counts(shape)
    wide = 4.0 if quant.bits == 32 else 2.0
    attention = each.query + each.key + each.value + each.attention_output + each.latent
    dense, experts = each.dense_up + each.dense_down, each.expert_up + each.expert_down
    narrow = quant.bits / 8
    other = wide if quant.experts_only else narrow
    return _parts(
        ("embedding and output", each.embedding + each.output, wide),
        ("attention", shape.layers * attention, other),
        ("feed-forward", shape.dense_layers * dense, other),
        ("experts", shape.expert_layers * experts, narrow),
        ("normalisations, biases, router", each.loose, wide),
        ("vision and other", each.other, 2.0),
    )


def _mixture(shape: ModelShape, mixture: Mixture, experts: str | None = None) -> WeightBytes:
    each = weight_counts(shape)
    base = mixture.base
    # With eight experts, attention is so small beside them that the quantiser keeps its keys and values at 8 bits.
    few = shape.experts is not None and shape.experts.count == 8 and base not in ("f16", "bf16", "f32")
    attention_output = (("all", "q5_k"),) if few and base in ("q2_k", "q3_k", "q4_k") else mixture.attention_output
    value = (("all", "q8_0"),) if few else mixture.value
    if shape.layers == _LAYERS_OF_70B and base in ("q3_k", "q4_k") and not few:
        # Eight query heads share these values: cheap to keep better, says the quantiser.
        value = (*value, ("all", "q5_k"))
    key = (("all", "q8_0"),) if few else ()
    rows, inner = shape.width, shape.heads * shape.head_width
    expert_rows = shape.experts.feed_forward if shape.experts else rows
    width = [
        ("embedding", each.embedding, _bytes(mixture.output if shape.is_tied else base, rows)),
        ("output", each.output, _bytes(mixture.output, rows)),
    ]
    loose = 2.0 if base in ("f16", "bf16") else 4.0
    attention = (
        shape.layers * (each.query + each.latent) * _bytes(base, rows)
        + _by_layer(key, base, shape.layers, rows) * each.key
        + _by_layer(value, base, shape.layers, rows) * each.value
        + _by_layer(attention_output, base, shape.layers, inner) * each.attention_output
    )
    per_layer = each.query + each.latent + each.key + each.value + each.attention_output
    down = _by_layer(mixture.down, base, shape.layers, shape.feed_forward) / max(1, shape.layers)
    dense = shape.dense_layers * (each.dense_up * _bytes(base, rows) + each.dense_down * down)
    expert_base = experts or base
    expert_down = (
        _bytes(expert_base, expert_rows)
        if experts
        else _by_layer(mixture.down, base, shape.layers, expert_rows) / max(1, shape.layers)
    )
    mixed = shape.expert_layers * (each.expert_up * _bytes(expert_base, rows) + each.expert_down * expert_down)
    parts = [Part(name, count, count * wide) for name, count, wide in width]
    parts += [
        Part("attention", shape.layers * per_layer, attention),
        Part("feed-forward", shape.dense_layers * (each.dense_up + each.dense_down), dense),
        Part("experts", shape.expert_layers * (each.expert_up + each.expert_down), mixed),
        Part("normalisations, biases, router", each.loose, each.loose * loose),
        Part("vision and other", each.other, each.other * 2.0),
    ]
    return WeightBytes(tuple(part for part in parts if part.weights))


def _by_layer(rules: Rules, base: str, layers: int, row: int) -> float:
    """Bytes per weight, added up over all layers."""
    left, total = set(range(layers)), 0.0
    for rule, kind in rules:
        chosen = left.intersection(layers_with(rule, layers))
        total += len(chosen) * _bytes(kind, row)
        left -= chosen
    return total + len(left) * _bytes(base, row)


def _bytes(kind: str, row: int) -> float:
    if row % _SUPER_BLOCK:
        kind = _IN_BLOCKS_OF_32.get(kind, kind)
    return _BITS[kind] / 8


def _parts(*rows: tuple[str, int, float]) -> WeightBytes:
    return WeightBytes(tuple(Part(name, count, count * each) for name, count, each in rows if count))
