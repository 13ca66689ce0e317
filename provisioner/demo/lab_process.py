"""The embedded Proxmox as a process of its own, started by the same command a person would type."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioner.adapters.processes import dying_with_us
from provisioner.errors import NotReadyError

_STOP_SECONDS = 30.0


@contextmanager
def running_lab(folder: Path, *, backend: str, cache: Path) -> Iterator[Path]:
    """Start a lab in `folder` on a free loopback port, yield its fleet file; end it with its guests afterwards.

    Raises:
        NotReadyError: it did not come up; its own words are in the summary.
    """
    fleet_file, log = folder / "fleet.yml", folder / "lab.log"
    command = dying_with_us(sys.executable, "-m", "provisioner", "lab", "--json", "--listen", "127.0.0.1:0")
    command += ["--backend", backend, "--state-dir", str(folder / "state"), "--fleet-out", str(fleet_file)]
    command += ["--boot-dir", str(cache), "--stop-guests"]
    with (
        log.open("w") as words,
        # A session of its own: Ctrl-C is ours to handle, the lab must outlive it until we have cleaned up.
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words, text=True, start_new_session=True
        ) as process,
    ):
        try:
            assert process.stdout is not None  # noqa: S101 - asked for above
            line = process.stdout.readline()
            if not line:
                process.wait(_STOP_SECONDS)
                raise NotReadyError(
                    f"cannot start the embedded Proxmox: {log.read_text().strip()[-1000:]}",
                    subject=" ".join(command),
                    next_step="mend what it names, then run the same command again",
                )
            yield fleet_file
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def processes_using(folder: Path) -> list[str]:
    """Return the command lines of processes that have `folder` in theirs: what a demonstration left running."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if str(folder) in words:
            found.append(f"{entry.name}: {words[:120]}")
    return found
