"""Chooses between hardware virtualization and software emulation, by trial.

That /dev/kvm exists and opens proves nothing: some cloud machines offer a KVM
that boots no ordinary kernel, and QEMU then hangs instead of failing. So KVM is
taken only where the processor has the instructions and a guest really started.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

TRIAL_SECONDS = 20.0
_LOOK_AGAIN_SECONDS = 0.1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CPUINFO = Path("/proc/cpuinfo")
_KVM = Path("/dev/kvm")


class Acceleration(StrEnum):
    """How QEMU runs a guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


def choose(
    setting: str,
    *,
    remembered_in: Path,
    kernel: Path | None = None,
    trial: Callable[[Path | None], bool] | None = None,
    cpuinfo: Path = _CPUINFO,
    kvm: Path = _KVM,
    boot_id: Path = _BOOT_ID,
) -> Acceleration:
    """Return what to run guests with; blocks for the length of a trial boot at most.

    Args:
        setting: "kvm" or "tcg" are obeyed; "auto" asks the machine.
        remembered_in: file that keeps the verdict of a trial until the machine reboots.
        kernel: a kernel to try; without one the trial goes as far as the firmware.
        trial: what to try with, for tests.
        cpuinfo: where the processor's flags are read.
        kvm: the device file of KVM.
        boot_id: where the running boot's name is read.
    """
    if setting != "auto":
        return Acceleration(setting)
    if not _processor_can(cpuinfo) or not os.access(kvm, os.R_OK | os.W_OK):
        return Acceleration.TCG
    boot = boot_id.read_text(encoding="ascii").strip()
    if (known := _recall(remembered_in, boot)) is not None:
        return known
    verdict = Acceleration.KVM if (trial or try_kvm)(kernel) else Acceleration.TCG
    remembered_in.parent.mkdir(parents=True, exist_ok=True)
    remembered_in.write_text(json.dumps({"boot": boot, "verdict": verdict}) + "\n", encoding="utf-8")
    return verdict


def try_kvm(kernel: Path | None, *, seconds: float = TRIAL_SECONDS) -> bool:
    """Start a guest under KVM and say whether its kernel (or, without one, its firmware) spoke."""
    with tempfile.TemporaryDirectory(prefix="provisioner-kvm-") as folder:
        spoken = Path(folder) / "spoken"
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "kvm"]
        command += ["-cpu", "host", "-m", "256", "-display", "none", "-no-reboot"]
        if kernel is None:
            # SeaBIOS tells its story on this port, whoever listens.
            command += ["-chardev", f"file,id=log,path={spoken}", "-device", "isa-debugcon,iobase=0x402,chardev=log"]
            expected = b"SeaBIOS"
        else:
            command += ["-serial", f"file:{spoken}", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
            expected = b"Linux version"
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError:
            return False
        try:
            return _heard(process, spoken, expected, time.monotonic() + seconds)
        finally:
            process.kill()
            process.wait(timeout=10)


def _heard(process: subprocess.Popen[bytes], spoken: Path, expected: bytes, deadline: float) -> bool:
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if spoken.exists() and expected in spoken.read_bytes():
            return True
        if ended:
            return False
        time.sleep(_LOOK_AGAIN_SECONDS)
    return False


def _processor_can(cpuinfo: Path) -> bool:
    try:
        return (
            re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo.read_text(encoding="ascii", errors="replace"), re.M)
            is not None
        )
    except OSError:
        return False


def _recall(path: Path, boot: str) -> Acceleration | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Acceleration(kept["verdict"]) if kept["boot"] == boot else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
