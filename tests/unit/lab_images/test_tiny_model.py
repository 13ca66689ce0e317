"""The tiny model is the same every time, and what it promises to be."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from provisioner.lab.images.tiny_model import Shape, ensure_tiny_model, tensors, vocabulary, write_model


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    write_model(tmp_path / "a.gguf")
    write_model(tmp_path / "b.gguf")
    write_model(tmp_path / "c.gguf", Shape(seed=2))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert (tmp_path / "a.gguf").read_bytes() != (tmp_path / "c.gguf").read_bytes()


def test_it_is_a_readable_gguf_of_its_shape(tmp_path: Path) -> None:
    artifact = ensure_tiny_model(tmp_path)
    reader = gguf.GGUFReader(str(artifact.path))
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.block_count"].contents() == 2
    assert len(reader.tensors) == 3 + 2 * 9
    assert artifact.path.stat().st_size < 1 << 20
    assert ensure_tiny_model(tmp_path) == artifact


def test_padding_makes_a_bigger_file_of_about_that_size(tmp_path: Path) -> None:
    write_model(tmp_path / "big.gguf", Shape(pad_mib=5))
    assert 5 << 20 <= (tmp_path / "big.gguf").stat().st_size < 6 << 20


def test_every_prefix_of_a_word_is_a_token_and_longer_ones_score_better() -> None:
    tokens, words = vocabulary()
    scores = {token.text: token.score for token in tokens}
    assert len(scores) == len(tokens)
    for word in words:
        for length in range(2, len(word) + 1):
            assert scores[word[:length]] > scores[word[: length - 1]] or length == 2


def test_only_words_and_the_end_are_likely_to_be_said() -> None:
    tokens, words = vocabulary()
    output = dict(tensors(Shape(), tokens, words))["output.weight"]
    quiet = np.array([token.text not in words for token in tokens])
    quiet[2] = False
    assert (output[quiet, 0] == -8.0).all()
    assert (output[~quiet, 0] > -1.0).all()
