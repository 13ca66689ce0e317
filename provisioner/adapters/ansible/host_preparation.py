"""The port `HostPreparation`: reads over one SSH session, changes through the shipped playbooks."""

from __future__ import annotations

from pathlib import Path

from provisioner.adapters.ansible.host_variables import host_variables
from provisioner.adapters.ansible.playbook_runner import PlaybookTarget, PlayFailed, play, private_folder
from provisioner.adapters.ssh.host_boot import BOOTED_FROM, booted_from
from provisioner.adapters.ssh.host_connection import subject_of
from provisioner.adapters.ssh.host_files import SCRIPT, host_state
from provisioner.adapters.ssh.hosts import SshHosts, host_ssh_command
from provisioner.domain.fleet import HypervisorSpec
from provisioner.domain.host_files import HostState
from provisioner.domain.host_preparation import Preparation
from provisioner.domain.quantities import duration_text
from provisioner.errors import HypervisorError, InputError, NotReadyError, ProvisionerError
from provisioner.ports.playbooks import OnTaskEvent, PlaybookOutcome

# Two questions to pvesh, each cut off after 30 s, and files of a few KiB.
_LOOK_SECONDS = 90.0
_PREPARE, _UNDO, _REBOOT = "prepare-hypervisor", "undo-hypervisor-preparation", "reboot-hypervisor"
_REFRESH = "Refresh what the next boot reads, and say how things stand"
# How ansible.builtin.reboot begins when its time is over.
_WAITED_IN_VAIN = "Timed out waiting for"
_NO_SPACE = ("No space left on device", "Errno 28", "Disk quota exceeded")
_READ_ONLY = ("Read-only file system", "Errno 30")


class AnsibleHostPreparation:
    """Prepares hypervisors over SSH."""

    def __init__(self) -> None:
        self._hosts = SshHosts()

    def state(self, hypervisor: HypervisorSpec) -> HostState:
        """Read its files, in one round trip."""
        with self._hosts.open(hypervisor) as shell:
            result = shell.run(SCRIPT, seconds=_LOOK_SECONDS)
        return host_state(result.out, name=hypervisor.name, subject=subject_of(hypervisor))

    def booted_from(self, hypervisor: HypervisorSpec) -> str:
        """Ask the firmware's variables."""
        with self._hosts.open(hypervisor) as shell:
            return booted_from(shell.run(BOOTED_FROM, seconds=_LOOK_SECONDS).out)

    def prepare(
        self, hypervisor: HypervisorSpec, preparation: Preparation, state: HostState, on_event: OnTaskEvent
    ) -> PlaybookOutcome:
        """Play prepare-hypervisor.yml."""
        try:
            return self._play(hypervisor, _PREPARE, host_variables(preparation, state), on_event)
        except PlayFailed as failure:
            raise _failed(hypervisor, failure, "prepare the hypervisor", "continues") from failure

    def undo(self, hypervisor: HypervisorSpec, on_event: OnTaskEvent) -> PlaybookOutcome:
        """Play undo-hypervisor-preparation.yml."""
        try:
            return self._play(hypervisor, _UNDO, "{}\n", on_event)
        except PlayFailed as failure:
            raise _failed(hypervisor, failure, "undo the preparation", "--undo continues") from failure

    def reboot(self, hypervisor: HypervisorSpec, seconds: float, on_event: OnTaskEvent) -> None:
        """Play reboot-hypervisor.yml."""
        try:
            self._play(hypervisor, _REBOOT, f"reboot_timeout_seconds: {seconds:g}\n", on_event)
        except PlayFailed as failure:
            if _WAITED_IN_VAIN in failure.reason:
                raise NotReadyError(
                    f"cannot reach the hypervisor after its reboot: no answer within {duration_text(seconds)}",
                    subject=subject_of(hypervisor),
                    next_step=(
                        "look at its own console (a screen, or remote management): if the boot stops, choose the entry "
                        "of an older kernel, or press e in the boot menu and take the words away that prepare showed; "
                        f"once it is up: provisioner doctor {hypervisor.name}, or "
                        f"provisioner prepare {hypervisor.name} --undo"
                    ),
                ) from failure
            raise _failed(hypervisor, failure, "reboot the hypervisor", "--reboot tries again") from failure

    def save_variables(self, path: Path, preparation: Preparation, state: HostState) -> None:
        """Write the playbook's variables into a new file."""
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write("# For playbooks/prepare-hypervisor.yml, which says how it is used.\n")
                file.write(host_variables(preparation, state))
        except OSError as error:
            raise InputError(
                f"cannot save the variables: {error.strerror or error}",
                subject=str(path),
                next_step="name a new file in a folder that can be written",
            ) from error

    @staticmethod
    def _play(hypervisor: HypervisorSpec, playbook: str, variables: str, on_event: OnTaskEvent) -> PlaybookOutcome:
        with private_folder() as folder:
            command = host_ssh_command(hypervisor, folder)
            target = PlaybookTarget(
                str(hypervisor.name),
                command.address,
                command.port,
                command.user,
                command.options,
                command.private_key,
            )
            return play(target, playbook, variables, on_event, folder)


def _failed(hypervisor: HypervisorSpec, failure: PlayFailed, what: str, then: str) -> ProvisionerError:
    again = f"run the same command again: provisioner prepare {hypervisor.name}"
    if failure.is_unreachable:
        return HypervisorError(
            f'cannot {what}: the connection broke at "{failure.task}": {failure.reason}',
            subject=subject_of(hypervisor),
            next_step=f"see that the server is on and the network stands, then {again} {then}",
            retryable=True,
        )
    if any(words in failure.reason for words in _NO_SPACE):
        first = "make room there (df -h / /boot; old kernels: apt autoremove)"
    elif any(words in failure.reason for words in _READ_ONLY):
        first = "its file system is read-only: look at dmesg for disk errors, then mount -o remount,rw /"
    else:
        first = "mend what it names"
    # The playbook itself says which step, and how things stand then.
    where = "" if failure.task == _REFRESH else f'"{failure.task}" failed: '
    return HypervisorError(
        f"cannot {what}: {where}{failure.reason}",
        subject=subject_of(hypervisor),
        next_step=f"{first}, then {again} {then}",
    )
