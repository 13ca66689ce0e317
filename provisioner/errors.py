"""The error tree. Branches say what a caller can do, not where the error arose.

    ProvisionerError
    ├── InputError            mend the input: fleet file, argument, secret
    │   └── UnknownNameError      the fleet has nothing of that name; the summary or next step lists what there is
    ├── NotReadyError         wait, then ask again (retryable)
    │   └── QueueFullError        as many as may wait for it already
    ├── RefusedError          a rule of ours says no; free something or change the rule's input
    │   └── OvertakenError        another took over what was being worked on; look again
    └── OutsideError          another system failed or said no
        ├── HypervisorError       Proxmox VE
        │   ├── UnreachableError      no answer came; whether the act happened is unknown
        │   ├── OutcomeUnknownError   it was taken, and nobody can tell how it ended
        │   ├── TaskOverdueError      it is still under way after all the time it was given
        │   ├── VmMissingError        the VM is gone, or on another server
        │   ├── LoginRefusedError     the token, user or password is not accepted
        │   ├── VmidTakenError        another VM has that VMID
        │   ├── ConfigChangedError    somebody changed the VM since we looked
        │   ├── VmLockedError         a backup, migration or other task holds the VM
        │   ├── GpuTakenError         another VM holds the GPU
        │   ├── GpuUnusableError      the GPU is gone, moved, or did not come back from its last VM
        │   ├── StorageFullError      no room is left
        │   ├── PermissionMissingError    the token lacks a privilege
        │   ├── ShutdownIgnoredError      the guest did not shut down in its time
        │   └── UntrustedError        the certificate or host key is not the one we know
        ├── GuestError            the operating system of a node, or the way into it
        │   ├── HostKeyError          the guest is not the one we made
        │   └── PlaybookError         a task failed inside the guest
        ├── EngineError           the inference server on a node
        │   └── EngineKeyError        it does not take our API key, or wants one
        └── OrchestratorError     n8n or another that is told of the nodes

Every message has three parts: what happened, on what, what to do next.
"""

from __future__ import annotations

import re


class ProvisionerError(Exception):
    """Something a person or program can act on.

    Args:
        summary: what happened, one sentence that starts with "cannot" and carries the numbers.
        subject: on what, for instance ``node "llm-gpu-01" (vm 5001 on pve1)``.
        next_step: what to type or change next.
        retryable: the same call may succeed later without any change.
    """

    def __init__(self, summary: str, *, subject: str, next_step: str, retryable: bool = False) -> None:
        super().__init__(summary)
        self.summary = summary
        self.subject = subject
        self.next_step = next_step
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.summary}\non: {self.subject}\nnext: {self.next_step}"

    @classmethod
    def kind(cls) -> str:
        """Return its class in the words of a URL, such as ``vm-locked``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__.removesuffix("Error")).lower()

    def as_dict(self) -> dict[str, object]:
        """Return the error as plain values, for ``--json`` and problem documents."""
        return {
            "error": type(self).__name__,
            "summary": self.summary,
            "subject": self.subject,
            "next_step": self.next_step,
            "retryable": self.retryable,
        }


class InputError(ProvisionerError):
    """The fleet file, an argument or a secret is wrong; nothing was touched."""


class UnknownNameError(InputError):
    """The fleet has no node, mode, model or hypervisor of that name."""


class NotReadyError(ProvisionerError):
    """The thing waited for did not happen in time."""


class QueueFullError(NotReadyError):
    """As many wait for the thing as may."""


class RefusedError(ProvisionerError):
    """A rule of ours forbids the act, for instance touching a VM without our tag."""


class OvertakenError(RefusedError):
    """Another took over what was being worked on; acting now would be too late."""


class OutsideError(ProvisionerError):
    """Another system failed or said no; its own words are in the summary.

    `diagnosis` names the cause, where the outside's own words show one.
    """

    diagnosis: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the error as plain values."""
        return super().as_dict() | ({"diagnosis": self.diagnosis} if self.diagnosis else {})


class HypervisorError(OutsideError):
    """Proxmox VE failed or refused."""


class UnreachableError(HypervisorError):
    """No answer came, or none that Proxmox gives. `may_have_happened` is False when nothing was ever sent."""

    may_have_happened = True


class OutcomeUnknownError(HypervisorError):
    """A task ended without a word, or Proxmox no longer knows it. What it was for may be done."""


class TaskOverdueError(HypervisorError):
    """A task is still under way after all the time it was given; a person must look at it."""


class VmMissingError(HypervisorError):
    """Proxmox has no such VM on the server asked: it is gone, or on another one."""


class LoginRefusedError(HypervisorError):
    """Proxmox does not accept who we say we are."""


class VmidTakenError(HypervisorError):
    """The VMID belongs to a VM already."""


class ConfigChangedError(HypervisorError):
    """The VM's configuration is no longer the one that was looked at; nothing was written."""


class VmLockedError(HypervisorError):
    """Another task holds the VM; the summary names the lock."""


class GpuTakenError(HypervisorError):
    """Another running VM holds the GPU. `holder` is its VMID, where Proxmox names one."""

    holder: int | None = None


class GpuUnusableError(HypervisorError):
    """The GPU is not what its mapping says, is gone, or did not come back when its last VM stopped."""


class StorageFullError(HypervisorError):
    """A storage has no room for what was asked."""


class PermissionMissingError(HypervisorError):
    """The API token lacks a privilege; the summary names privilege and path."""


class ShutdownIgnoredError(HypervisorError):
    """The guest was asked to shut down and did not within its time; it still runs."""


class UntrustedError(HypervisorError):
    """The server's certificate or SSH host key is not the known one, or nobody has vouched for it."""


class GuestError(OutsideError):
    """A guest could not be reached, or something inside it failed."""


class HostKeyError(GuestError):
    """The guest showed another SSH host key than the one it was given."""


class PlaybookError(GuestError):
    """A playbook's task failed; the summary names the task and carries the guest's words."""


class EngineError(OutsideError):
    """An inference server did not come up or did not answer; its journal may show the `diagnosis`."""


class OrchestratorError(OutsideError):
    """A program that is to know of the fleet did not answer, or refused what it was told."""


class EngineKeyError(EngineError):
    """The inference server refuses our API key, or asks for one that the fleet file does not name."""

    diagnosis = "engine_key_refused"
