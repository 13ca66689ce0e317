"""A real guest for tests: its seed, its keys, and ways to wait for it that have an end."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pycdlib

from provisioner.lab.guests.base import GuestHardware
from provisioner.lab.guests.qemu import QemuBackend

T = TypeVar("T")

VMID = 100
MAC = "BC:24:11:5E:ED:01"
INSIDE = "10.99.61.7"
OUTSIDE = "127.99.61.7"
BOOT_SECONDS = 240.0
"""Eight times what a boot takes on an idle machine without hardware acceleration."""


def host_key(folder: Path, name: str) -> Path:
    """Make a key pair with OpenSSH's own tool."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True, timeout=60
    )
    return folder / name


def write_seed(path: Path, documents: dict[str, str]) -> None:
    """Write a NoCloud ISO."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(documents.items()):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()


@dataclass
class World:
    """Everything around one guest, and a loop to run coroutines on, one after another."""

    folder: Path
    cache: Path
    backend: QemuBackend
    runner: asyncio.Runner
    hardware: GuestHardware
    gone: list[int]

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 120.0) -> T:
        """Run a coroutine to its end or to the limit."""

        async def limited() -> T:
            async with asyncio.timeout(seconds):
                return await work

        return self.runner.run(limited())

    def reopen(self) -> None:
        """Do what a restarted lab does: forget everything and look around."""
        self.run(self.backend.close(stop_guests=False))
        self.backend = self.new_backend()
        self.run(self.backend.open())

    def new_backend(self) -> QemuBackend:
        """Return a lab's backend as after a restart."""
        backend = QemuBackend(self.folder / "guests", self.cache)

        async def note(vmid: int) -> None:
            self.gone.append(vmid)

        backend.on_exit(note)
        return backend

    def power_on(self) -> None:
        """Start the guest and wait until one can log in."""
        self.run(self.backend.start(self.hardware))
        self.run(self.until_login(), BOOT_SECONDS)

    async def until_login(self) -> None:
        """Wait for SSH.

        The guest's sshd (OpenSSH 9.8 and later: PerSourcePenalties) shuts out an address that leaves before it has
        logged in (1 s each) or is refused (5 s each) once 15 s are owed: so only real logins knock, and seldom.
        """
        while True:
            done = await asyncio.to_thread(self.ssh, "true", check=False)
            if done.returncode == 0:
                return
            if "Host key verification failed" in done.stderr:
                raise AssertionError(done.stderr)
            refused = "Permission denied" in done.stderr or "System is booting up" in done.stderr
            await asyncio.sleep(6.0 if refused else 0.3)

    async def until_off(self) -> None:
        """Wait for the guest to be gone and its end to be told."""
        while self.backend.is_running(VMID) or not self.gone:
            await asyncio.sleep(0.02)

    def ssh(self, command: str, *, check: bool = True, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest with its host key pinned."""
        done = subprocess.run(
            ["ssh", *self._options("-p"), f"ops@{OUTSIDE}", command],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0 or not check, f"{command}: exit code {done.returncode}: {done.stderr}"
        return done

    def copy(self, paths: Sequence[Path]) -> None:
        """Copy files into the guest's home."""
        subprocess.run(
            ["scp", "-q", *self._options("-P"), *map(str, paths), f"ops@{OUTSIDE}:"], timeout=120, check=True
        )

    def _options(self, port: str) -> list[str]:
        settings = ("StrictHostKeyChecking=yes", f"UserKnownHostsFile={self.folder}/known", "BatchMode=yes")
        options = [word for setting in (*settings, "ConnectTimeout=10") for word in ("-o", setting)]
        return [*options, "-i", str(self.folder / "user"), port, "2222"]


def prepare(folder: Path) -> None:
    """Make the keys and the seed of the guest."""
    user, host = host_key(folder, "user"), host_key(folder, "host")
    host_public = host.with_suffix(".pub").read_text().strip()
    (folder / "known").write_text(f"[{OUTSIDE}]:2222 {' '.join(host_public.split()[:2])}\n")
    user_data = {
        "hostname": "guest-a",
        "manage_etc_hosts": True,
        "users": [
            {
                "name": "ops",
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [user.with_suffix(".pub").read_text().strip()],
            }
        ],
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": host.read_text(), "ed25519_public": host_public},
        "write_files": [{"path": "/etc/written", "content": "by cloud-init\n"}],
        "runcmd": [["touch", "/etc/ran"]],
    }
    network = {
        "version": 2,
        "ethernets": {
            "lan": {
                "match": {"macaddress": MAC.lower()},
                "addresses": [f"{INSIDE}/24"],
                "routes": [{"to": "0.0.0.0/0", "via": "10.99.61.1"}],
            }
        },
    }
    write_seed(
        folder / "seed.iso",
        {
            "user-data": "#cloud-config\n" + json.dumps(user_data),
            "meta-data": "instance-id: one\n",
            "network-config": json.dumps(network),
        },
    )
