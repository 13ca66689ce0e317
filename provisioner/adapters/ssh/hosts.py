"""The port `Hosts`: logins to hypervisors over Fabric, and the facts that one script gathers there."""

from __future__ import annotations

from pathlib import Path

from provisioner.adapters.ssh.command_line import SshCommand, trusting
from provisioner.adapters.ssh.gathered import END, host_dump, sections_of
from provisioner.adapters.ssh.host_connection import connect, ssh_of, subject_of
from provisioner.adapters.ssh.host_shell import FabricHostShell
from provisioner.domain.fleet import HypervisorSpec
from provisioner.errors import HypervisorError
from provisioner.ports.hosts import HostDump

GATHER_SCRIPT = Path(__file__).with_name("gather-host-facts.sh")
# The script gives each of its ten commands 8 s and takes 0.3 s where none of them hangs.
GATHER_SECONDS = 120.0


class SshHosts:
    """Opens SSH connections to hypervisors. Each is verified: there is no host that is trusted at first sight."""

    def open(self, hypervisor: HypervisorSpec) -> FabricHostShell:
        """Log in."""
        return FabricHostShell(connect(hypervisor), hypervisor, subject_of(hypervisor))

    def gather(self, hypervisor: HypervisorSpec) -> HostDump:
        """Log in and run one script, once."""
        subject = subject_of(hypervisor)
        with self.open(hypervisor) as shell:
            result = shell.run(GATHER_SCRIPT.read_text(encoding="utf-8"), seconds=GATHER_SECONDS)
        sections = sections_of(result.out)
        if END not in sections:
            words = result.err.strip().splitlines()[-1:] or [f"exit code {result.exit_code}"]
            raise HypervisorError(
                f"cannot gather its facts: the script ended before its last line: {words[0]}",
                subject=subject,
                next_step="see that it is a Debian or Proxmox VE host with sh, awk, sed and coreutils, and try again",
            )
        return host_dump(sections, subject)


def host_ssh_command(hypervisor: HypervisorSpec, folder: Path) -> SshCommand:
    """Return how the OpenSSH client, and so Ansible, reaches a hypervisor, with the trust that we have in it.

    Logs in once: that verifies the host key, of which the fleet file may hold no more
    than the fingerprint, and says in our words what would be wrong.

    Args:
        hypervisor: the server.
        folder: a private folder; the host key is written into it.

    Raises:
        InputError, UntrustedError, UnreachableError, LoginRefusedError: as `Hosts.open`.
    """
    ssh = ssh_of(hypervisor)
    with SshHosts().open(hypervisor) as shell:
        host_key = shell.host_key
    return trusting(hypervisor.name, ssh.address, ssh.port, ssh.user, host_key, ssh.private_key, folder)
