"""`PveHost`: the stand-in from the tests' side."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from provisioner.domain.fleet import HypervisorSpec, HypervisorSsh
from provisioner.domain.names import ClusterName, HypervisorName
from tests.pve_host import access, tree
from tests.pve_host.files import GRUB, HARDWARE, write
from tests.pve_host.typical import typical_sections

if TYPE_CHECKING:
    from provisioner.lab.harness import RunningLab

_START_SECONDS = 60.0
_NETWORK = "127.10.92"


@cache
def why_not() -> str | None:
    """Return why this machine cannot run the stand-in, None when it can."""
    if os.geteuid() != 0:
        return "the stand-in host needs root for its namespaces"
    if not Path("/usr/sbin/sshd").exists():
        return "openssh-server is not installed (make test-packages)"
    if not Path("/usr/bin/python3").exists():
        return "there is no /usr/bin/python3 for what Ansible runs on the stand-in host"
    words = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "true"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unshare does not run: {error}"
    return None if done.returncode == 0 else f"no new namespaces here: {done.stderr.strip()}"


def sections_of(dump: str) -> dict[str, str]:
    """Cut a dump's text into its sections."""
    sections: dict[str, str] = {}
    for part in ("\n" + dump).split("\n=== ")[1:]:
        name, _, body = part.partition("\n")
        sections[name.strip()] = body if body.endswith("\n") or not body else body + "\n"
    return sections


class PveHost:
    """A running stand-in for a Proxmox VE host; see the package's own words for what it is.

    Args:
        folder: an empty place for its files, usually `tmp_path / "pve1"`.
        dump: a host dump's text, or its sections by name; what it does not have cannot be learnt from the host.
        groups_when_on: IOMMU groups by address that appear once the IOMMU is on; one per slot if not given.
        has_vtd: the firmware has VT-d or AMD-Vi turned on.
        uefi: booted by UEFI; None: exactly if it is a systemd-boot host.
        user: `root`, or `admin`, who has sudo as `sudo` says.
        sudo: `free` (without a password), `password`, or None (not allowed).
        login: `key`, or `password` for a server that takes only passwords.
        host_keys: kinds of host keys that sshd offers.
        downtime: seconds between going down and coming up at a reboot.
        lab: the embedded Proxmox that `pvesh` talks to as root@pam.
    """

    def __init__(
        self,
        folder: Path,
        dump: str | Mapping[str, str],
        *,
        groups_when_on: Mapping[str, int] | None = None,
        has_vtd: bool = True,
        uefi: bool | None = None,
        user: str = "root",
        sudo: str | None = "free",
        login: str = "key",
        host_keys: tuple[str, ...] = ("ed25519", "ecdsa"),
        downtime: float = 0.2,
        lab: RunningLab | None = None,
    ) -> None:
        if user != "root" and not Path("/usr/bin/sudo").exists():
            pytest.skip("sudo is not installed (make test-packages)")
        self.folder = folder
        self.root = folder / "root"
        self.user = user
        self.private_key = folder / "admin_key"
        self._host_keys = host_keys
        self._downtime = downtime
        self._process: subprocess.Popen[str] | None = None
        self._events: list[str] = []
        self._news = threading.Condition()
        self._place = self.address, self.port = _free_place()
        folder.mkdir(parents=True, exist_ok=True)
        sections = sections_of(dump) if isinstance(dump, str) else dict(dump)
        tree.build(self.root, sections, groups_when_on=groups_when_on or {}, has_vtd=has_vtd, uefi=uefi)
        if user == "root":
            self.remove_command("sudo")  # Proxmox VE does not bring it
        access.write_access(self.root, self.private_key, host_keys, login=login, sudo=sudo, place=self._place)
        if lab is not None:
            self._connect_to(lab)

    @classmethod
    def typical(
        cls,
        folder: Path,
        *,
        cpu: str = "intel",
        boot_loader: str = GRUB,
        kernel: str = "new",
        gpus: int = 1,
        shared: bool = False,
        has_vtd: bool = True,
        secure_boot: bool = False,
        uefi: bool | None = None,
        user: str = "root",
        sudo: str | None = "free",
        downtime: float = 0.2,
        lab: RunningLab | None = None,
    ) -> PveHost:
        """A host with RTX 3090s (01:00, 02:00, ...) that nobody prepared yet.

        Args:
            folder: an empty place for its files.
            cpu: `intel` or `amd`.
            boot_loader: `grub` or `systemd-boot`.
            kernel: `old` (6.5: Intel's IOMMU is off without a flag), `new` (6.8: it is on), or a release.
            gpus: how many identical cards.
            shared: the first card shares its group with the disk.
            has_vtd, uefi, user, sudo, downtime, lab: as for the class.
            secure_boot: with UEFI only.
        """
        sections, groups = typical_sections(
            cpu=cpu,
            boot_loader=boot_loader,
            kernel=kernel,
            gpus=gpus,
            shared=shared,
            has_vtd=has_vtd,
            secure_boot=secure_boot,
        )
        return cls(
            folder,
            sections,
            groups_when_on=groups,
            has_vtd=has_vtd,
            uefi=uefi,
            user=user,
            sudo=sudo,
            downtime=downtime,
            lab=lab,
        )

    # --- what tests ask -------------------------------------------------------------------------------------------

    @property
    def host_key(self) -> str:
        """The host's first public key, as a line without a comment."""
        return " ".join(access.host_key_file(self.root, self._host_keys[0]).with_suffix(".pub").read_text().split()[:2])

    @property
    def known_hosts_line(self) -> str:
        """The line that makes an SSH client trust this host."""
        return f"[{self.address}]:{self.port} {self.host_key}\n"

    @property
    def ssh(self) -> HypervisorSsh:
        """How to log in, as a fleet file says it, with the host key and the private key given."""
        return HypervisorSsh(self.address, self.user, self.port, self.host_key, self.private_key)

    def spec(self, name: str = "pve1", ssh: HypervisorSsh | None = None) -> HypervisorSpec:
        """The hypervisor as a fleet file describes it."""
        return HypervisorSpec(HypervisorName(name), ClusterName("homelab"), {}, ssh or self.ssh)

    def path(self, name: str) -> Path:
        """Where a file of the host lies on this machine: `path("/etc/default/grub")`."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """A file of the host."""
        return self.path(name).read_text()

    @property
    def running_command_line(self) -> str:
        """`/proc/cmdline`."""
        return self.read(f"{HARDWARE}/proc/cmdline").strip()

    @property
    def boot_id(self) -> str:
        """It changes with every boot."""
        return self.read(f"{HARDWARE}/proc/boot_id").strip()

    def driver_of(self, address: str) -> str | None:
        """Who drives a device now."""
        link = self.path(f"/sys/devices/pci0000:00/{address}/driver")
        return os.readlink(link).rpartition("/")[2] if link.is_symlink() else None

    def commands(self, name: str | None = None) -> list[list[str]]:
        """Every call of one of the stand-in's commands so far, name first; or those of one command."""
        lines = self.read(f"{HARDWARE}/commands.log").splitlines()
        calls = [line.split("\x1f") for line in lines]
        return [call for call in calls if name is None or call[0] == name]

    def sessions(self) -> list[str]:
        """The command of every SSH session so far, as the client sent it."""
        return self.read(f"{HARDWARE}/sessions.log").split("\x1e")[:-1]

    def logins(self) -> int:
        """How often somebody logged in."""
        log = self.root / HARDWARE / "sshd.log"
        return log.read_text().count("Accepted ") if log.exists() else 0

    @property
    def events(self) -> list[str]:
        """What happened to it: `up`, `down`, `does-not-boot`, in order; the first `up` is the start."""
        with self._news:
            return list(self._events)

    @contextmanager
    def reboots(self, seconds: float = _START_SECONDS) -> Iterator[None]:
        """Whatever runs inside makes it reboot; left once it is up again."""
        before = self.events.count("up")
        yield
        self._await(lambda: self._events.count("up") > before, "the stand-in did not come up again", seconds)

    def wait_for(self, event: str, seconds: float = _START_SECONDS) -> None:
        """Wait until an event has happened, whenever that was."""
        self._await(lambda: event in self._events, f"the stand-in has no {event}", seconds)

    # --- what tests do to it --------------------------------------------------------------------------------------

    def reboot(self) -> None:
        """Reboot it, as the power button would, and wait until it is up."""
        with self.reboots():
            self._command("reboot")

    def stay_down(self) -> None:
        """At the next reboot it does not come back."""
        write(self.root / HARDWARE / "stays_down", "")

    def hang(self, *names: str) -> None:
        """These commands do not end any more."""
        for name in names:
            write(self.root / HARDWARE / "hang" / name, "")

    def unhang(self, *names: str) -> None:
        """These commands end again."""
        for name in names:
            (self.root / HARDWARE / "hang" / name).unlink()

    def fail(self, name: str, words: str = "it broke", code: int = 1) -> None:
        """This command fails with these words."""
        write(self.root / HARDWARE / "fail" / name, f"{code}\n{words}\n")

    def flood(self) -> None:
        """dmesg prints without end."""
        write(self.root / HARDWARE / "flood", "")

    def remove_command(self, name: str) -> None:
        """This command is not installed."""
        for folder in ("bin", "sbin"):
            (self.root / "usr" / folder / name).unlink(missing_ok=True)

    def lock_etc(self) -> None:
        """/etc is read-only from now on."""
        self._command("lock-etc", answer="lock-etc")

    def fill(self, folder: str) -> None:
        """A folder of the host gets a file system of its own, in which nothing more has room."""
        assert self._process is not None
        first = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()[0]
        place = self.path(folder)
        place.mkdir(parents=True, exist_ok=True)
        page = os.sysconf("SC_PAGE_SIZE")
        mount = f"mount -t tmpfs -o size={page} none {place} && head -c {page} /dev/zero >{place}/full"
        subprocess.run(["nsenter", "-t", first, "-m", "sh", "-c", mount], check=True, timeout=30)

    def cut_sessions(self) -> None:
        """Every open connection breaks."""
        self._command("cut", answer="cut")

    def replace_host_keys(self) -> None:
        """Another machine answers at the address, or this one was installed anew."""
        access.make_host_keys(self.root, self._host_keys)
        before = self.events.count("up")
        self._command("restart-sshd")
        self._await(lambda: self._events.count("up") > before, "sshd did not come up again")

    # --- the machinery --------------------------------------------------------------------------------------------

    def __enter__(self) -> PveHost:
        options = json.dumps({"address": self.address, "port": self.port, "downtime": self._downtime})
        program = str(Path(__file__).parent / "supervisor.py")
        words = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        errors = (self.folder / "supervisor.log").open("w")
        with errors:
            self._process = subprocess.Popen(
                [*words, sys.executable, "-B", program, str(self.root), options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._await(lambda: "up" in self._events, "the stand-in did not start")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.close()
            process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()

    def _listen(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                with self._news:
                    self._events.append(line.strip())
                    self._news.notify_all()
        with self._news:
            self._events.append("ended")
            self._news.notify_all()

    def _await(self, is_true: object, complaint: str, seconds: float = _START_SECONDS) -> None:
        assert callable(is_true)
        with self._news:
            self._news.wait_for(lambda: is_true() or "ended" in self._events, seconds)
            if not is_true():
                words = (self.folder / "supervisor.log").read_text()
                raise RuntimeError(f"{complaint} (events: {', '.join(self._events)}): {words}")

    def _command(self, word: str, answer: str | None = None) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        before = self.events.count(answer) if answer else 0
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        if answer:
            self._await(lambda: self._events.count(answer) > before, f"the stand-in did not {word}")

    def _connect_to(self, lab: RunningLab) -> None:
        shutil.copy(lab.certificate_file, self.root / HARDWARE / "lab-ca.pem")
        access = {"url": lab.url, "password": lab.credentials["root@pam"], "ca_file": "/.hardware/lab-ca.pem"}
        write(self.root / HARDWARE / "lab.json", json.dumps(access))
        (self.root / HARDWARE / "lab.json").chmod(0o600)


def _free_place() -> tuple[str, int]:
    address = f"{_NETWORK}.{os.getpid() % 200 + 1}"
    with socket.socket() as probe:
        probe.bind((address, 0))
        return address, int(probe.getsockname()[1])
