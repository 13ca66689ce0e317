"""The first process of the stand-in's own namespaces: mounts its file systems, keeps sshd, boots the machine anew.

Started by `PveHost` as `unshare --mount --uts --ipc --pid --fork ... supervisor.py ROOT OPTIONS`. It ends, and the
kernel ends all else in its namespace with it, when the other end of its standard input is closed.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.pve_host import files
from tests.pve_host.files import ESP, HARDWARE, SYSTEMD_BOOT
from tests.pve_host.machine import boot
from tests.pve_host.tree import ETC_FOLDERS

_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 32, 4096, 16384
_PROC_FILES = {
    "cmdline": "cmdline",
    "iomem": "iomem",
    "cpuinfo": "cpuinfo",
    "meminfo": "meminfo",
    "boot_id": "sys/kernel/random/boot_id",
}
_HOST_NAME = b"pve1"
# A real machine answers `reboot` before it takes the connections away.
_FAREWELL_SECONDS = 0.1
_LISTEN_SECONDS = 20.0


class Supervisor:
    """The stand-in's hardware switch."""

    def __init__(self, root: Path, options: dict[str, Any]) -> None:
        self._root = root
        self._options = options
        self._sshd = 0

    def run(self) -> None:
        """Mount, start, and then obey until standard input ends."""
        self._mount()
        _LIBC.sethostname(_HOST_NAME, len(_HOST_NAME))
        # Opened for writing too, so that it never reports an end when its last writer leaves.
        control = os.open(self._root / HARDWARE / "control", os.O_RDWR)
        self._start_sshd()
        tell("up")
        while True:
            ready, _, _ = select.select([0, control], [], [], 0.2)
            self._reap()
            for descriptor in ready:
                words = os.read(descriptor, 4096).decode().split()
                if descriptor == 0 and not words:
                    return
                for word in words:
                    self._obey(word)

    def _obey(self, word: str) -> None:
        if word == "reboot":
            self._go_down()
            if (self._root / HARDWARE / "stays_down").exists() or not self._boot():
                return
            self._start_sshd()
            tell("up")
        elif word == "poweroff":
            self._go_down()
        elif word == "restart-sshd":
            self._kill_all()
            self._start_sshd()
            tell("up")
        elif word == "cut":
            self._kill_sessions()
            tell("cut")
        elif word in ("lock-etc", "unlock-etc"):
            flag = _MS_RDONLY if word == "lock-etc" else 0
            mount(None, self._root / "etc", flags=_MS_REMOUNT | _MS_BIND | flag)
            tell(word)

    def _go_down(self) -> None:
        time.sleep(_FAREWELL_SECONDS)
        self._kill_all()
        tell("down")
        time.sleep(self._options["downtime"])

    def _boot(self) -> bool:
        """Boot with what the boot loader's own entries say. False: it found nothing that it could boot."""
        hardware, more = files.read_machine(self._root)
        found = self._entry(more["boot_loader"])
        if found is None:
            tell("does-not-boot")
            return False
        kernel, command_line, initrd = found
        modules = [
            line.split()[0]
            for path in [self._root / "etc/modules", *(self._root / "etc/modules-load.d").glob("*.conf")]
            if path.exists()
            for line in path.read_text().splitlines()
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if more["boot_loader"] == SYSTEMD_BOOT:
            prefix = f"initrd=\\EFI\\proxmox\\{kernel}\\initrd.img-{kernel}"
        else:
            prefix = f"BOOT_IMAGE=/boot/vmlinuz-{kernel}"
        files.show_booted(self._root, hardware, boot(hardware, kernel, f"{prefix} {command_line}", initrd, modules))
        return True

    def _entry(self, boot_loader: str) -> tuple[str, str, str] | None:
        """Return kernel, command line and initrd of the first entry that has all three."""
        esp = self._root / ESP
        if boot_loader == SYSTEMD_BOOT:
            for path in sorted((esp / "loader" / "entries").glob("proxmox-*.conf"), reverse=True):
                values = dict(line.split(None, 1) for line in path.read_text().splitlines() if len(line.split()) > 1)
                initrd = esp / values.get("initrd", "/none").lstrip("/")
                if "root=" in values.get("options", "") and initrd.exists():
                    return values["version"], " ".join(values["options"].split()), initrd.read_text()
            return None
        place = esp if (esp / "grub").exists() else self._root / "boot"
        config = place / "grub" / "grub.cfg"
        text = config.read_text() if config.exists() else ""
        found = re.search(r"^\s*linux /boot/vmlinuz-(\S+) (.*)$", text, re.MULTILINE)
        if found is None or "root=" not in found[2] or not (place / f"initrd.img-{found[1]}").exists():
            return None
        return found[1], " ".join(found[2].split()), (place / f"initrd.img-{found[1]}").read_text()

    def _mount(self) -> None:
        root = self._root
        for name in os.listdir("/usr"):
            if name not in ("bin", "sbin"):
                bind_read_only(f"/usr/{name}", root / "usr" / name)
        for name in ("bin", "sbin"):
            bind_read_only(f"/usr/{name}", root / ".machine" / "usr" / name)
        for name in ("lib", "lib32", "lib64", "libx32"):
            if (root / name).is_dir() and not (root / name).is_symlink():
                bind_read_only(f"/{name}", root / name)
        mount("/dev", root / "dev", flags=_MS_BIND | _MS_REC)
        mount("proc", root / "proc", kind="proc")
        for name, place in _PROC_FILES.items():
            mount(root / HARDWARE / "proc" / name, root / "proc" / place, flags=_MS_BIND)
        # A mount of its own, so that it can be made read-only while the rest is not.
        mount(root / "etc", root / "etc", flags=_MS_BIND)
        for name in ETC_FOLDERS:
            if (root / "etc" / name).is_dir():
                bind_read_only(f"/etc/{name}", root / "etc" / name)

    def _start_sshd(self) -> None:
        self._sshd = os.fork()
        if self._sshd == 0:
            os.chroot(self._root)
            os.chdir("/")
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            log = "/.hardware/sshd.log"
            os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-E", log, "-f", "/.hardware/sshd_config"])
        end = time.monotonic() + _LISTEN_SECONDS
        while time.monotonic() < end:
            try:
                socket.create_connection((self._options["address"], self._options["port"]), timeout=1).close()
                return
            except OSError:
                time.sleep(0.01)
            if os.waitpid(self._sshd, os.WNOHANG)[0]:
                break
        raise SystemExit("sshd does not listen: " + (self._root / HARDWARE / "sshd.log").read_text())

    def _kill_all(self) -> None:
        """End every other process, and see the last of it: an sshd that still listens would be taken for the next."""
        try:
            os.kill(-1, signal.SIGKILL)
            while True:
                os.wait()
        except (ProcessLookupError, ChildProcessError):
            return

    def _kill_sessions(self) -> None:
        for name in os.listdir(self._root / "proc"):
            if name.isdigit() and int(name) not in (1, self._sshd):
                try:
                    os.kill(int(name), signal.SIGKILL)
                except ProcessLookupError:
                    continue

    @staticmethod
    def _reap() -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def mount(source: object, target: Path, *, kind: str | None = None, flags: int = 0) -> None:
    """Call mount(2)."""
    words = [None if word is None else str(word).encode() for word in (source, target, kind)]
    if _LIBC.mount(words[0], words[1], words[2], flags, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"mount {source} on {target}")


def bind_read_only(source: str, target: Path) -> None:
    """Show a folder of the real machine in the stand-in, where nothing can change it."""
    mount(source, target, flags=_MS_BIND | _MS_REC)
    mount(None, target, flags=_MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def tell(word: str) -> None:
    """Say on standard output what happened."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Killing "everybody" is right in a namespace of our own, and nowhere else.
    if os.getpid() != 1 or os.getppid() != 0:
        raise SystemExit("this runs as the first process of a new process namespace only")
    Supervisor(Path(sys.argv[1]), json.loads(sys.argv[2])).run()
