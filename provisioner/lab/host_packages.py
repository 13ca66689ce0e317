"""What the embedded Proxmox needs installed on this machine, and how it gets there.

    python -m provisioner.lab.host_packages [--check] [--with-tests]

Presence is judged by the programs themselves, so any distribution that has them
will do; only the installing is for Debian and its relatives. Nothing is
installed that is there already, and nothing without saying so first.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import InputError, OutsideError, ProvisionerError
from provisioner.lab.images import debian

QEMU_FLOOR = (8, 0)
"""Debian bookworm's 7.2 lost half of all boots of a current guest kernel under software emulation; 10.0 lost none."""

SOURCES_FILE = Path("/etc/apt/sources.list.d/provisioner-lab-backports.sources")

_SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
_ASK_SECONDS = 60
_INSTALL_SECONDS = 1200


@dataclass(frozen=True, slots=True)
class HostPackage:
    """A Debian package, the program or file that proves its presence, and what the lab does with it."""

    name: str
    proof: str
    reason: str

    def is_present(self) -> bool:
        """Say whether the program or file is on this machine, whoever brought it."""
        if self.proof.startswith("/"):
            return Path(self.proof).exists()
        return shutil.which(self.proof, path=_SEARCH_PATH) is not None


QEMU_SYSTEM = HostPackage("qemu-system-x86", "qemu-system-x86_64", "runs the guests")
QEMU_TOOLS = HostPackage("qemu-utils", "qemu-img", "makes, clones and grows their disks")

OTHERS = (
    HostPackage("mmdebstrap", "mmdebstrap", "builds the guest image from Debian packages"),
    HostPackage("e2fsprogs", "mke2fs", "turns the built tree into a file system"),
    HostPackage("uidmap", "newuidmap", "lets a user who is not root build the image"),
    HostPackage("openssh-client", "ssh", "reaches the guests"),
    HostPackage("debian-archive-keyring", str(debian.KEYRING), "proves that the packages are Debian's"),
)

SSH_SERVER = HostPackage("openssh-server", "sshd", "lets tests log in to a stand-in for a Proxmox host")
PROMETHEUS = HostPackage("prometheus", "promtool", "scrapes the control service in tests, and tries its alert rules")
INFLUXDB = HostPackage("influxdb", "influxd", "takes the record of requests in a test")
_UNITS = {
    SSH_SERVER: ("ssh.service", "ssh.socket"),
    PROMETHEUS: ("prometheus.service",),
    INFLUXDB: ("influxdb.service",),
}
"""What their packages start, for the whole network to reach; tests want the programs alone."""
FOR_TESTS = (
    SSH_SERVER,
    HostPackage("sudo", "sudo", "makes a user of that stand-in root, where a test logs in as another"),
    HostPackage("gnupg", "gpg-agent", "signs repositories of packages that a test makes"),
    PROMETHEUS,
    INFLUXDB,
    HostPackage("chromium", "chromium", "looks at the pages of the control service as a browser does"),
    HostPackage("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "gives that browser letters"),
    # Its service listens nowhere until somebody writes a configuration for it.
    HostPackage("haproxy", "haproxy", "stands before the control service in a test of what we write for it"),
    HostPackage("npm", "npm", "fetches a real n8n for the tests of how it is told of nodes"),
    HostPackage("g++", "g++", "compiles the one part of that n8n that is not ready-made"),
    HostPackage("curl", "curl", "asks the gateway as people do"),
    HostPackage("nodejs", "node", "asks the gateway as programs in JavaScript do"),
)
"""What only the project's own tests need; the lab and the demo do without."""


def missing(*, with_tests: bool = False) -> list[HostPackage]:
    """Return what the lab still needs on this machine, in the order it would be installed."""
    qemu_is_fit = _version_is_fit(qemu_version())
    needed = [] if qemu_is_fit else [QEMU_SYSTEM]
    if not qemu_is_fit or not QEMU_TOOLS.is_present():
        # Both come from one source package; the tools of an older QEMU may not read what a newer one wrote.
        needed.append(QEMU_TOOLS)
    others = OTHERS + FOR_TESTS if with_tests else OTHERS
    return needed + [package for package in others if not package.is_present()]


def qemu_version() -> tuple[int, ...] | None:
    """Return the version of the installed QEMU, None when there is none."""
    program = shutil.which(QEMU_SYSTEM.proof, path=_SEARCH_PATH)
    if program is None:
        return None
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", told.stdout)
    return tuple(int(part) for part in found.groups()) if found else None


def install(tell: Callable[[str], object] = print, *, with_tests: bool = False) -> None:
    """Install what is missing, as root or through sudo, after telling what and why.

    Raises InputError with the words to type when this user may not install, or
    this machine has no apt; OutsideError when apt failed.
    """
    needed = missing(with_tests=with_tests)
    if not needed:
        return
    names = " ".join(package.name for package in needed)
    if shutil.which("apt-get") is None:
        raise InputError(
            f"cannot install {names}: this machine has no apt",
            subject="the embedded Proxmox lab on this machine",
            next_step="install the programs " + ", ".join(p.proof for p in needed) + " with your own package manager",
        )
    steps = _steps(needed, debian.codename(), _backports_wanted(needed))
    privilege = _privilege(steps)
    for package in needed:
        tell(f"installing {package.name}: {package.reason}")
    for step in steps:
        tell("running: " + " ".join([*privilege, *step.command]))
        _run([*privilege, *step.command], step.stdin)
    left = missing(with_tests=with_tests)
    if left:
        raise OutsideError(
            "cannot prepare this machine: apt reported success, yet these are still missing or too old: "
            + ", ".join(package.name for package in left),
            subject="the embedded Proxmox lab on this machine",
            next_step=f"install a QEMU of at least {QEMU_FLOOR[0]}.{QEMU_FLOOR[1]} and the programs "
            + ", ".join(package.proof for package in left),
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the installation, with what it reads."""

    command: tuple[str, ...]
    stdin: str = ""


def backports_sources(mirror: str, codename: str) -> str:
    """Return the apt sources file that adds a release's backports from the machine's own mirror."""
    return (
        "# Added by provisioner's lab for a QEMU that survives software emulation. Remove at will.\n"
        f"Types: deb\nURIs: {mirror}\nSuites: {codename}-backports\nComponents: main\nSigned-By: {debian.KEYRING}\n"
    )


def _steps(needed: Sequence[HostPackage], codename: str, backports: str | None) -> list[Step]:
    """Decide the commands: backports first where wanted, then their packages, then the rest."""
    environment = ("env", "DEBIAN_FRONTEND=noninteractive")
    install_command = (*environment, "apt-get", "install", "--yes", "--no-install-recommends")
    from_backports = [p.name for p in needed if backports and p in (QEMU_SYSTEM, QEMU_TOOLS)]
    rest = [p.name for p in needed if p.name not in from_backports]
    steps = []
    if backports:
        steps.append(Step(("tee", str(SOURCES_FILE)), stdin=backports_sources(backports, codename)))
    steps.append(Step((*environment, "apt-get", "update", "--quiet")))
    if from_backports:
        steps.append(Step((*install_command, "--target-release", f"{codename}-backports", *from_backports)))
    if rest:
        steps.append(Step((*install_command, *rest)))
    units = tuple(unit for package in needed for unit in _UNITS.get(package, ()))
    if units and _SYSTEMD.is_dir():
        steps.insert(0, Step(("systemctl", "mask", *units)))
        steps += [Step(("systemctl", "unmask", *units)), Step(("systemctl", "disable", *units))]
    return steps


def _backports_wanted(needed: Sequence[HostPackage]) -> str | None:
    """Return the mirror to take backports from: only for a QEMU on the release whose own is unfit."""
    if debian.codename() != "bookworm" or not {QEMU_SYSTEM, QEMU_TOOLS} & set(needed):
        return None
    return debian.mirror()


def _privilege(steps: Sequence[Step]) -> list[str]:
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is not None:
        asks_nothing = subprocess.run(["sudo", "-n", "true"], capture_output=True, timeout=_ASK_SECONDS).returncode == 0
        if asks_nothing or sys.stdin.isatty():
            return ["sudo"]
    typed = "; ".join(" ".join(step.command) for step in steps if not step.stdin)
    raise InputError(
        "cannot install packages: this user is not root and may not use sudo without a password",
        subject="the embedded Proxmox lab on this machine",
        next_step="run `python -m provisioner.lab.host_packages` as root, or have an administrator run: " + typed,
    )


def _run(command: Sequence[str], stdin: str) -> None:
    try:
        # apt's own talk is kept for the error; sudo asks its password on the terminal, not on these streams.
        done = subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_INSTALL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutsideError(
            f"cannot run {command[0]}: {error}", subject="the packages of this machine", next_step="look at apt by hand"
        ) from error
    if done.returncode != 0:
        last_words = " | ".join(done.stdout.strip().splitlines()[-5:])
        raise OutsideError(
            f"cannot install packages: `{' '.join(command)}` ended with {done.returncode}: {last_words}",
            subject="the packages of this machine",
            next_step="run that command by hand, mend what it names, and try again",
        )


def _version_is_fit(version: tuple[int, ...] | None) -> bool:
    return version is not None and version[:2] >= QEMU_FLOOR


def main(arguments: Sequence[str] | None = None) -> int:
    """Install what is missing, or with --check only tell it (exit status 1 when something is)."""
    parser = argparse.ArgumentParser(description="Install what the embedded Proxmox lab needs on this machine.")
    parser.add_argument("--check", action="store_true", help="only tell what is missing")
    parser.add_argument("--with-tests", action="store_true", help="what the project's own tests need as well")
    options = parser.parse_args(arguments)
    needed = missing(with_tests=options.with_tests)
    if not needed:
        print("nothing is missing")
        return 0
    if options.check:
        for package in needed:
            print(f"missing: {package.name} ({package.reason})")
        return 1
    try:
        install(lambda line: print(line, flush=True), with_tests=options.with_tests)
    except ProvisionerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
