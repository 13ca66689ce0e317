"""OpenSSH command lines for people and for Ansible: the same trust as our own connections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioner.adapters.storage.state_folder import writing_below
from provisioner.domain.fleet import NodeSpec, SshAccess


@dataclass(frozen=True, slots=True)
class SshCommand:
    """How to reach one machine with the OpenSSH client; without `private_key` by the agent and the user's own keys."""

    address: str
    port: int
    user: str
    private_key: Path | None
    known_hosts: Path

    @property
    def options(self) -> tuple[str, ...]:
        """Options that trust this machine's key and nothing else."""
        return (
            *("-o", f"UserKnownHostsFile={self.known_hosts}"),
            *("-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", "StrictHostKeyChecking=yes"),
            *(("-o", "IdentitiesOnly=yes") if self.private_key is not None else ()),
            *("-o", "PasswordAuthentication=no"),
        )

    @property
    def arguments(self) -> tuple[str, ...]:
        """The whole command line without a remote command."""
        target = f"{self.user}@{self.address}"
        key = ("-i", str(self.private_key)) if self.private_key is not None else ()
        return ("ssh", *self.options, *key, "-p", str(self.port), target)


def ssh_command(node: NodeSpec, access: SshAccess, host_key: str, private_key: Path, folder: Path) -> SshCommand:
    """Write the guest's known_hosts line into `folder` and return the command that uses it."""
    reach = node.reach
    return trusting(node.name, reach.address, reach.ssh_port, access.user, host_key, private_key, folder)


def trusting(
    name: str, address: str, port: int, user: str, host_key: str, private_key: Path | None, folder: Path
) -> SshCommand:
    """Write a machine's known_hosts line into `folder` and return the command that uses it."""
    known_hosts = folder / f"known_hosts-{name}"
    place = address if port == 22 else f"[{address}]:{port}"
    with writing_below(folder):
        known_hosts.write_text(f"{place} {host_key}\n", encoding="utf-8")
    return SshCommand(address, port, user, private_key, known_hosts)
