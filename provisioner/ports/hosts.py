"""A way into hypervisors themselves, beside Proxmox' API: commands over a login, and the facts they gather."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from provisioner.domain.fleet import HypervisorSpec
from provisioner.domain.host import HostFacts
from provisioner.domain.host_extras import HostExtras
from provisioner.ports.guest_shell import CommandResult


@dataclass(frozen=True, slots=True)
class HostDump:
    """What one look at a hypervisor gave.

    `sections` are a host dump's, as commands printed them, and can be saved;
    `facts` is what they say, `extras` what a dump has no place for. A section
    that could not be learnt is absent.
    """

    sections: Mapping[str, str]
    facts: HostFacts
    extras: HostExtras = field(default_factory=HostExtras)


class HostShell(Protocol):
    """An open way into one hypervisor."""

    def run(self, script: str, *, seconds: float, privileged: bool = True) -> CommandResult:
        """Run a POSIX sh script; one round trip, whatever it holds. It reads nothing and sees no terminal.

        Args:
            script: its text. It travels on standard input, so it may hold secrets.
            seconds: it is killed after that.
            privileged: run it as root; who is not root needs sudo without a password.

        Raises:
            UnreachableError: the connection broke in the middle of it, as it does when the script reboots the host.
            LoginRefusedError: the user may not become root.
            HypervisorError: it took too long or printed too much.

        That a script failed is no error: look at `exit_code`.
        """
        ...

    def __enter__(self) -> HostShell: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Hosts(Protocol):
    """Opens ways into hypervisors."""

    def open(self, hypervisor: HypervisorSpec) -> HostShell:
        """Log in.

        Raises:
            InputError: the fleet file says no `ssh` for it, or names a private key that cannot be used.
            UntrustedError: its host key is unknown, or another than the known one.
            UnreachableError: nobody answers.
            LoginRefusedError: it turns our keys down, or wants a password.
        """
        ...

    def gather(self, hypervisor: HypervisorSpec) -> HostDump:
        """Log in and learn all there is to know for passthrough; changes nothing. Raises what `open` and `run` do."""
        ...
