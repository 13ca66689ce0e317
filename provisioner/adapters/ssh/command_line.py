"""OpenSSH command lines for people and for Ansible: the same trust as our own connections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioner.adapters.storage.state_folder import writing_below
from provisioner.domain.fleet import NodeSpec, SshAccess


@dataclass(frozen=True, slots=True)
class SshCommand:
    """How to reach one guest with the OpenSSH client."""

    address: str
    port: int
    user: str
    private_key: Path
    known_hosts: Path

    @property
    def options(self) -> tuple[str, ...]:
        """Options that trust this guest's key and nothing else."""
        return (
            *("-o", f"UserKnownHostsFile={self.known_hosts}"),
            *("-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", "StrictHostKeyChecking=yes"),
            *("-o", "IdentitiesOnly=yes"),
            *("-o", "PasswordAuthentication=no"),
        )

    @property
    def arguments(self) -> tuple[str, ...]:
        """The whole command line without a remote command."""
        target = f"{self.user}@{self.address}"
        return ("ssh", *self.options, "-i", str(self.private_key), "-p", str(self.port), target)


def ssh_command(node: NodeSpec, access: SshAccess, host_key: str, private_key: Path, folder: Path) -> SshCommand:
    """Write the guest's known_hosts line into `folder` and return the command that uses it."""
    reach = node.reach
    known_hosts = folder / f"known_hosts-{node.name}"
    place = reach.address if reach.ssh_port == 22 else f"[{reach.address}]:{reach.ssh_port}"
    with writing_below(folder):
        known_hosts.write_text(f"{place} {host_key}\n", encoding="utf-8")
    return SshCommand(reach.address, reach.ssh_port, access.user, private_key, known_hosts)
