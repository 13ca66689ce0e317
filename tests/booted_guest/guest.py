"""Starts the tree, keeps hold of its process 1, and plays playbooks on it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from provisioner.adapters.files.shipped import shipped_folder
from provisioner.lab.images import guest_image
from provisioner.lab.images.store import default_cache_dir

_HERE = Path(__file__).parent
_NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--net", "--cgroup")
# They ask for hardware, or for the network that the real image has.
_MASKED = (
    *("systemd-networkd.service", "systemd-networkd.socket", "systemd-udevd.service", "systemd-udevd-control.socket"),
    *("systemd-udevd-kernel.socket", "systemd-udev-trigger.service", "systemd-growfs-root.service"),
    *("systemd-remount-fs.service", "cloud-init.target", "qemu-guest-agent.service"),
)


def why_not() -> str | None:
    """Return why no guest can be booted so here, or None."""
    if os.geteuid() != 0:
        return "namespaces with a systemd of their own need root"
    for program in ("unshare", "nsenter", "debugfs", "qemu-img", "ssh"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    words = ["unshare", *_NAMESPACES, "--fork", "sh", "-c", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"no namespaces with control groups: {tried.stderr.strip()}"
    if not any(guest_image.manifests(default_cache_dir())):
        return "the lab's guest image has not been built here: the QEMU tests or the demo do"
    return None


def wait_for(claim: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until something is true; raise AssertionError when it does not become so."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if claim():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        threading.Event().wait(0.05)


@dataclass(frozen=True)
class Play:
    """What a run of ansible-playbook said."""

    text: str
    code: int

    @property
    def changed(self) -> int:
        """How many tasks changed something, by its own count."""
        return int(self.text.rsplit("changed=", 1)[1].split()[0])

    @property
    def changes(self) -> list[str]:
        """The names of the tasks that changed something."""
        tasks = (part.split("]", 1) for part in self.text.split("TASK [")[1:])
        return [name for name, said in tasks if re.search(r"^changed: ", said, re.MULTILINE)]

    @property
    def plays_with_changes(self) -> list[str]:
        """The names of the plays in which a task changed something."""
        plays = (part.split("]", 1) for part in self.text.split("PLAY [")[1:])
        return [name for name, said in plays if re.search(r"^changed: ", said, re.MULTILINE)]


class BootedGuest:
    """One machine; a folder is its disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._served: dict[int, Path] = {}
        self._servers: list[subprocess.Popen[bytes]] = []
        # Short, because the paths of sockets are limited.
        self._sockets = tempfile.mkdtemp(prefix="guest-", dir="/tmp")

    def __enter__(self) -> BootedGuest:
        self._lay_down()
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_the_power()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _lay_down(self) -> None:
        image = next(guest_image.manifests(default_cache_dir()))
        self.tree.mkdir(parents=True)
        raw = self.folder / "disk.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(image.qcow2), str(raw)], check=True, timeout=120)
        subprocess.run(
            ["debugfs", "-R", f"rdump / {self.tree}", str(raw)], check=True, timeout=120, capture_output=True
        )
        raw.unlink()
        # Copied out of a file system, files lose their set-user-id bits.
        (self.tree / "usr/bin/sudo").chmod(0o4755)
        for folder in ("tmp", "var/tmp"):
            (self.tree / folder).chmod(0o1777)
        for unit in _MASKED:
            link = self.tree / "etc/systemd/system" / unit
            link.unlink(missing_ok=True)
            link.symlink_to("/dev/null")
        (self.tree / "etc/fstab").write_text("")
        (self.tree / "etc/hosts").write_text("127.0.0.1 localhost guest\n")
        (self.tree / "etc/sudoers.d/ops").write_text("ops ALL=(ALL) NOPASSWD:ALL\n")
        for name in ("null", "urandom"):
            # A chroot before the first boot has no devices yet.
            (self.tree / "dev" / name).unlink(missing_ok=True)
            os.mknod(self.tree / "dev" / name, 0o20666, os.stat(f"/dev/{name}").st_rdev)
        key = self.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=60)
        script = (
            "ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key && useradd -m -s /bin/bash -p '*' ops && "
            "install -d -o ops -g ops -m 700 /home/ops/.ssh && cat > /home/ops/.ssh/authorized_keys"
        )
        words = ["chroot", str(self.tree), "sh", "-c", script]
        subprocess.run(words, input=key.with_suffix(".pub").read_bytes(), check=True, timeout=60)
        host_key = (self.tree / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"guest {host_key[0]} {host_key[1]}\n")

    @property
    def host_key(self) -> str:
        """Its public host key, as a node's notes hold it."""
        return " ".join((self.folder / "known_hosts").read_text().split()[1:])

    @property
    def private_key(self) -> Path:
        """Lets one in as `ops`."""
        return self.folder / "key"

    def boot(self) -> None:
        """Start process 1, and wait until systemd has started what it wants to."""
        self._end_servers()
        log = (self.folder / "console.log").open("ab")
        words = ["unshare", *_NAMESPACES, "--fork", "--kill-child", "bash", str(_HERE / "boot.sh"), str(self.tree)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        wait_for(lambda: children.read_text().strip(), "a first process")
        self._pid = int(children.read_text().split()[0])
        wait_for(lambda: Path(f"/proc/{self._pid}/comm").read_text() == "systemd\n", "systemd")
        state = "systemctl is-system-running --wait"
        wait_for(lambda: self.run(state, check=False).stdout in ("running\n", "degraded\n"), "a boot")
        assert not (failed := self.run("systemctl --failed --no-legend --plain").stdout), failed
        self._write_proxy()
        for port, folder in self._served.items():
            self.serve(folder, port)

    def cut_the_power(self) -> None:
        """End everything in it at once."""
        if self._process is None:
            return
        self._end_servers()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)
        self._process = None

    def _end_servers(self) -> None:
        for server in self._servers:
            server.kill()
            server.wait(30)
        self._servers.clear()

    @contextmanager
    def coming_back(self) -> Iterator[None]:
        """Boot it again, once, when it reboots meanwhile, as a machine does of its own accord.

        Raises AssertionError at the end if it did not reboot.
        """
        process, failures = self._process, list[BaseException]()
        assert process is not None

        def follow() -> None:
            try:
                # The kernel ends process 1 of a namespace so when that asks for a restart; for power off it is another.
                assert process.wait(300) == -signal.SIGHUP, "it did not reboot"
                self.boot()
            except BaseException as failure:  # whatever it is, the test's own thread tells of it
                failures.append(failure)

        follower = threading.Thread(target=follow)
        follower.start()
        try:
            yield
        finally:
            rebooted = process.poll() is not None
            if not rebooted:
                process.kill()
            follower.join()
        if failures:
            raise AssertionError("it did not come back") from failures[0]

    @property
    def enter(self) -> list[str]:
        """Words that run a command beside its process 1."""
        return ["nsenter", "--target", str(self._pid), "--all", "--"]

    def run(self, command: str, *, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root."""
        done = subprocess.run(
            [*self.enter, "sh", "-c", command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def get(self, url: str) -> str:
        """Ask a server on its loopback; raises AssertionError for anything but a good answer."""
        return self.run(f"curl --silent --show-error --fail --max-time 10 '{url}'").stdout

    def serve(self, folder: Path, port: int) -> None:
        """Serve a folder of this machine on the guest's loopback, now and after every boot."""
        self._served[port] = folder
        words = ["nsenter", "--target", str(self._pid), "--net", "--", sys.executable, "-m", "http.server"]
        words += ["--bind", "127.0.0.1", "--directory", str(folder), str(port)]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._servers.append(subprocess.Popen(words, **quiet, start_new_session=True))  # type: ignore[call-overload]
        wait_for(lambda: self.run(f"curl -sf http://127.0.0.1:{port}/", check=False).returncode == 0, "a web server")

    @property
    def first_process(self) -> int:
        """Its process 1, by the number that this machine gave it."""
        return self._pid

    @property
    def proxy_command(self) -> str:
        """A ProxyCommand for ssh that leads to its sshd, also after another boot."""
        return str(self.folder / "proxy.sh")

    def _write_proxy(self) -> None:
        # Into its network only. A shutdown stops every process for a moment, and an nsenter that is the parent of one
        # stops with it for good: then process 1 waits for a child that nobody asks after.
        words = ["nsenter", "--target", str(self._pid), "--net", "--", sys.executable, "-IS", str(_HERE / "relay.py")]
        script = self.folder / "proxy.new"
        script.write_text(f"#!/bin/sh\nexec {' '.join(words)}\n")
        script.chmod(0o755)
        # In one step: whoever waits for a reboot knocks at any moment.
        script.replace(self.folder / "proxy.sh")

    def inventory(self, address: str = "", port: int = 22) -> Path:
        """Write an inventory with it alone, reached at an address or, without one, past every network."""
        trust = f"-o HostKeyAlias=guest -o UserKnownHostsFile={self.folder}/known_hosts"
        host = {
            "ansible_host": address or "guest",
            "ansible_port": port,
            "ansible_user": "ops",
            "ansible_ssh_private_key_file": str(self.private_key),
            "ansible_ssh_common_args": trust + ("" if address else f" -o ProxyCommand={self.proxy_command}"),
        }
        path = self.folder / "inventory.yml"
        path.write_text(yaml.safe_dump({"all": {"hosts": {"guest": host}}}))
        return path

    def command(self, playbooks: str, variables: Mapping[str, Any], *more: str) -> list[str]:
        """Return the words that play shipped playbooks with the inventory that was written last."""
        books = playbooks.split()
        file = self.folder / f"{books[0]}-variables.yml"
        file.write_text(yaml.safe_dump(dict(variables)))
        paths = [str(shipped_folder("playbooks") / f"{each}.yml") for each in books]
        inventory = str(self.folder / "inventory.yml")
        return [sys.executable, "-m", "ansible", "playbook", "-i", inventory, "-e", f"@{file}", *more, *paths]

    @property
    def environment(self) -> dict[str, str]:
        """What ansible-playbook runs with."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(shipped_folder("playbooks") / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": self._sockets,
            # Connections must not outlive the guest that they lead to.
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=10s",
        }

    def play(self, playbooks: str, variables: Mapping[str, Any], *more: str, code: int = 0) -> Play:
        """Play a shipped playbook, or several one after the other, and say how it went."""
        self.inventory()
        return self.run_play(self.command(playbooks, variables, *more), code)

    def run_play(self, command: list[str], code: int = 0) -> Play:
        """Run such words; AssertionError unless they end with that exit status."""
        done = subprocess.run(
            command, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return Play(done.stdout + done.stderr, done.returncode)
