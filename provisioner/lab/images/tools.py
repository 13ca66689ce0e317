"""Runs the programs that build images: mmdebstrap, mke2fs, qemu-img.

As root they work on plain folders. Anyone else builds in a user namespace, where
the tree belongs to ids that only `mmdebstrap --unshare-helper` may touch.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provisioner.errors import InputError, OutsideError
from provisioner.lab.images import debian
from provisioner.lab.images.store import Progress

BUILD_SECONDS = 1500
_HELPER_SECONDS = 300
_LAST_LINES = 12


def bootstrap(tree: Path, *, suite: str, options: Sequence[str], tell: Progress) -> None:
    """Fill `tree` with the packages of a Debian suite. Raises OutsideError."""
    if platform.machine() != "x86_64":
        raise InputError(
            f"cannot build images on a {platform.machine()} machine: the lab's guests are x86-64",
            subject="the embedded Proxmox lab on this machine",
            next_step="build on an x86-64 machine and copy its cache folder here",
        )
    common = [
        "--components=main",
        "--format=directory",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *(f"--aptopt={line}" for line in debian.apt_options()),
    ]
    where = [mirror] if (mirror := debian.mirror()) else []
    run(["mmdebstrap", f"--mode={_mode()}", *common, *options, suite, str(tree), *where], tell=tell)


def in_tree_owner(command: Sequence[str]) -> list[str]:
    """Return `command` as the user who owns a tree made by `bootstrap`."""
    return list(command) if _mode() == "root" else ["mmdebstrap", "--unshare-helper", *command]


@contextmanager
def tree_folder(work: Path) -> Iterator[Path]:
    """Yield a folder that a tree can be built in, and take it away with the tree afterwards.

    Without root it lies in the machine's temporary folder and is open to all:
    the namespace's ids have no way into a home, and must be able to write here.
    """
    if _mode() == "root":
        outer = Path(tempfile.mkdtemp(prefix="tree-", dir=work))
    else:
        outer = Path(tempfile.mkdtemp(prefix="provisioner-lab-"))
        outer.chmod(0o711)
    inner = outer / "open"
    inner.mkdir()
    inner.chmod(0o777)
    try:
        yield inner
    finally:
        if _mode() != "root":
            leftovers = [str(path) for path in inner.iterdir()]
            subprocess.run(
                in_tree_owner(["rm", "-rf", *leftovers]), capture_output=True, timeout=_HELPER_SECONDS, check=False
            )
        shutil.rmtree(outer, ignore_errors=True)


def run(command: Sequence[str], *, tell: Progress | None = None, timeout: float = BUILD_SECONDS) -> None:
    """Run a program to its end, passing on its lines. Raises OutsideError with its last words."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise OutsideError(
            f"cannot run {command[0]}: {error}",
            subject="the image builder",
            next_step="run `python -m provisioner.lab.host_packages`",
        ) from error
    # The limit has to hold while we sit in a read, so a timer ends the program, and the read with it.
    overdue = threading.Event()

    def end() -> None:
        overdue.set()
        process.kill()

    timer = threading.Timer(timeout, end)
    timer.start()
    try:
        with process:
            for line in process.stdout or ():
                if text := line.strip():
                    last.append(text)
                    if tell is not None and text.startswith(("I: ", "W: ", "E: ")):
                        tell(f"{command[0]}: {text[3:]}")
    except BaseException:
        process.kill()
        raise
    finally:
        timer.cancel()
    if overdue.is_set():
        last.append(f"(ended by us after {timeout:.0f} s)")
    if process.returncode != 0:
        raise OutsideError(
            f"cannot build: {command[0]} ended with {process.returncode}: " + " | ".join(last),
            subject="the image builder",
            next_step="mend what it names (most often the package mirror) and try again",
            retryable=True,
        )


def _mode() -> str:
    return "root" if os.geteuid() == 0 else "unshare"
