"""`provisioner fit`: what a person sees, what a program gets, and what a mistake is answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from provisioner.cli.app import root
from provisioner.errors import InputError
from tests.fleets import FLEET
from tests.golden_files import assert_golden


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a fleet file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROVISIONER_FLEET", raising=False)


def run(*words: str) -> Result:
    return CliRunner().invoke(root, ["fit", *words])


def answered(*words: str) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code in (0, 1), result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


CASES = {
    "fits": ("llama3.1:8b", "--gpu", "24GiB", "--context", "8192"),
    "less-context": ("llama3.1:70b", "--gpu", "2xrtx3090", "--context", "16384", "--parallel", "2"),
    "more-gpus": ("mistral:7b", "--engine", "vllm", "--gpu", "t4"),
    "window": ("gemma3:27b", "--gpu", "rtx4090", "--context", "65536"),
    "no-gpu-named": ("Qwen/Qwen2.5-32B-Instruct-AWQ", "--context", "8192"),
    "cpu": ("llama3.1:8b", "--ram", "8GiB"),
    "latent": ("deepseek-r1:671b", "--gpu", "8xh200", "--engine", "vllm", "--context", "32768"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_person_sees_the_sum_and_the_way_out(case: str) -> None:
    assert_golden(f"fit/{case}.txt", run(*CASES[case]).output)


def test_a_program_gets_the_numbers() -> None:
    found = answered("Qwen/Qwen2.5-7B-Instruct-AWQ", "--gpu", "rtx3090", "--context", "8192")
    assert found["kv_bytes_per_token"] == 2 * 28 * 4 * 128 * 2
    assert found["kv_bytes"] == 8192 * found["kv_bytes_per_token"]
    assert found["total_bytes"] == found["weights_bytes"] + found["kv_bytes"] + found["overhead_bytes"]
    assert (found["fits"], found["gpus_needed"]) == (True, 1)
    assert "stay free" in found["reason"]
    assert found["catalogue"]["gated"] is False


def test_what_does_not_fit_ends_with_1_and_says_how_many_gpus() -> None:
    result = run("llama3.1:70b", "--gpu", "rtx3090", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["fits"], found["gpus_needed"]) == (False, 3)
    assert found["changes"]


def test_without_a_gpu_the_need_is_told_and_common_cards_are_judged() -> None:
    found = answered("llama3.1:8b")
    assert found["fits"] is None
    assert {"card": "RTX 3090", "fits": True, "gpus_needed": 1, "largest_context": 131072} in found["cards"]


def test_gpus_may_be_repeated_and_counted() -> None:
    assert len(answered("llama3.1:70b", "--gpu", "2xrtx3090", "--gpu", "24GiB")["gpus"]) == 3


def test_a_gpu_of_the_fleet_counts_with_what_its_card_really_has(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(
        FLEET.replace("rtx3090: {mapping: rtx3090, vram: 24GiB}", "card: {mapping: rtx3090, vram: 10GiB}").replace(
            "gpus: [rtx3090]", "gpus: [card]"
        )
    )
    result = CliRunner().invoke(root, ["--fleet", str(path), "fit", "llama3.1:8b", "--gpu", "pve1/card", "--json"])
    assert json.loads(result.stdout)["gpus"] == [{"name": "card", "usable_bytes": int(10 * 2**30 * 0.98)}]


@pytest.mark.parametrize(
    ("words", "summary", "next_step"),
    [
        (("lama3.1:8b", "--gpu", "24GiB"), 'cannot find model "lama3.1:8b"', "llama3.1:8b"),
        (("llama3.1:8b", "--gpu", "a100"), 'cannot tell which "a100"', "A100 40GB, A100 80GB"),
        (("llama3.1:8b", "--gpu", "banana"), 'cannot find a GPU "banana"', "RTX 3090"),
        (("llama3.1:8b", "--gpu", "24GB"), 'cannot read the size "24GB"', "24GiB"),
        (("llama3.1:8b", "--gpu", "99x24GiB"), "cannot judge 99 GPUs", "1 to 16"),
        (("llama3.1:8b", "--engine", "exo"), 'cannot judge engine "exo"', "ollama"),
        (("llama3.1:8b", "--quantization", "awq", "--engine", "ollama"), 'cannot serve weights in "awq"', "q4_k_m"),
        (("llama3.1:8b", "--kv-dtype", "fp8"), 'cannot keep the cache of ollama in "fp8"', "q8_0"),
        (("./none", "--gpu", "24GiB"), "no such file or folder", "GGUF"),
        (("llama3.1:8b", "--ram", "much"), 'cannot read the size "much"', "24GiB"),
    ],
)
def test_a_mistake_is_answered_with_what_is_right(words: tuple[str, ...], summary: str, next_step: str) -> None:
    error = run(*words).exception
    assert isinstance(error, InputError)
    assert summary in error.summary
    assert next_step in error.next_step


def test_a_folder_is_judged_by_what_lies_in_it(tmp_path: Path) -> None:
    content = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = answered(str(tmp_path), "--gpu", "24GiB")
    assert (found["engine"], found["quantization"], found["context"]) == ("vllm", "bf16", 8192)
    assert found["kv_bytes_per_token"] == 131072
    assert answered(str(tmp_path / "config.json"), "--gpu", "24GiB")["weights_bytes"] == found["weights_bytes"]


def test_a_gguf_file_is_judged_by_its_header(tmp_path: Path) -> None:
    from provisioner.lab.images.tiny_model import ensure_tiny_model

    path = ensure_tiny_model(tmp_path / "cache").path
    found = answered(str(path), "--gpu", "8GiB")
    assert (found["engine"], found["weights_are_measured"], found["fits"]) == ("llama.cpp", True, True)
    assert 0 < found["weights_bytes"] <= path.stat().st_size
