"""A process that prepares a stand-in host and is killed at the start of one task: python -m tests.hosts.killed ..."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from provisioner.adapters.ansible.host_preparation import AnsibleHostPreparation
from provisioner.adapters.ssh.hosts import SshHosts
from provisioner.adapters.storage.node_locks import FileNodeLocks
from provisioner.domain.fleet import GpuSpec, HypervisorSpec, HypervisorSsh
from provisioner.domain.names import ClusterName, GpuName, HypervisorName, MappingId
from provisioner.ports.playbooks import TaskEvent
from provisioner.services.preparing import Preparing


def main(task: str, folder: Path, ssh: dict[str, str]) -> None:
    """Prepare until that task starts."""
    way_in = HypervisorSsh(**{**ssh, "private_key": Path(ssh["private_key"])})  # type: ignore[arg-type]
    gpu = GpuSpec(GpuName("rtx3090"), MappingId("rtx3090"))
    spec = HypervisorSpec(HypervisorName("pve1"), ClusterName("homelab"), {gpu.name: gpu}, way_in)
    service = Preparing(SshHosts(), AnsibleHostPreparation(), FileNodeLocks(folder / "locks"))

    def die(event: TaskEvent) -> None:
        if event.name == task:
            os.kill(os.getpid(), signal.SIGKILL)

    service.apply(service.preview(spec), die)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
