"""Models read from files: GGUF headers, config.json, safetensors; and what becomes of damaged ones."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.adapters.files import models
from provisioner.adapters.files.models import LocalModelFiles, read_model
from provisioner.adapters.files.models.gguf_header import read_header
from provisioner.domain.models.catalogue import MODELS
from provisioner.domain.models.model import Subject
from provisioner.domain.models.shape import LatentAttention, parameters
from provisioner.errors import InputError
from provisioner.lab.images.tiny_model import Shape, ensure_tiny_model, write_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_tiny_model(tmp_path_factory.mktemp("models")).path


def config(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def catalogued(name: str) -> Any:
    return next(model for model in MODELS if model.name == name)


class TestGguf:
    def test_a_real_file_is_read_as_the_library_reads_it(self, tiny: Path) -> None:
        theirs = gguf.GGUFReader(tiny)
        ours = read_header(tiny)
        assert {each.name: each.size_bytes for each in ours.tensors} == {
            each.name: each.n_bytes for each in theirs.tensors
        }

    def test_dimensions_and_exact_bytes_come_from_the_header(self, tiny: Path) -> None:
        made = Shape()
        subject = read_model(str(tiny))
        assert (subject.shape.layers, subject.shape.width) == (made.layers, made.width)
        assert (subject.shape.heads, subject.shape.kv_heads) == (made.heads, made.kv_heads)
        assert subject.shape.context == made.context
        assert subject.is_measured
        assert subject.weights_bytes == sum(each.n_bytes for each in gguf.GGUFReader(tiny).tensors)

    def test_every_type_of_tensor_has_the_librarys_block_size(self, tmp_path: Path) -> None:
        from provisioner.adapters.files.models.gguf_header import _BLOCKS

        for number, blocks in _BLOCKS.items():
            assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == blocks, number

    def test_experts_windows_and_latent_attention_are_found(self, tmp_path: Path) -> None:
        path = tmp_path / "moe.gguf"
        writer = gguf.GGUFWriter(path, "deepseek2")
        writer.add_block_count(3)
        writer.add_embedding_length(64)
        writer.add_feed_forward_length(128)
        writer.add_head_count(4)
        writer.add_expert_count(8)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(32)
        writer.add_leading_dense_block_count(1)
        writer.add_kv_lora_rank(16)
        writer.add_rope_dimension_count(8)
        writer.add_uint32("deepseek2.attention.key_length", 24)
        writer.add_uint32("deepseek2.attention.value_length", 12)
        writer.add_uint32("deepseek2.attention.sliding_window", 100)
        writer.add_array("deepseek2.attention.sliding_window_pattern", [True, False, True])
        writer.add_tensor("token_embd.weight", np.zeros((10, 64), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        shape = read_model(str(path)).shape
        assert shape.experts is not None
        assert (shape.experts.count, shape.experts.feed_forward, shape.expert_layers) == (8, 32, 2)
        assert shape.latent == LatentAttention(16, 8, 16, 12)
        assert shape.window is not None
        assert (shape.window.tokens, shape.window.layers, shape.vocabulary) == (100, 2, 10)

    def test_a_file_cut_short_says_how_much_is_there(self, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "half.gguf"
        path.write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2])
        with pytest.raises(InputError, match=r"cut short: .* bytes are there"):
            read_model(str(path))

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "ends in the middle"),
            (b"version https://git-lfs.github.com/spec/v1\n", "does not begin with GGUF"),
            (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
            (b"GGUF" + struct.pack("<I", 1) + bytes(16), "version 1"),
            (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "promises"),
            (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**50) + bytes(40), "a text of"),
            (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "general.architecture is missing"),
        ],
    )
    def test_what_is_no_model_is_named(self, tmp_path: Path, content: bytes, words: str) -> None:
        path = tmp_path / "x.gguf"
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_model(str(path))

    def test_a_missing_part_is_named(self, tiny: Path, tmp_path: Path) -> None:
        part = tmp_path / "m-00001-of-00003.gguf"
        part.write_bytes(tiny.read_bytes())
        with pytest.raises(InputError, match="2 of its 3 parts are missing, the first is m-00002-of-00003"):
            read_model(str(part))

    def test_parts_are_added_up(self, tiny: Path, tmp_path: Path) -> None:
        for at in (1, 2):
            (tmp_path / f"m-0000{at}-of-00002.gguf").write_bytes(tiny.read_bytes())
        assert read_model(str(tmp_path)).weights_bytes == 2 * read_model(str(tiny)).weights_bytes

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_no_damage_makes_it_fall(self, tiny: Path, tmp_path: Path, data: st.DataObject) -> None:
        content = bytearray(tiny.read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, 4000))
            content[at] = data.draw(st.integers(0, 255))
        path = tmp_path / "damaged.gguf"
        path.write_bytes(content[: data.draw(st.sampled_from([len(content), 3000, 200]))])
        # Whatever it makes of it: an answer, or the one error that a person can act on.
        with contextlib.suppress(InputError):
            assert read_model(str(path)).weights_bytes >= 0


class TestConfiguration:
    def test_a_configuration_gives_the_shape_of_the_catalogue(self, tmp_path: Path) -> None:
        subject = read_model(str(config(tmp_path, LLAMA)))
        assert subject.shape == catalogued("llama3.1:8b").shape
        assert (subject.quantization, subject.is_measured) == ("bf16", False)
        assert subject.weights_bytes == 2 * parameters(subject.shape)

    def test_the_index_says_the_bytes_before_the_weights_are_there(self, tmp_path: Path) -> None:
        config(tmp_path, LLAMA)
        index = {"metadata": {"total_size": 16060522496}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        subject = read_model(str(tmp_path))
        assert (subject.weights_bytes, subject.is_measured) == (16060522496, True)

    def test_weights_that_are_there_are_measured(self, tmp_path: Path) -> None:
        config(tmp_path, LLAMA)
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}" + bytes(1000))
        assert read_model(str(tmp_path)).weights_bytes == 1000

    def test_a_pointer_instead_of_weights_is_named(self, tmp_path: Path) -> None:
        config(tmp_path, LLAMA)
        (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(InputError, match="Git LFS pointer"):
            read_model(str(tmp_path))

    @pytest.mark.parametrize(
        ("changes", "kind"),
        [
            ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
            ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "gptq-int8"),
            ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
            ({"torch_dtype": None, "dtype": "float16"}, "fp16"),
        ],
    )
    def test_the_quantisation_is_read(self, tmp_path: Path, changes: dict[str, Any], kind: str) -> None:
        assert read_model(str(config(tmp_path, {**LLAMA, **changes}))).quantization == kind

    def test_a_picture_model_has_its_language_half_read(self, tmp_path: Path) -> None:
        text = {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 1024,
            "vocab_size": 262144,
        }
        shape = read_model(str(config(tmp_path, {"model_type": "gemma3", "text_config": text}))).shape
        assert shape.window == catalogued("gemma3:4b").shape.window
        assert shape.is_tied

    def test_deepseeks_attention_and_experts_are_those_of_the_catalogue(self, tmp_path: Path) -> None:
        content = {
            "model_type": "deepseek_v3",
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "head_dim": 128,
            "vocab_size": 129280,
            "max_position_embeddings": 163840,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 2048,
            "first_k_dense_replace": 3,
            "quantization_config": {"quant_method": "fp8"},
        }
        assert read_model(str(config(tmp_path, content))).shape == catalogued("deepseek-r1:671b").shape

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
            ({"hidden_size": "wide"}, 'hidden_size is "wide"'),
            ({"num_hidden_layers": 10**9}, "no model has layers"),
            ({"num_key_value_heads": 64}, "no model has key-value heads"),
            ({"vocab_size": -1}, "vocab_size is -1"),
        ],
    )
    def test_nonsense_is_named(self, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(InputError, match=words):
            read_model(str(config(tmp_path, {**LLAMA, **changes})))

    @pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100000])
    def test_what_is_no_json_object_is_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match="it is no JSON"):
            read_model(str(tmp_path))

    def test_a_folder_without_a_model_says_what_it_has(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"neither config.json nor a GGUF file"):
            read_model(str(tmp_path))

    def test_no_such_folder_says_what_to_give(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file or folder"):
            read_model(str(tmp_path / "none"))


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    real = models.read_model

    def counted(name: str) -> Subject:
        reads.append(name)
        return real(name)

    monkeypatch.setattr(models, "read_model", counted)
    path, files = tmp_path / "own.gguf", LocalModelFiles()
    assert files.subject(path) is None
    write_model(path, Shape(seed=7))
    found = [files.subject(path) for _ in range(3)]
    assert found[0] is not None
    assert (found[0].quantization, found[0].is_measured) == ("f32", True)
    assert (found[1:], len(reads)) == ([found[0]] * 2, 1)
    path.write_bytes(b"no model any more")
    assert (files.subject(path), len(reads)) == (None, 2)
