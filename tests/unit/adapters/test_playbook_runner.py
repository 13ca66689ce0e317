"""What is checked before Ansible starts, and how its event lines are read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.adapters.ansible.playbook_runner import AnsiblePlaybooks, verify_local_files
from provisioner.adapters.ssh.login_key import LoginKey
from provisioner.domain.fleet import ConnectSpec, NodeSpec, SshAccess
from provisioner.errors import InputError, PlaybookError

EMPTY_SUM = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_file_with_its_pinned_sum_passes(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    verify_local_files({"model": str(tmp_path / "m.gguf"), "model_sha256": EMPTY_SUM})


def test_a_file_with_another_sum_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("tampered")
    with pytest.raises(InputError, match=f"the fleet file pins {EMPTY_SUM}"):
        verify_local_files({"model": str(tmp_path / "m.gguf"), "model_sha256": EMPTY_SUM})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read m\.gguf"):
        verify_local_files({"model": str(tmp_path / "m.gguf"), "model_sha256": EMPTY_SUM})


def test_urls_are_the_guests_business() -> None:
    verify_local_files({"model": "https://example.org/m.gguf", "model_sha256": EMPTY_SUM})


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client on this machine")
def test_an_unreachable_guest_is_reported_with_the_task_and_nothing_is_left(tmp_path: Path, node: NodeSpec) -> None:
    away = replace(node, connect=ConnectSpec("127.0.0.1", 1))
    before = set(Path("/tmp").glob("prov-*"))
    runner = AnsiblePlaybooks(SshAccess(), LoginKey(None, tmp_path))
    tasks: list[str] = []
    with pytest.raises(PlaybookError, match=r"Create the folder of this release.*refused"):
        runner.run("deploy-llama-cpp", away, "ssh-ed25519 AAAA", {"llama_cpp_archive_sha256": EMPTY_SUM}, tasks.append)
    assert tasks == ["Create the folder of this release"]
    assert set(Path("/tmp").glob("prov-*")) == before
