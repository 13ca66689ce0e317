"""Writes a tiny but real language model: llama architecture, random weights, GGUF.

llama-server loads it, tokenizes, runs attention and samples; only its answers
are nonsense, made of readable pseudo-words. The same seed gives the same bytes.

How the answers stay readable: hidden dimension 0 is a constant that every
token's embedding carries; in the output matrix the rows of control and byte
tokens hold a negative weight there, so sampling yields words and, now and then,
the end of the answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from provisioner.lab.images import store
from provisioner.lab.images.store import Artifact

MODEL_FILE = "tiny.gguf"

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)

_SPACE = "\u2581"
_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"()[]{}-_/\\+*=<>#@%&|~$^`"
_SYLLABLES = (("ba", "de", "fi", "go", "lu", "ma", "ne", "ri"), ("ka", "lo", "mi", "nu", "sa", "te", "vo", "zi"))
_ENGLISH = "the a is of and to in you are hello world user assistant system"

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of the model; `pad_mib` widens it to fill a bigger file."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 128
    context: int = 2048
    seed: int = 1
    pad_mib: int = 0

    @property
    def head_width(self) -> int:
        """Numbers per attention head."""
        return self.width // self.heads

    @property
    def padded_feed_forward(self) -> int:
        """The width of the feed-forward layers, grown until they fill `pad_mib`."""
        bytes_per_column = self.layers * 3 * self.width * 4
        return self.feed_forward + (self.pad_mib << 20) // bytes_per_column // 32 * 32


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text in the vocabulary, how well it scores in merging, and its kind."""

    text: str
    score: float
    kind: int


def ensure_tiny_model(cache_dir: Path | None = None) -> Artifact:
    """Return the tiny model, writing it (a quarter of a second) when the cache has none."""
    shape = Shape()
    key = store.recipe_key({"shape": repr(shape), "template": CHAT_TEMPLATE, "weights": 1})
    cache = cache_dir or store.default_cache_dir()
    folder = store.obtain(
        cache, "tiny-model", key, lambda work: write_model(work / MODEL_FILE, shape), lambda _line: None
    )
    path = folder / MODEL_FILE
    return Artifact(path=path, sha256=store.sha256_of(path), version=f"seed-{shape.seed}")


def write_model(path: Path, shape: Shape | None = None) -> None:
    """Write a model of the given shape."""
    shape = shape or Shape()
    tokens, words = vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, shape, tokens)
    for name, tensor in tensors(shape, tokens, words):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary() -> tuple[list[Token], frozenset[str]]:
    """Return a SentencePiece vocabulary (control, bytes, characters, words) and which of it are whole words."""
    kinds = gguf.TokenType
    tokens = [Token("<unk>", 0.0, kinds.UNKNOWN), Token("<s>", 0.0, kinds.CONTROL), Token("</s>", 0.0, kinds.CONTROL)]
    tokens += [Token(f"<0x{byte:02X}>", 0.0, kinds.BYTE) for byte in range(256)]
    words = [_SPACE + "".join(pair) for pair in itertools.product(*_SYLLABLES)]
    words += [_SPACE + word for word in _ENGLISH.split()]
    # The tokenizer merges only neighbours that form a token, so every prefix of a word must be one.
    prefixes = {word[:length] for word in words for length in range(2, len(word) + 1)}
    pieces = [_SPACE, *_CHARACTERS, *sorted(prefixes, key=lambda piece: (len(piece), piece))]
    # A longer piece scores better, so that words win over their letters.
    tokens += [Token(piece, len(piece) - 20.0, kinds.NORMAL) for piece in dict.fromkeys(pieces)]
    return tokens, frozenset(words)


def tensors(shape: Shape, tokens: list[Token], words: frozenset[str]) -> Iterator[tuple[str, Matrix]]:
    """Yield the named weights, drawn in a fixed order from one seeded generator."""
    chance = np.random.default_rng(shape.seed)

    def draw(rows: int, columns: int, scale: float | None = None) -> Matrix:
        return chance.normal(0.0, scale or columns**-0.5, (rows, columns)).astype(np.float32)

    embedding = draw(len(tokens), shape.width, 1.0)
    embedding[:, 0] = 4.0  # the constant dimension
    output = draw(len(tokens), shape.width, 0.25)
    output[:, 0] = [0.0 if token.text in words else -8.0 for token in tokens]
    output[2, 0] = -0.6  # the end of the answer: seldom, but it comes
    ones = np.ones(shape.width, np.float32)
    yield "token_embd.weight", embedding
    yield "output_norm.weight", ones
    yield "output.weight", output
    wide, kv_width = shape.padded_feed_forward, shape.kv_heads * shape.head_width
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", ones
        yield block + "attn_q.weight", draw(shape.width, shape.width)
        yield block + "attn_k.weight", draw(kv_width, shape.width)
        yield block + "attn_v.weight", draw(kv_width, shape.width)
        attention_out, down = draw(shape.width, shape.width), draw(shape.width, wide)
        attention_out[0, :] = down[0, :] = 0.0  # nothing writes into the constant dimension
        yield block + "attn_output.weight", attention_out
        yield block + "ffn_norm.weight", ones
        yield block + "ffn_gate.weight", draw(wide, shape.width)
        yield block + "ffn_up.weight", draw(wide, shape.width)
        yield block + "ffn_down.weight", down


def _describe(writer: gguf.GGUFWriter, shape: Shape, tokens: list[Token]) -> None:
    writer.add_name("tiny-random-llama")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.padded_feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.text for token in tokens])
    writer.add_token_scores([token.score for token in tokens])
    writer.add_token_types([int(token.kind) for token in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
