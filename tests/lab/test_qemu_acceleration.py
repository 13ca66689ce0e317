"""KVM is taken only where it was proven."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from provisioner.lab.guests.acceleration import Acceleration, choose, try_kvm

WITH_VMX = "processor : 0\nflags\t\t: fpu vme vmx sse\n"
WITHOUT = "processor : 0\nflags\t\t: fpu vme sse vmxnet\n"


class Trial:
    """Stands in for the trial boot and counts."""

    def __init__(self, verdict: bool) -> None:
        self.verdict = verdict
        self.count = 0

    def __call__(self, _kernel: Path | None) -> bool:
        self.count += 1
        return self.verdict


class Machine:
    """A machine made of files."""

    def __init__(self, folder: Path, cpuinfo: str = WITH_VMX) -> None:
        self.cpuinfo, self.kvm, self.boot_id = folder / "cpuinfo", folder / "kvm", folder / "boot_id"
        self.remembered_in = folder / "run" / "acceleration.json"
        self.cpuinfo.write_text(cpuinfo)
        self.kvm.touch()
        self.boot_id.write_text("boot-1\n")

    def choose(self, trial: Trial, setting: str = "auto") -> Acceleration:
        return choose(
            setting,
            remembered_in=self.remembered_in,
            trial=trial,
            cpuinfo=self.cpuinfo,
            kvm=self.kvm,
            boot_id=self.boot_id,
        )


@pytest.mark.parametrize(("verdict", "chosen"), [(True, Acceleration.KVM), (False, Acceleration.TCG)])
def test_the_trial_decides_and_is_asked_once_per_boot(tmp_path: Path, verdict: bool, chosen: Acceleration) -> None:
    machine, trial = Machine(tmp_path), Trial(verdict)
    assert machine.choose(trial) is chosen
    assert machine.choose(trial) is chosen
    assert trial.count == 1
    machine.boot_id.write_text("boot-2\n")
    assert machine.choose(trial) is chosen
    assert trial.count == 2


def test_a_processor_without_the_instructions_is_not_even_tried(tmp_path: Path) -> None:
    trial = Trial(True)
    assert Machine(tmp_path, WITHOUT).choose(trial) is Acceleration.TCG
    assert trial.count == 0


def test_without_the_device_nothing_is_tried(tmp_path: Path) -> None:
    machine, trial = Machine(tmp_path), Trial(True)
    machine.kvm.unlink()
    assert machine.choose(trial) is Acceleration.TCG
    assert trial.count == 0


@pytest.mark.parametrize("setting", ["kvm", "tcg"])
def test_a_setting_is_obeyed_untried(tmp_path: Path, setting: str) -> None:
    trial = Trial(False)
    assert Machine(tmp_path).choose(trial, setting) == setting
    assert trial.count == 0


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hvf"):
        Machine(tmp_path).choose(Trial(True), "hvf")


def test_a_broken_note_is_written_anew(tmp_path: Path) -> None:
    machine, trial = Machine(tmp_path), Trial(True)
    machine.remembered_in.parent.mkdir()
    machine.remembered_in.write_text("{")
    assert machine.choose(trial) is Acceleration.KVM
    assert trial.count == 1


@pytest.fixture
def pretended_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called QEMU in front of the search path; the test writes what it does."""
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def write(program: Path, body: str) -> None:
    program.write_text('#!/bin/sh\nfor word in "$@"; do case $word in file:*) out=${word#file:};; esac; done\n' + body)
    program.chmod(0o755)


def test_a_kernel_that_speaks_proves_kvm(pretended_qemu: Path, tmp_path: Path) -> None:
    write(pretended_qemu, 'echo "[ 0.000] Linux version 6.12" > "$out"; exec sleep 30\n')
    assert try_kvm(tmp_path / "vmlinuz", seconds=10)


def test_a_hanging_qemu_proves_nothing_and_is_ended(pretended_qemu: Path, tmp_path: Path) -> None:
    write(pretended_qemu, f'echo $$ > {tmp_path}/pid; echo "KVM internal error" > "$out"; exec sleep 30\n')
    assert not try_kvm(tmp_path / "vmlinuz", seconds=1)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_qemu_that_fails_is_not_waited_for(pretended_qemu: Path, tmp_path: Path) -> None:
    write(pretended_qemu, "exit 1\n")
    before = time.monotonic()
    assert not try_kvm(tmp_path / "vmlinuz", seconds=20)
    assert time.monotonic() - before < 10


@pytest.mark.qemu
def test_the_real_trial_comes_back_in_time() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no QEMU here")
    before = time.monotonic()
    try_kvm(None, seconds=5)
    assert time.monotonic() - before < 20
