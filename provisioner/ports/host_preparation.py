"""What preparing a hypervisor needs from the world: its files, and changes made to them by playbooks."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from provisioner.domain.fleet import HypervisorSpec
from provisioner.domain.host_files import HostState
from provisioner.domain.host_preparation import Preparation
from provisioner.ports.playbooks import OnTaskEvent, PlaybookOutcome


class HostPreparation(Protocol):
    """Looks at hypervisors' boot configuration, and changes it as decided.

    Beside what is said below, every method raises what `Hosts.open` does: InputError, UntrustedError,
    HypervisorError.
    """

    def state(self, hypervisor: HypervisorSpec) -> HostState:
        """Return its files and what an earlier run left. Raises HypervisorError when a record is damaged."""
        ...

    def booted_from(self, hypervisor: HypervisorSpec) -> str:
        """Return what the firmware and the boot loader say of where this system was booted from, as a sentence."""
        ...

    def prepare(
        self, hypervisor: HypervisorSpec, preparation: Preparation, state: HostState, on_event: OnTaskEvent
    ) -> PlaybookOutcome:
        """Make the changes that were decided from `state`.

        Raises:
            HypervisorError: a file is no longer what it was (nothing was changed), a step failed, or the connection
                broke; the next run continues.
        """
        ...

    def undo(self, hypervisor: HypervisorSpec, on_event: OnTaskEvent) -> PlaybookOutcome:
        """Take back what earlier runs changed, but for what was edited since. Raises HypervisorError."""
        ...

    def reboot(self, hypervisor: HypervisorSpec, seconds: float, on_event: OnTaskEvent) -> None:
        """Reboot it and return when commands run there again.

        Raises:
            NotReadyError: it did not answer again within `seconds`.
            HypervisorError: it could not be told to reboot.
        """
        ...

    def save_variables(self, path: Path, preparation: Preparation, state: HostState) -> None:
        """Write what `prepare` would hand to its playbook into a new file. Raises InputError."""
        ...
