"""What is checked before Ansible starts, and how its event lines are read."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.adapters.ansible import playbook_runner
from provisioner.adapters.ansible.playbook_runner import (
    MOST_PLAYBOOKS_AT_ONCE,
    AnsiblePlaybooks,
    PlayFailed,
    verify_local_files,
)
from provisioner.adapters.ssh.login_key import LoginKey
from provisioner.domain.fleet import ConnectSpec, NodeSpec, SshAccess
from provisioner.errors import InputError, PlaybookError
from provisioner.ports.playbooks import PlaybookOutcome

VARIABLES = {"engine_archives": [{"source": "https://example.org/a", "sha256": "0" * 64}], "engine_launches": []}
EMPTY_SUM = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_file_with_its_pinned_sum_passes(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    verify_local_files({"engine_files": [{"source": str(tmp_path / "m.gguf"), "sha256": EMPTY_SUM}]})


def test_a_file_with_another_sum_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_text("tampered")
    with pytest.raises(InputError, match=f"the fleet file pins {EMPTY_SUM}"):
        verify_local_files({"engine_files": [{"source": str(tmp_path / "m.gguf"), "sha256": EMPTY_SUM}]})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read m\.gguf"):
        verify_local_files({"engine_files": [{"source": str(tmp_path / "m.gguf"), "sha256": EMPTY_SUM}]})


def test_urls_are_the_guests_business() -> None:
    verify_local_files({"engine_files": [{"source": "https://example.org/m.gguf", "sha256": EMPTY_SUM}]})


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no OpenSSH client on this machine")
def test_an_unreachable_guest_is_reported_with_the_task_and_nothing_is_left(tmp_path: Path, node: NodeSpec) -> None:
    away = replace(node, connect=ConnectSpec("127.0.0.1", 1))
    before = set(Path("/tmp").glob(f"prov-{os.getpid()}-*"))
    runner = AnsiblePlaybooks(SshAccess(), LoginKey(None, tmp_path))
    tasks: list[str] = []
    with pytest.raises(PlaybookError, match=r"See what stands in the guest.*refused"):
        runner.run("deploy-llama-cpp", away, "ssh-ed25519 AAAA", VARIABLES, tasks.append)
    assert tasks == ["See what stands in the guest"]
    assert set(Path("/tmp").glob(f"prov-{os.getpid()}-*")) == before


@pytest.mark.parametrize(("is_unreachable", "diagnosis"), [(False, "no_network"), (True, None)])
def test_the_cause_of_a_failure_is_named_where_the_guest_itself_spoke(
    tmp_path: Path, node: NodeSpec, monkeypatch: pytest.MonkeyPatch, is_unreachable: bool, diagnosis: str | None
) -> None:
    def play(*_: object) -> PlaybookOutcome:
        raise PlayFailed("Fetch", "No route to host", is_unreachable=is_unreachable)

    monkeypatch.setattr(playbook_runner, "play", play)
    with pytest.raises(PlaybookError, match=r'failed at "Fetch": No route to host') as refused:
        AnsiblePlaybooks(SshAccess(), LoginKey(None, tmp_path)).run("deploy", node, "ssh-ed25519 AAAA", {}, print)
    assert refused.value.as_dict().get("diagnosis") == diagnosis
    assert f"provisioner up {node.name}" in (refused.value.next_step or "")


def test_no_more_playbooks_run_at_once_than_a_machine_bears(
    tmp_path: Path, node: NodeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: set[int] = set()
    most: list[int] = []
    nodes = 3 * MOST_PLAYBOOKS_AT_ONCE
    everybody = threading.Barrier(MOST_PLAYBOOKS_AT_ONCE, timeout=30)

    def play(*_: object) -> PlaybookOutcome:
        running.add(threading.get_ident())
        # Whoever plays waits until as many play as may: one more would show, one fewer would hang.
        everybody.wait()
        most.append(len(running))
        everybody.wait()
        running.discard(threading.get_ident())
        return PlaybookOutcome(1, ())

    monkeypatch.setattr(playbook_runner, "play", play)
    runner = AnsiblePlaybooks(SshAccess(), LoginKey(None, tmp_path))
    with ThreadPoolExecutor(nodes) as pool:
        for _ in range(nodes):
            pool.submit(runner.run, "deploy-llama-cpp", node, "ssh-ed25519 AAAA", {}, lambda task: None)
    assert most == [MOST_PLAYBOOKS_AT_ONCE] * nodes
