"""Asks a guest for everything about its cards: one command over an open shell, read by `planning.gpu`."""

from __future__ import annotations

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.gpu_reading import GpuFacts
from provisioner.errors import GuestError, NotReadyError
from provisioner.planning.gpu.gathering import AnswerCut, gather_command, gpu_facts
from provisioner.ports.guest_shell import GuestAway, GuestShell

# Each of the script's questions has 15 s; five of them may hang one after another.
_SECONDS = 120.0
_LIVE_SECONDS = 60.0


def gather_gpu_facts(shell: GuestShell, node: NodeSpec, *, live: bool = False) -> GpuFacts:
    """Return what a guest tells of its cards; changes nothing there.

    Args:
        shell: an open way into the guest.
        node: the guest, for messages.
        live: only readings and processes, for a view that is renewed every second.

    Raises:
        NotReadyError: the guest went away meanwhile.
        GuestError: the guest could not answer the question.
    """
    try:
        result = shell.run(gather_command(live=live), seconds=_LIVE_SECONDS if live else _SECONDS, privileged=True)
    except GuestAway as gone:
        raise NotReadyError(
            f"cannot look at its graphics cards: {gone}",
            subject=node.subject,
            next_step=f"provisioner status {node.name}; if it hangs: provisioner sleep {node.name}, then wake it",
            retryable=True,
        ) from gone
    try:
        return gpu_facts(result.out)
    except AnswerCut as cut:
        words = result.err.strip().splitlines()[-1:] or [str(cut)]
        raise GuestError(
            f"cannot look at its graphics cards: the script ended with exit code {result.exit_code}: {words[0]}",
            subject=node.subject,
            next_step=f"see that sh, sed and coreutils work there: provisioner ssh {node.name}",
        ) from cut
