"""What a guest's answer says of its use: every row is one section as real tools print it, and what is made of it."""

from __future__ import annotations

import pytest

from provisioner.domain.activity import Evidence, Signal
from provisioner.planning.guest_use import AnswerCut, guest_signals, use_command
from tests.fakes.gpu_answers import UUID, answer, row

BUSY, QUIET, UNKNOWN = Evidence.BUSY, Evidence.QUIET, Evidence.UNKNOWN
NOBODY = {"connections": "", "sessions": "", "locks": "", "jobs": "", "downloads": "", "engines": "77"}
IDLE = row(utilization_gpu="0")


def signals(sections: dict[str, str | None] | None = None, *, gpus: bool = True, **more: str) -> dict[str, Signal]:
    told = answer(more.pop("query", IDLE), sections=NOBODY | (sections or {}))
    return {each.source: each for each in guest_signals(told, user="provisioner", has_gpus=gpus)}


def test_nobody_uses_a_guest_in_which_nothing_happens() -> None:
    assert {each.evidence for each in signals().values()} == {QUIET}


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ("session 900\nName=alice\nTTY=pts/0\nprogram pts/0 -bash", "alice is logged in (pts/0)"),
        ("session 900\nName=alice", "alice is logged in (no terminal)"),
        ("session 900\nName=alice\nprogram ? sftp-server", "alice is logged in (sftp-server)"),
        ("session 900\nName=provisioner\nTTY=pts/1\nprogram pts/1 -bash", "provisioner is logged in (pts/1)"),
        ("session 900\nName=provisioner\nprogram ? python3 train.py", "provisioner is logged in (python3 train.py)"),
        ("session 900\nName=provisioner", ""),
        ("session 900\nName=provisioner\nTTY=pts/1", ""),
    ],
)
def test_connections_are_told_apart_by_who_comes_and_what_runs(shown: str, reason: str) -> None:
    found = signals({"connections": shown})["login sessions"]
    assert (found.evidence, found.reason) == (BUSY if reason else QUIET, reason)


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ("session 1\nName=root\nTTY=tty1\nService=login\nClass=user\nState=active", "root is logged in (tty1)"),
        (
            "session c1\nName=provisioner\nTTY=ttyS0\nService=login\nClass=user\nState=online",
            "provisioner is logged in",
        ),
        ("session 2\nName=alice\nTTY=pts/0\nService=sshd\nClass=user\nState=active", ""),
        ("session 3\nName=root\nTTY=\nService=crond\nClass=background\nState=active", ""),
        ("session 4\nName=alice\nTTY=\nService=systemd-user\nClass=manager\nState=active", ""),
        ("session 5\nName=root\nTTY=tty1\nService=login\nClass=user\nState=closing", ""),
    ],
)
def test_of_what_logind_knows_only_logins_on_the_console_are_news(shown: str, reason: str) -> None:
    found = signals({"sessions": shown})["login sessions"]
    assert found.evidence is (BUSY if reason else QUIET)
    assert reason in found.reason


def test_a_guest_that_shows_no_processes_tells_nothing_of_logins() -> None:
    assert signals({"connections": None})["login sessions"].evidence is UNKNOWN


def test_logins_between_two_looks_leave_a_mark() -> None:
    assert signals({"logins": "1800000000"})["login sessions"].mark == "1800000000"


@pytest.mark.parametrize(
    ("sections", "source", "evidence", "reason"),
    [
        ({"locks": "apt-get\nunattended-upgr"}, "packages", BUSY, "apt-get, unattended-upgr changes its packages"),
        ({"locks": None}, "packages", UNKNOWN, "does not tell"),
        ({"jobs": "llm-job-model-1.service"}, "downloads", BUSY, "(llm-job-model-1)"),
        (
            {"downloads": "/root/.ollama/models/blobs/sha256-6a07-partial"},
            "downloads",
            BUSY,
            "sha256-6a07-partial grows",
        ),
        ({"downloads": None}, "downloads", UNKNOWN, "in time"),
        ({"smi-processes": f"77, 8000, {UUID}, /opt/llm/engine"}, "GPU", QUIET, ""),
        (
            {"smi-processes": f"4711, 8000, {UUID}, /usr/bin/python3"},
            "GPU",
            BUSY,
            "python3 (pid 4711), no engine of ours",
        ),
        ({"engines": None, "smi-processes": f"77, 8000, {UUID}, engine"}, "GPU", BUSY, "engine (pid 77)"),
        ({"cards": ""}, "GPU", QUIET, ""),
    ],
)
def test_work_downloads_and_programs_on_the_card(
    sections: dict[str, str | None], source: str, evidence: Evidence, reason: str
) -> None:
    found = signals(sections)[source]
    assert found.evidence is evidence
    assert reason in found.reason


@pytest.mark.parametrize(
    ("percent", "evidence"), [("0", QUIET), ("4", QUIET), ("5", BUSY), ("97", BUSY), ("[N/A]", QUIET)]
)
def test_a_card_computes_from_five_percent_on(percent: str, evidence: Evidence) -> None:
    assert signals(query=row(utilization_gpu=percent))["GPU"].evidence is evidence


def test_a_driver_that_does_not_answer_is_no_evidence_of_rest() -> None:
    told = answer("Failed to initialize NVML: Driver/library version mismatch", 18, sections=NOBODY)
    found = {each.source: each for each in guest_signals(told, user="provisioner", has_gpus=True)}["GPU"]
    assert found.evidence is UNKNOWN
    assert "version mismatch" in found.reason


def test_a_node_without_cards_is_not_asked_about_them() -> None:
    assert "GPU" not in signals(gpus=False)


def test_an_engine_that_was_started_anew_leaves_a_mark() -> None:
    assert signals({"engines": "77"})["engine processes"].mark != signals({"engines": "78"})["engine processes"].mark


def test_an_answer_that_was_cut_off_says_nothing() -> None:
    with pytest.raises(AnswerCut):
        guest_signals("=== connections 0\n", user="provisioner", has_gpus=True)


def test_the_command_is_one_round_trip() -> None:
    shell, option, script, *rest = use_command()
    assert (shell, option, rest[:2]) == ("sh", "-c", ["gather-gpu-facts", "live"])
    assert "=== connections" in script
