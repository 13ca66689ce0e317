"""Looking at models on a disk and taking one off it: the script that runs in guests, on a real folder here."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.model_keeping import MODEL_FOLDER, ModelStore
from provisioner.errors import GuestError
from provisioner.ports.guest_shell import CommandResult
from provisioner.services.stored_models import delete_model, note_in_guest, stored_models

BLOCK = 4096


@dataclass
class LocalShell:
    """The part of GuestShell that is used, on this machine, with another folder in the place of the guest's."""

    folder: Path

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        words = [str(self.folder) if word == MODEL_FOLDER else word for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        return CommandResult(done.returncode, done.stdout, done.stderr)


def written(path: Path, blocks: int, used_at: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * blocks * BLOCK)
    os.utime(path, (used_at, used_at))
    return path


def manifest(folder: Path, name: str, *digests: str) -> None:
    path = folder / "ollama/manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = [{"digest": f"sha256:{each}"} for each in digests]
    path.write_text(json.dumps({"config": layers[0], "layers": layers[1:]}))


@pytest.fixture
def shell(tmp_path: Path) -> LocalShell:
    """A disk with a file, a repository, and three models of Ollama, two of which share a layer."""
    written(tmp_path / "models/0123456789ab.gguf", 3, 100)
    hub = tmp_path / "huggingface/hub/models--org--some--name"
    written(hub / "blobs/aa", 5, 50)
    written(hub / "blobs/bb", 1, 300)
    (hub / "snapshots/1").mkdir(parents=True)
    (hub / "snapshots/1/weights").symlink_to("../../blobs/aa")
    for account in ("huggingface", "tgi"):
        written(tmp_path / account / "pulled/org--some--name@v1", 0, 0)
        written(tmp_path / account / "pulled/org--some--name#tokenizer", 0, 0)
        written(tmp_path / account / "pulled/org--some", 0, 0)
    for digest, blocks in (("c1", 1), ("c2", 1), ("c3", 1), ("w1", 7), ("both", 2), ("w3", 4)):
        written(tmp_path / f"ollama/blobs/sha256-{digest}", blocks, 200)
    manifest(tmp_path, "registry.ollama.ai/library/llama3.1/8b", "c1", "w1", "both")
    manifest(tmp_path, "registry.ollama.ai/ada/mine/latest", "c2", "both")
    manifest(tmp_path, "hf.co/org/model/q4", "c3", "w3")
    # Its whole length is there at once, its blocks come one by one.
    with (tmp_path / "ollama/blobs/sha256-later-partial").open("wb") as file:
        file.truncate(1 << 40)
    return LocalShell(tmp_path)


def test_every_store_is_looked_at(shell: LocalShell, node: NodeSpec) -> None:
    seen = stored_models(shell, node)  # type: ignore[arg-type]
    found = {(each.store, each.name): (each.bytes // BLOCK, each.used_at) for each in seen.models}
    assert found[ModelStore.FILES, "0123456789ab.gguf"] == (3, 100)
    assert found[ModelStore.HUGGING_FACE, "org/some/name"] == (6, 300)
    # A layer that two share would not be free without one of them.
    assert found[ModelStore.OLLAMA, "llama3.1:8b"] == (8, 200)
    assert found[ModelStore.OLLAMA, "ada/mine:latest"] == (1, 200)
    assert found[ModelStore.OLLAMA, "hf.co/org/model:q4"] == (5, 200)
    assert len(found) == 5
    # The manifests take a block each.
    assert seen.used_bytes // BLOCK == 3 + 6 + 16 + 3
    assert 0 < seen.free_bytes < 1 << 60
    assert not any(each.is_in_use for each in seen.models)


def test_what_is_open_or_mapped_is_in_use_and_stays(shell: LocalShell, node: NodeSpec) -> None:
    path = shell.folder / "models/0123456789ab.gguf"
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with mapped, (shell.folder / "huggingface/hub/models--org--some--name/blobs/aa").open("rb"):
        busy = [each for each in stored_models(shell, node).models if each.is_in_use]  # type: ignore[arg-type]
        assert {each.store for each in busy} == {ModelStore.FILES, ModelStore.HUGGING_FACE}
        for each in busy:
            with pytest.raises(GuestError, match="it is in use by now"):
                delete_model(shell, node, each, "evicting")  # type: ignore[arg-type]
    assert path.exists()


def test_a_model_goes_with_the_note_that_it_was_fetched(shell: LocalShell, node: NodeSpec) -> None:
    for each in stored_models(shell, node).models:  # type: ignore[arg-type]
        if each.store is not ModelStore.OLLAMA:
            delete_model(shell, node, each, "evicting")  # type: ignore[arg-type]
            delete_model(shell, node, each, "gone already is no failure")  # type: ignore[arg-type]
    assert {each.store for each in stored_models(shell, node).models} == {ModelStore.OLLAMA}  # type: ignore[arg-type]
    for account in ("huggingface", "tgi"):
        assert [each.name for each in (shell.folder / account / "pulled").iterdir()] == ["org--some"]


def test_a_disk_without_models_is_empty(tmp_path: Path, node: NodeSpec) -> None:
    seen = stored_models(LocalShell(tmp_path / "none"), node)  # type: ignore[arg-type]
    assert (seen.models, seen.used_bytes) == ((), 0)


def test_a_guest_that_cannot_tell_is_an_error_with_its_words(node: NodeSpec) -> None:
    class Broken:
        def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
            return CommandResult(127, "", "python3: command not found")

    with pytest.raises(GuestError, match="python3: command not found"):
        stored_models(Broken(), node)  # type: ignore[arg-type]
    note_in_guest(Broken(), "words")  # type: ignore[arg-type]
