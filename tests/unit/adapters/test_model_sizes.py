"""The question how much a playbook has still to fetch: what it names, and that a guest can answer it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.adapters.ansible.model_sizes import size_question
from tests.fleets import SUM

LAUNCHES = [{"unit": "chat", "secrets": {}}, {"unit": "ml", "secrets": {"HF_TOKEN": "hf_x"}}]
CACHE = "/var/lib/llm/huggingface"


def asked(playbook: str, **variables: object) -> list[list[str]]:
    command = size_question(
        playbook, {"engine_files": [], "engine_pulls": [], "engine_launches": LAUNCHES, **variables}
    )
    assert "hf_x" not in " ".join(command)
    models: list[list[str]] = json.loads(command[-1]) if command else []
    return models


def test_files_of_the_web_are_measured_there_and_ours_here(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"x" * 1000)
    files = [{"name": "a", "source": "https://example.org/a.gguf", "sha256": SUM}]
    files += [{"name": each.name, "source": str(each), "sha256": SUM} for each in (own, tmp_path / "absent")]
    name = SUM[:12]
    kept = f"/var/lib/llm/models/{name}.gguf"
    assert asked("deploy-llama-cpp", engine_files=files) == [
        ["file", "https://example.org/a.gguf", f"{kept}.part", kept],
        ["file", "1000", f"/var/lib/llm/incoming/{name}", kept],
    ]


@pytest.mark.parametrize(
    ("playbook", "mark"),
    [("deploy-vllm", f"{CACHE}/pulled/org--a@v1"), ("deploy-tgi", "/var/lib/llm/tgi/pulled/org--a@v1")],
)
def test_repositories_are_measured_with_the_token_of_their_unit(playbook: str, mark: str) -> None:
    assert asked(playbook, engine_pulls=["org/a@v1"]) == [["repository", CACHE, "/etc/llm/ml.env", mark, "org/a@v1"]]
    rare = asked(playbook, engine_pulls=["org/a@v1"], engine_launches=[], engine_token_unit="rare")
    assert rare[0][2] == "/etc/llm/rare.env"


@pytest.mark.parametrize("playbook", ["deploy-ollama", "deploy-exo", "install-rocm"])
def test_a_playbook_that_fetches_no_models_leaves_no_question(playbook: str) -> None:
    assert size_question(playbook, {"engine_launches": LAUNCHES, "engine_pulls": ["llama3.1:8b"]}) == ()


def test_the_question_is_a_whole_program(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"x" * 1000)
    files = [{"name": "own", "source": str(own), "sha256": SUM}]
    question = size_question("deploy-llama-cpp", {"engine_files": files, "engine_launches": []})
    done = subprocess.run([sys.executable, *question[1:]], capture_output=True, text=True, check=True)
    assert done.stdout == "1000\n"
