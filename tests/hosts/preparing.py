"""What the tests of `prepare` on a stand-in host share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from provisioner.adapters.ansible.host_preparation import AnsibleHostPreparation
from provisioner.adapters.ssh.hosts import SshHosts
from provisioner.adapters.storage.node_locks import FileNodeLocks
from provisioner.domain.fleet import GpuSpec, HypervisorSpec
from provisioner.domain.names import GpuName, MappingId
from provisioner.ports.playbooks import OnTaskEvent, TaskPhase
from provisioner.services.preparing import PrepareChoices, PreparePreview, PrepareReport, Preparing
from tests.pve_host import PveHost

CARD, SOUND = "0000:01:00.0", "0000:01:00.1"
GPU = GpuName("rtx3090")


def started(tell: Callable[[str], None]) -> OnTaskEvent:
    """Pass the names of tasks on as they start."""
    return lambda event: tell(event.name) if event.phase is TaskPhase.STARTED else None


def hypervisor(host: PveHost) -> HypervisorSpec:
    """The stand-in as a fleet with one RTX 3090 describes it."""
    return replace(host.spec("pve1"), gpus={GPU: GpuSpec(GPU, MappingId("rtx3090"))})


@dataclass(frozen=True)
class Prepared:
    """A stand-in, and `prepare` on it."""

    host: PveHost

    @property
    def service(self) -> Preparing:
        """The service, wired as in real life."""
        return Preparing(SshHosts(), AnsibleHostPreparation(), FileNodeLocks(self.host.folder / "locks"))

    def preview(self, choices: PrepareChoices | None = None) -> PreparePreview:
        return self.service.preview(hypervisor(self.host), choices or PrepareChoices())

    def prepare(
        self, choices: PrepareChoices | None = None, on_start: Callable[[str], None] = lambda _: None
    ) -> PrepareReport:
        return self.service.apply(self.preview(choices), started(on_start))

    def undo(self) -> PrepareReport:
        return self.service.apply(self.service.preview_undo(hypervisor(self.host)))

    def files(self) -> dict[str, tuple[int, str]]:
        """Mode and content of every file in /etc and of what we keep; what a host does without us changes none."""
        found = {}
        for folder in ("etc", "var/lib"):
            for path in sorted((self.host.root / folder).rglob("*")):
                if path.is_file() and not path.is_symlink():
                    name = f"/{path.relative_to(self.host.root)}"
                    found[name] = (path.stat().st_mode & 0o7777, path.read_bytes().decode("latin-1"))
        return found

    def killed_at(self, task: str) -> None:
        """Prepare in a process of its own that gets SIGKILL when a task starts."""
        words = [sys.executable, "-m", "tests.hosts.killed", task, str(self.host.folder), json.dumps(_plain(self.host))]
        done = subprocess.run(words, cwd=Path(__file__).parents[2], timeout=120)
        assert done.returncode == -9, f"it was not killed at {task}"


def _plain(host: PveHost) -> dict[str, object]:
    ssh = host.ssh
    return {
        "address": ssh.address,
        "user": ssh.user,
        "port": ssh.port,
        "host_key": ssh.host_key,
        "private_key": str(ssh.private_key),
    }
