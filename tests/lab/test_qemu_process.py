"""Finding and watching processes that another lab started. A patient Python stands in for QEMU."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provisioner.lab.guests.base import GuestFailure
from provisioner.lab.guests.qemu.process import adopt, command_of

Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *arguments])
        started.append(process)
        deadline = time.monotonic() + 10
        # Between fork and exec the process still looks like us, and for a moment like nobody.
        while command_of(process.pid)[3:] != list(arguments):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=10)


def test_a_found_process_is_watched_and_its_end_told_once(tmp_path: Path, spawn: Spawn) -> None:
    pid_file = tmp_path / "qemu.pid"
    process = spawn("-pidfile", str(pid_file))
    pid_file.write_text(f"{process.pid}\n")
    told: list[str] = []

    async def scenario() -> None:
        watched = adopt(pid_file, lambda: told.append("gone"))
        assert watched is not None
        assert watched.pid == process.pid
        watched.kill()
        await watched.gone(10)
        watched.kill()  # nobody there any more: no harm
        await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert told == ["gone"]
    assert process.wait(timeout=10) == -9


def test_a_stranger_with_the_same_pid_is_left_alone(tmp_path: Path, spawn: Spawn) -> None:
    pid_file = tmp_path / "qemu.pid"
    process = spawn("-pidfile", str(tmp_path / "another.pid"))
    pid_file.write_text(f"{process.pid}\n")

    async def scenario() -> None:
        assert adopt(pid_file, lambda: None) is None

    asyncio.run(scenario())
    assert process.poll() is None


@pytest.mark.parametrize("text", ["", "x", "999999999"])
def test_a_pid_file_without_a_living_process_finds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "qemu.pid").write_text(text)

    async def scenario() -> None:
        assert adopt(tmp_path / "qemu.pid", lambda: None) is None
        assert adopt(tmp_path / "missing.pid", lambda: None) is None

    asyncio.run(scenario())


def test_uptime_is_the_kernels_account(tmp_path: Path, spawn: Spawn) -> None:
    pid_file = tmp_path / "qemu.pid"
    pid_file.write_text(str(spawn("-pidfile", str(pid_file)).pid))
    time.sleep(0.5)

    async def scenario() -> float:
        watched = adopt(pid_file, lambda: None)
        assert watched is not None
        try:
            return watched.uptime_seconds()
        finally:
            watched.release()

    assert 0.3 < asyncio.run(scenario()) < 30


def test_waiting_for_one_that_stays_has_an_end(tmp_path: Path, spawn: Spawn) -> None:
    pid_file = tmp_path / "qemu.pid"
    process = spawn("-pidfile", str(pid_file))
    pid_file.write_text(str(process.pid))

    async def scenario() -> None:
        watched = adopt(pid_file, lambda: None)
        assert watched is not None
        with pytest.raises(GuestFailure, match=f"{process.pid} did not end"):
            await watched.gone(0.1)
        before = len(os.listdir("/proc/self/fd"))
        watched.release()
        watched.release()
        assert len(os.listdir("/proc/self/fd")) == before - 1

    asyncio.run(scenario())
    assert process.poll() is None
