"""The whole path on a real QEMU guest, through the command line, with kill -9 of `up` at every stage.

One guest lives through this module and those that follow it, in the order of
the tests: a boot takes a quarter of a minute where nothing accelerates it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml

from tests.lab.real_scene import Scene
from tests.lab.support import NODE

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(1800)]

STEPS = ("image", "seed", "create", "grow disk", "start", "guest", "seal seed", "base", "configure", "prove")


@pytest.mark.parametrize(
    "stages", [("create", "guest", "configure"), pytest.param(STEPS, marks=pytest.mark.long)], ids=["some", "each"]
)
def test_up_killed_at_a_stage_is_continued_by_the_next(scene: Scene, stages: tuple[str, ...]) -> None:
    # Whatever order the modules are run in, this begins with nothing.
    scene.run("destroy", NODE, "--confirm", NODE)
    begun: dict[str, int] = {}
    for step in stages:
        for each in scene.up_killed_at(step, "started"):
            begun[each] = begun.get(each, 0) + 1
    scene.up_killed_at("configure", "progress")
    report = scene.result("up", NODE)
    assert report["endpoint"]["url"] == "http://127.10.90.1:8080/v1"
    assert report["reply"]
    # What was done was not done again: a step runs once to be killed, and once to be finished.
    assert begun.get("image", 0) <= 2
    assert begun["create"] <= 2
    assert begun["start"] <= 2


def test_a_second_up_changes_nothing_and_says_so(scene: Scene) -> None:
    done = scene.run("up", NODE)
    assert "nothing had to change" in done.stdout


def test_no_private_key_is_left_on_the_storage(scene: Scene) -> None:
    (seed,) = scene.folder.rglob(f"{NODE}-5001-*-seed.iso")
    assert b"llm-gpu-01" in seed.read_bytes()
    assert b"PRIVATE KEY" not in seed.read_bytes()


def in_guest(scene: Scene, *command: str) -> str:
    return scene.run("ssh", NODE, "--", *command).stdout.strip()


def test_the_guest_is_what_the_seed_said(scene: Scene) -> None:
    assert in_guest(scene, "hostname") == NODE
    assert "10.10.90.1/16" in in_guest(scene, "ip", "-4", "-o", "addr", "show", "eth0")
    assert in_guest(scene, "test", "-e", "/etc/cloud/cloud-init.disabled") == ""


def test_the_engine_runs_hardened_under_an_account_of_its_own(scene: Scene) -> None:
    shown = in_guest(scene, "systemctl", "show", "llm-small", "-p", "DynamicUser,NoNewPrivileges,ProtectSystem,User")
    assert "DynamicUser=yes" in shown
    assert "NoNewPrivileges=yes" in shown
    assert "ProtectSystem=strict" in shown
    # The range that systemd keeps for dynamic accounts (systemd.exec, DynamicUser=).
    assert 61184 <= int(in_guest(scene, "ps", "-o", "uid=", "-C", "ld-linux-x86-64.so.2")) <= 65519
    assert in_guest(scene, "systemctl", "is-enabled", "llm-small") == "enabled"


def test_the_exported_inventory_plays_the_playbook_by_hand_and_finds_nothing_to_do(scene: Scene) -> None:
    exported = scene.result("export", "ansible-inventory", str(scene.folder / "by-hand"), NODE)
    (*_, command) = exported["commands"][NODE]
    words = shlex.split(command)
    assert words[2] == "ansible-playbook"
    played = subprocess.run(
        [*words[:2], sys.executable, "-m", "ansible", "playbook", *words[3:], "--check"],
        env={**os.environ, "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert played.returncode == 0, played.stdout + played.stderr
    assert "changed=0" in played.stdout


def test_an_engine_that_is_killed_is_started_again_by_its_unit(scene: Scene) -> None:
    in_guest(scene, "sudo", "systemctl", "kill", "--signal=KILL", "llm-small")
    assert scene.result("wake", NODE)["endpoint"]["model"] == "tiny.gguf"
    assert in_guest(scene, "systemctl", "show", "-P", "NRestarts", "llm-small") == "1"


def test_the_guest_shows_a_device_where_the_gpu_would_be(scene: Scene) -> None:
    assert re.search(r"1234:11e8|1b36:0005", in_guest(scene, "lspci", "-n"))


def test_it_sleeps_and_wakes_and_answers_again(scene: Scene) -> None:
    assert scene.result("sleep", NODE)["was_running"]
    status = json.loads(scene.run("status", "--json").stdout)["nodes"][0]
    assert status["state"] == "asleep"
    woken = scene.result("wake", "--model", "tiny.gguf")
    assert woken["started"]
    assert woken["endpoint"]["model"] == "tiny.gguf"
    assert not scene.result("wake", NODE)["started"]


class TestLooking:
    """The commands that look at a node that serves."""

    def test_the_engines_journal_is_shown(self, scene: Scene) -> None:
        assert "http://0.0.0.0:8080" in scene.run("logs", NODE, "-n", "500").stdout
        (line,) = scene.run("logs", NODE, "-n", "1", "--json").stdout.splitlines()
        assert set(json.loads(line)) == {"time", "source", "text"}
        assert scene.run("logs", NODE, "--since", "2030-01-01").stdout == ""
        assert "cannot read the time" in scene.error("logs", NODE, "--since", "a fortnight")["summary"]

    def test_a_tunnel_brings_the_engine_here_until_ctrl_c(self, scene: Scene) -> None:
        with scene.started("forward", NODE, "--port", "0", "--json") as tunnel:
            assert tunnel.stdout is not None
            url = json.loads(tunnel.stdout.readline())["forward"]["url"]
            assert url.startswith("http://127.0.0.1:")
            assert requests.get(f"{url}/v1/models", timeout=30).json()["data"][0]["id"] == "tiny.gguf"
            tunnel.send_signal(signal.SIGINT)
            assert tunnel.wait(30) == 0
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=10)

    def test_its_speed_is_measured_and_compared(self, scene: Scene) -> None:
        first = scene.result("bench", NODE, "--streams", "1,4", "--seconds", "3")
        assert [level["streams"] for level in first["levels"]] == [1, 4]
        assert all(level["tokens_per_second_total"] > 0 for level in first["levels"])
        assert all(level["first_token_p50_seconds"] > 0 for level in first["levels"])
        again = scene.result("bench", NODE, "--streams", "1", "--seconds", "1")
        assert again["earlier"][0] == first["levels"][0]

    def test_the_stand_in_for_a_card_is_told_from_one(self, scene: Scene) -> None:
        shown = json.loads(scene.run("test", NODE, "--json", code=1).stdout.splitlines()[-1])["result"]
        checks = {check["id"]: check for check in shown["checks"]}
        assert checks["pci_device"]["status"] == "fail"
        assert "sees 0 of 1 GPUs" in checks["pci_device"]["found"]
        assert checks["engine_runs"]["status"] == "ok"
        assert checks["engine_answers"]["status"] == "ok"

    def test_a_node_without_a_card_passes(self, scene: Scene) -> None:
        text = scene.fleet_file.read_text()
        nodes = yaml.safe_load(text)["nodes"]
        scene.edit(nodes={NODE: {key: value for key, value in nodes[NODE].items() if key != "gpus"}})
        checks = {check["id"]: check["status"] for check in scene.result("test", NODE)["checks"]}
        scene.fleet_file.write_text(text)
        assert checks["engine_runs"] == checks["engine_answers"] == checks["probe"] == "ok"

    def test_its_numbers_are_watched(self, scene: Scene) -> None:
        kept = scene.folder / "numbers.csv"
        (line,) = scene.run("top", NODE, "--once", "--json", "--csv", str(kept)).stdout.splitlines()
        sample = json.loads(line)["sample"]
        assert sample["state"] == "serving", sample
        assert sample["load"] >= 0
        assert 0 < sample["memory_used_bytes"] < sample["memory_bytes"]
        assert sample["running"] == 0
        assert len(kept.read_text().splitlines()) == 2


@pytest.mark.long
@pytest.mark.usefixtures("real_node")
def test_a_guest_that_was_switched_off_from_inside_is_asleep_and_wakes(scene: Scene) -> None:
    subprocess.run(
        [sys.executable, "-m", "provisioner", "ssh", NODE, "--", "sudo", "systemctl", "poweroff"],
        env=scene.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    # The wake may find it on its way down; it must come back all the same.
    assert scene.result("wake", NODE)["endpoint"]["model"] == "tiny.gguf"


@pytest.mark.long
@pytest.mark.usefixtures("real_node")
def test_a_refused_key_is_told_apart_and_mended(scene: Scene) -> None:
    key = scene.folder / "client" / "ssh" / "id_ed25519"
    kept = key.rename(key.with_name("kept"))
    error = scene.error("up", NODE)
    assert "refuses our SSH key" in error["summary"]
    kept.rename(key)
    scene.run("up", NODE)


@pytest.mark.long
@pytest.mark.usefixtures("real_node")
def test_another_host_key_is_refused_with_both_fingerprints(scene: Scene) -> None:
    in_guest(scene, "sudo", "cp", "-a", "/etc/ssh/ssh_host_ed25519_key", "/root/kept")
    key = "/etc/ssh/ssh_host_ed25519_key"
    in_guest(scene, f"sudo sh -c 'rm {key}*; ssh-keygen -q -t ed25519 -f {key} -N \"\"; systemctl restart ssh'")
    error = scene.error("up", NODE)
    assert error["error"] == "HostKeyError"
    assert error["summary"].count("SHA256:") == 2
    # Only the console could mend this on a real guest; the guest agent is the lab's console.
    scene.by_agent(f"cp -a /root/kept {key} && systemctl restart ssh")
    scene.run("up", NODE)


def pinned(path: Path) -> dict[str, str]:
    return {"source": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.long
@pytest.mark.usefixtures("real_node")
def test_a_setting_that_a_killed_run_only_wrote_is_put_to_work_by_the_next(scene: Scene) -> None:
    scene.edit(modes={"small": {"engine": "llama.cpp", "model": "tiny.gguf", "context": 256}})
    scene.up_killed_at("configure", "progress", "Run the engine")
    # The restart may have been on its way into the guest when the run was killed; then nothing is left to do.
    scene.run("up", NODE)
    assert "--ctx-size 256" in in_guest(scene, "ps", "-o", "args=", "-C", "ld-linux-x86-64.so.2")


@pytest.mark.long
@pytest.mark.usefixtures("real_node")
def test_an_argument_that_the_engine_in_the_guest_does_not_know_is_refused_by_name(scene: Scene) -> None:
    mode = {"engine": "llama.cpp", "model": "tiny.gguf", "context": 256, "arguments": {"mlock": True}}
    before = scene.edit(modes={"small": mode})
    error = scene.error("up", NODE)
    assert (error["error"], error["diagnosis"]) == ("EngineError", "argument_unknown"), error
    assert "the installed llama.cpp does not list --mlock" in error["summary"]
    assert "write load-mode: mlock" in error["next_step"]
    scene.fleet_file.write_text(before)


@pytest.mark.long
@pytest.mark.usefixtures("real_node")
def test_a_failing_task_is_named_with_the_guests_words(scene: Scene) -> None:
    garbage = scene.folder / "garbage.tar.gz"
    garbage.write_bytes(b"this is no archive")
    before = scene.edit(engines={"llama.cpp": pinned(garbage)})
    error = scene.error("up", NODE)
    assert error["error"] == "PlaybookError"
    assert "Unpack the release archive" in error["summary"]
    scene.fleet_file.write_text(before)
    scene.run("up", NODE)


@pytest.mark.long
@pytest.mark.usefixtures("real_node")
def test_an_engine_that_never_answers_is_diagnosed_by_its_own_log(scene: Scene) -> None:
    broken = scene.folder / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    before = scene.edit(models={"tiny.gguf": pinned(broken)}, defaults={"engine_within": "8s"})
    error = scene.error("up", NODE)
    assert error["error"] == "EngineError"
    assert error["diagnosis"] == "model_damaged", error
    assert "its log shows why: the model's file is damaged" in error["summary"]
    assert "sha256" in error["next_step"]
    scene.fleet_file.write_text(before)
    assert scene.result("up", NODE)["reply"]
