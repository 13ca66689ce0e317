"""How long one waits for the command itself, and for what others show of the same cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import lab_site
from tests.peers import ansible_environment, ansible_playbook, collection_login, collection_version

MOST_HELP_SECONDS = 0.15
MOST_STATUS_SECONDS = 0.5
PROVISIONER = str(Path(sys.executable).with_name("provisioner"))
ANSIBLE = str(Path(sys.executable).with_name("ansible"))


def help_page(bench: Bench) -> Iterator[Result]:
    """Measure ``provisioner --help``."""
    mine = seconds([PROVISIONER, "--help"], 20)
    other = seconds([ansible_playbook(), "--help"], 5, ansible_environment(bench.folder))
    target = f"<= {MOST_HELP_SECONDS}"
    yield Result("cli.help", "s", target, mine, {"ansible-playbook --help": other}, mine.p50 <= MOST_HELP_SECONDS)


def status(bench: Bench) -> Iterator[Result]:
    """Measure ``provisioner status`` on three nodes that serve."""
    with lab_site(bench.folder / "lab", 3) as site:
        subprocess.run(
            [PROVISIONER, "up"], env=site.environment, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        mine = seconds([PROVISIONER, "status"], 20, site.environment)
        peers = {}
        if collection_version() is not None:
            environment = collection_login(bench.folder, site.host, site.port, site.secret, site.certificate)
            command = [ANSIBLE, "localhost", "-c", "local", "-m", "community.proxmox.proxmox_vm_info"]
            command += ["-e", f"ansible_python_interpreter={sys.executable}"]
            peers["ansible -m proxmox_vm_info"] = seconds(command, 5, environment)
    target = f"<= {MOST_STATUS_SECONDS:g}"
    yield Result("cli.status", "s", target, mine, peers, mine.p50 <= MOST_STATUS_SECONDS, "three nodes that serve")


def seconds(command: Sequence[str], times: int, environment: Mapping[str, str] | None = None) -> Figures:
    """Run a command that must succeed once and then so many times; return how long each of these took."""
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    found = []
    for _ in range(times):
        began = time.monotonic()
        subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        found.append(time.monotonic() - began)
    return Figures.of(found)
