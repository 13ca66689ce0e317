"""Another machine with a wire to a guest: it comes in over TCP, through the guest's firewall."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.booted_guest.guest import BootedGuest, Play, wait_for

GUEST = "10.99.61.1"
OURS = "10.99.61.2"
NETWORK = "10.99.61.0/24"


class Outside:
    """A network namespace with a wire into the guest's, until the guest reboots."""

    def __init__(self, guest: BootedGuest) -> None:
        self._guest = guest
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], **quiet)  # type: ignore[call-overload]

    def __enter__(self) -> Outside:
        holder = self._holder.pid
        wait_for(lambda: Path(f"/proc/{holder}/comm").read_text() == "sleep\n", "a network of its own")
        pair = f"ip link add name wire type veth peer name wire netns {holder}"
        self._in(self._guest.first_process, f"{pair} && ip address add {GUEST}/24 dev wire && ip link set wire up")
        self._in(holder, f"ip link set lo up && ip address add {OURS}/24 dev wire && ip link set wire up")
        return self

    def __exit__(self, *_: object) -> None:
        # The kernel takes it away with the network too, but in its own time.
        self._in(self._guest.first_process, "ip link delete wire")
        self._holder.kill()
        self._holder.wait(30)

    def _in(self, pid: int, command: str) -> None:
        words = ["nsenter", "--target", str(pid), "--net", "--", "sh", "-c", command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    @property
    def enter(self) -> list[str]:
        """Words that run a command of this machine there."""
        return ["nsenter", "--target", str(self._holder.pid), "--net", "--"]

    def reaches(self, port: int) -> bool:
        """Tell whether a port of the guest takes connections."""
        knock = f"import socket; socket.create_connection(({GUEST!r}, {port}), timeout=1)"
        words = [*self.enter, sys.executable, "-IS", "-c", knock]
        return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0

    def play(self, playbook: str, variables: Mapping[str, Any], *more: str, port: int = 22, code: int = 0) -> Play:
        """Play a shipped playbook from there."""
        self._guest.inventory(GUEST, port)
        return self._guest.run_play([*self.enter, *self._guest.command(playbook, variables, *more)], code)
