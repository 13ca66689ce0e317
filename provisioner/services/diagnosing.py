"""Why an engine does not answer: reads its journal in the guest, where that can be had quickly, and says the cause."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.engines.base import InferenceEngine
from provisioner.errors import EngineError, EngineKeyError, ProvisionerError
from provisioner.planning.engine_diagnosis import Silence, diagnose
from provisioner.ports.guest_shell import GuestAway, GuestShell

# Whoever waited for the engine has waited long enough; a guest that is there lets us in at once.
LOGIN_SECONDS = 1.0
# A guest whose engine dies again and again is busy, and one under software emulation is slow.
_READ_SECONDS = 30.0
# Several attempts of an engine that says much before it dies.
_LINES = 400
_TAIL = 8

OpenShell = Callable[[], AbstractContextManager[GuestShell]]


def explained(
    error: EngineError, fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, unit: str, open_shell: OpenShell
) -> EngineError:
    """Return the error with the cause that the engine's own journal shows, else with the journal's last lines.

    Args:
        error: what the engine did not do.
        fleet: the fleet.
        node: whose engine it is.
        engine: its description.
        unit: the systemd unit that it runs as.
        open_shell: a way into the guest; its failure only means that nothing is added.
    """
    if isinstance(error, EngineKeyError) or error.diagnosis:
        # That says it all; what the journal holds beside it may be of another day.
        return error
    try:
        journal = _journal(unit, open_shell)
    except (ProvisionerError, GuestAway) as reason:
        return _with(error, f"(its log could not be read: {str(reason).splitlines()[0]})")
    mode = fleet.mode_of(node)
    found = diagnose(journal, Silence(node.name, engine.name, unit, mode.model, engine.port))
    if found is None:
        return _with(error, "\n  ".join(journal.splitlines()[-_TAIL:]))
    explained_error = EngineError(
        f"{error.summary}\nits log shows why: {found.sentence}\n  {found.evidence}",
        subject=error.subject,
        next_step=found.next_step,
        retryable=error.retryable,
    )
    explained_error.diagnosis = found.cause
    return explained_error


def _journal(unit: str, open_shell: OpenShell) -> str:
    with open_shell() as shell:
        command = ["journalctl", "--unit", unit, f"--lines={_LINES}", "--no-pager", "--output", "cat"]
        return shell.run(command, seconds=_READ_SECONDS, privileged=True).out.strip()


def _with(error: EngineError, log: str) -> EngineError:
    """Return the error with the engine's own last words."""
    summary = f"{error.summary}\nits log ends:\n  {log}" if log else error.summary
    return EngineError(summary, subject=error.subject, next_step=error.next_step, retryable=error.retryable)
