"""Modes, models and their disk on the guest of `test_path_qemu`: switched, rolled back, filled up and cut off."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from provisioner.lab.images.tiny_model import Shape, write_model
from provisioner.ports.guest_shell import GuestAway
from tests.lab.real_scene import Scene
from tests.lab.support import NODE

pytestmark = [pytest.mark.qemu, pytest.mark.long, pytest.mark.timeout(1800)]

OTHER, BROKEN, RARE, LARGE = "other.gguf", "broken.gguf", "rare.gguf", "large.gguf"


def in_guest(scene: Scene, *command: str) -> str:
    return scene.run("ssh", NODE, "--", *command).stdout.strip()


def pinned(path: Path) -> dict[str, str]:
    return {"source": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def model(folder: Path, name: str, **shape: int) -> dict[str, str]:
    path = folder / name
    if not path.exists():
        write_model(path, Shape(**shape))
    return pinned(path)


@pytest.fixture(scope="module")
def modes(real_node: Scene) -> Iterator[Scene]:
    """The guest with many modes, in the first of them; afterwards it has only its own again, and its disk of models."""
    scene = real_node
    broken = scene.folder / BROKEN
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    files = {
        OTHER: model(scene.folder, OTHER, seed=2),
        BROKEN: pinned(broken),
        RARE: model(scene.folder, RARE, seed=3),
        LARGE: model(scene.folder, LARGE, seed=4, pad_mib=64),
    }
    base: dict[str, Any] = {"engine": "llama.cpp", "context": 256, "threads": 2}
    wanted = {
        "small": {**base, "model": "tiny.gguf"},
        "second": {**base, "model": OTHER},
        "bad": {**base, "model": BROKEN},
        "starved": {**base, "model": OTHER, "memory_limit": "2MiB"},
        "rare": {**base, "model": RARE, "pull": "demand"},
        "large": {**base, "model": LARGE, "pull": "demand"},
    }
    nodes = yaml.safe_load(scene.fleet_file.read_text())["nodes"]
    before = scene.edit(models=files, modes=wanted, nodes={NODE: {**nodes[NODE], "modes": list(wanted)}})
    scene.run("up", NODE)
    yield scene
    node = yaml.safe_load(scene.fleet_file.read_text())["nodes"][NODE]
    disk = {key: node[key] for key in ("model_disk",) if key in node}
    scene.fleet_file.write_text(before)
    scene.edit(nodes={NODE: {**nodes[NODE], **disk}})
    scene.run("up", NODE)


def serves(name: str) -> bool:
    models = requests.get("http://127.10.90.1:8080/v1/models", timeout=30).json()["data"]
    return [each["id"] for each in models] == [name]


def test_switching_between_two_models_takes_seconds_and_no_package(modes: Scene) -> None:
    for name, file in (("second", OTHER), ("small", "tiny.gguf")):
        report = modes.result("mode", NODE, name)
        assert (report["did"], report["mode"]) == ("engine changed", name)
        assert serves(file)
        print(f"mode {name}: {report['seconds']:.1f} s")
    again = modes.result("mode", NODE, "second")
    assert again["last_seconds"] > 0
    print(f"mode second again: {again['seconds']:.1f} s, the time before {again['last_seconds']:.1f} s")
    # What is noted survives the power: the same mode answers after a wake.
    modes.result("sleep", NODE)
    assert modes.result("wake", NODE)["endpoint"]["model"] == OTHER
    modes.result("mode", NODE, "small")


def test_a_mode_that_does_not_answer_is_taken_back_with_both_told(modes: Scene) -> None:
    begun = time.monotonic()
    error = modes.error("mode", NODE, "bad")
    print(f"mode bad, rolled back: {time.monotonic() - begun:.1f} s")
    assert (error["error"], error.get("diagnosis")) == ("EngineError", "model_damaged"), error["summary"]
    assert 'cannot switch to mode "bad"' in error["summary"]
    assert 'mode "small" is back and answers' in error["summary"]
    assert serves("tiny.gguf")


def test_an_engine_that_is_killed_for_its_memory_is_named_so(modes: Scene) -> None:
    error = modes.error("mode", NODE, "starved")
    assert (error["error"], error.get("diagnosis")) == ("EngineError", "out_of_memory"), error["summary"]
    assert 'mode "small" is back and answers' in error["summary"]


def test_a_rare_model_comes_when_its_mode_is_first_wanted(modes: Scene) -> None:
    stored = Path(f"/var/lib/llm/models/{pinned(modes.folder / RARE)['sha256'][:12]}.gguf")
    assert in_guest(modes, f"test -e {stored} || echo missing") == "missing"
    modes.result("mode", NODE, "rare")
    assert serves(RARE)
    assert in_guest(modes, f"test -e {stored} || echo missing") == ""
    modes.result("mode", NODE, "small")


def test_a_disk_that_is_full_is_named_before_anything_stops(modes: Scene) -> None:
    in_guest(
        modes, "sudo sh -c 'fallocate -l $(($(df --output=avail -B1 /var/lib/llm | tail -n 1) - 33554432)) /filler'"
    )
    error = modes.error("mode", NODE, "large")
    assert (error["error"], error.get("diagnosis")) == ("PlaybookError", "disk_full"), error
    assert "df -h" in error["next_step"]
    assert serves("tiny.gguf")
    in_guest(modes, "sudo rm /filler")
    modes.result("mode", NODE, "large")
    modes.result("mode", NODE, "small")


def test_a_disk_that_fills_up_while_a_model_comes_is_named_and_the_next_try_goes_on(modes: Scene) -> None:
    digest = pinned(modes.folder / LARGE)["sha256"][:12]
    in_guest(modes, f"sudo rm -f /var/lib/llm/models/{digest}.gguf")
    # Beside the room for the model nothing is left, and somebody takes it as soon as the first bytes have come.
    fill = "fallocate -l $(($(df --output=avail -B1 /var/lib/llm | tail -n 1) - 1048576)) /filler"
    part = f"/var/lib/llm/incoming/{digest}"
    line = f"while [ ! -s {part} ]; do sleep 0.05; done; {fill}; sync"
    in_guest(modes, f"sudo systemd-run --quiet --unit=filler sh -c '{line}'")
    error = modes.error("mode", NODE, "large")
    assert error.get("diagnosis") == "disk_full", error
    assert serves("tiny.gguf")
    in_guest(modes, "sudo rm /filler")
    assert modes.result("mode", NODE, "large")["endpoint"]["model"] == LARGE
    modes.result("mode", NODE, "small")


def test_a_reboot_in_the_middle_of_up_is_named_and_the_next_up_goes_on(modes: Scene) -> None:
    entry = yaml.safe_load(modes.fleet_file.read_text())["modes"]["small"]
    modes.edit(modes={"small": {**entry, "context": 384}})
    boot = in_guest(modes, "cat /proc/sys/kernel/random/boot_id")
    with modes.started("up", NODE, "--json") as up:
        assert up.stdout is not None
        lines = []
        for line in up.stdout:
            lines.append(json.loads(line))
            event = lines[-1].get("event", {})
            if (event.get("step"), event.get("phase")) == ("configure", "progress"):
                with contextlib.suppress(GuestAway):
                    modes.by_agent("systemctl reboot --force --force &")
                break
        lines += [json.loads(line) for line in up.stdout]
        code = up.wait(300)
    # Whoever was quick enough had laid it down before; else what broke is said, and that trying again helps.
    if code != 0:
        assert code == 1
        assert lines[-1]["error"] in ("PlaybookError", "GuestError", "NotReadyError", "EngineError"), lines[-1]
        assert f"provisioner up {NODE}" in lines[-1]["next_step"] or lines[-1]["retryable"], lines[-1]
    assert modes.result("up", NODE)["reply"]
    assert in_guest(modes, "cat /proc/sys/kernel/random/boot_id") != boot
    assert "--ctx-size 384" in in_guest(modes, "ps", "-o", "args=", "-C", "ld-linux-x86-64.so.2")


class TestModelDisk:
    """A disk for models alone, in a guest that runs."""

    def wanting(self, scene: Scene, size: str) -> None:
        node = yaml.safe_load(scene.fleet_file.read_text())["nodes"][NODE]
        scene.edit(nodes={NODE: {**node, "model_disk": size}})

    def test_it_is_plugged_in_formatted_and_takes_over_what_was_there(self, modes: Scene) -> None:
        before = in_guest(modes, "ls /var/lib/llm/models")
        self.wanting(modes, "1GiB")
        report = modes.result("up", NODE)
        assert "model disk" in report["changed"]
        shown = in_guest(modes, "findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,LABEL", "/var/lib/llm")
        assert shown.split() == ["/dev/sda", "ext4", "llm-models"]
        assert in_guest(modes, "ls /var/lib/llm/models") == before
        assert serves("tiny.gguf")
        assert modes.result("up", NODE)["changed"] == []

    def test_it_grows_in_place(self, modes: Scene) -> None:
        old = int(in_guest(modes, "df", "--output=size", "-B1", "/var/lib/llm").split()[-1])
        self.wanting(modes, "2GiB")
        assert "grow model disk" in modes.result("up", NODE)["changed"]
        assert int(in_guest(modes, "df", "--output=size", "-B1", "/var/lib/llm").split()[-1]) > 1.5 * old

    def test_it_is_there_again_after_a_wake(self, modes: Scene) -> None:
        modes.result("sleep", NODE)
        assert modes.result("wake", NODE)["endpoint"]["model"] == "tiny.gguf"
        assert in_guest(modes, "findmnt", "--noheadings", "--output", "LABEL", "/var/lib/llm") == "llm-models"
