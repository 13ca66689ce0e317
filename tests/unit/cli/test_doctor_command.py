"""What `doctor --from-file` makes of files that are no good, and how it looks on terminals of any width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

DUMP = """=== uname
6.5.11-8-pve
=== cpu
vendor_id: GenuineIntel
model name: Intel(R) Xeon(R) W-2245 CPU @ 3.90GHz with a name that goes on
=== iommu_groups
/sys/kernel/iommu_groups/1/devices/0000:01:00.0
/sys/kernel/iommu_groups/1/devices/0000:02:00.0
=== lspci
0000:01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP102 [GeForce GTX 1080 Ti] [10de:1b06] (rev a1)
\tKernel driver in use: nouveau
0000:02:00.0 Non-Volatile memory controller [0108]: Samsung Electronics Co Ltd NVMe SSD Controller SM981 [144d:a808]
\tKernel driver in use: nvme
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "provisioner", "doctor", *arguments]


def judge(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = command("--from-file", str(path), *arguments)
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


BAD = {
    "nothing": b"",
    "binary": os.urandom(4096),
    "zeros": b"\0" * 4096,
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "someone's notes": b"my notes\n=========\nlspci shows the card\n",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_what_is_no_dump_gets_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dump"
    path.write_bytes(content)
    done = judge(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no line of it begins a section" in done.stderr
    assert "next: " in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_read_gets_a_sentence(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(DUMP)
    secret.chmod(0o000)
    cases = [tmp_path, tmp_path / "missing", tmp_path / ("x" * 300)]
    for path in cases if os.geteuid() == 0 else [*cases, secret]:
        done = judge(path, "--json")
        assert done.returncode == 1
        assert '"error": "InputError"' in done.stdout
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        DUMP.encode()[:-40],
        DUMP.encode().replace(b"Samsung", b"S\xe4ms\xff\xfeng"),
        DUMP.encode("utf-16"),
        DUMP.encode() + os.urandom(10_000),
        DUMP.encode().replace(b"lspci\n", b"lspci\n" + b"x" * 1_000_000 + b"\n"),
    ],
    ids=["cut off", "latin-1", "utf-16", "garbage behind", "a very long line"],
)
def test_a_damaged_dump_is_judged_as_far_as_it_goes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dump"
    path.write_bytes(content)
    done = judge(path)
    assert done.returncode == 3, done.stderr
    assert "10de:1b06" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("next: ")


def test_a_dump_may_come_from_a_pipe(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--from-file", "/dev/stdin", "--json"),
        input=DUMP,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert '"iommu_group_shared"' in done.stdout


def on_terminal(path: Path, columns: int) -> list[str]:
    """Return the lines that a terminal of this width would show, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        command("--from-file", path.name),
        cwd=path.parent,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        text = b""
        while piece := _read(ours):
            text += piece
        process.wait(timeout=60)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side has closed
        return b""


@pytest.mark.parametrize("columns", [60, 80, 100, 119])
def test_on_a_narrow_terminal_nothing_is_cut_and_only_commands_run_over(tmp_path: Path, columns: int) -> None:
    path = tmp_path / "dump"
    path.write_text(DUMP)
    lines = on_terminal(path, columns)
    assert any("NVIDIA GeForce GTX 1080 Ti (10de:1b06)" in line for line in lines)
    long = [line for line in lines if len(line.rstrip()) > columns]
    assert all("`" in line for line in long)  # a command is there to be copied, so it is not broken


def test_on_a_wide_terminal_gpus_stand_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(DUMP)
    lines = on_terminal(path, 160)
    (head,) = (line for line in lines if "shares it with" in line)
    (row,) = (line for line in lines if "GTX 1080 Ti" in line)
    assert head.index("verdict") == row.index("cannot go alone")
    assert row.index("0000:02:00.0") == head.index("shares it with")


def test_findings_stand_worst_first(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(DUMP)
    lines = judge(path).stdout.splitlines()
    labels = [line.split("]")[0] + "]" for line in lines if line.startswith("[")]
    assert labels == sorted(labels, key=["[fail]", "[warn]"].index)
    assert set(labels) == {"[fail]", "[warn]"}
