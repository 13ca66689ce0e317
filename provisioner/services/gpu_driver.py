"""Gives a guest the driver of its cards: look, decide, play, look again.

The look is one command over SSH; the playbook runs only where the look finds
something to do, and what it did is proved by the same look.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from provisioner.domain.actions import InstallDriver
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.gpu_driver import DriverKind
from provisioner.domain.gpu_reading import GpuFacts
from provisioner.domain.refusal import Refusal
from provisioner.errors import GuestError
from provisioner.planning.gpu.diagnosis import diagnosis
from provisioner.planning.gpu.installing import driver_playbooks, driver_work
from provisioner.planning.readiness import CheckStatus
from provisioner.ports.guest_shell import GuestShell
from provisioner.ports.playbooks import Playbooks
from provisioner.services.gpu_facts import gather_gpu_facts
from provisioner.services.outcomes import Outcome

_BROKEN = (CheckStatus.FAIL, CheckStatus.UNKNOWN)


def install_driver(
    open_shell: Callable[[], AbstractContextManager[GuestShell]],
    playbooks: Playbooks,
    node: NodeSpec,
    host_key: str,
    wanted: InstallDriver,
    say: Callable[[str], None],
) -> Outcome:
    """Bring a guest's driver to what is wanted, and prove it.

    Args:
        open_shell: opens a way into the guest; it is opened anew after a playbook, which may have rebooted it.
        playbooks: ways to converge the guest.
        node: the guest.
        host_key: its SSH host key.
        wanted: the step.
        say: told what is under way.

    Raises:
        GuestError: no driver serves the cards, or the driver does not work; the diagnosis is in the summary.
        PlaybookError: a task failed.
        NotReadyError: the guest went away.
    """
    say("looking at the cards")
    with open_shell() as shell:
        facts = gather_gpu_facts(shell, node)
    work = driver_work(wanted, facts, node)
    if isinstance(work, Refusal):
        raise GuestError(
            f"cannot choose a driver: {work.reason}",
            subject=node.subject,
            next_step=f"{work.next_step}, then: provisioner up {node.name}",
        )
    changed: list[str] = []
    if work.reasons:
        say(f"{work.choice}: {'; '.join(work.reasons)}")
    for playbook, variables in driver_playbooks(work, wanted):
        outcome = playbooks.run(playbook, node, host_key, variables, say)
        changed += outcome.changed
    if work.reasons:
        with open_shell() as shell:
            facts = gather_gpu_facts(shell, node)
    _require_health(facts, node, len(node.gpus))
    return Outcome(bool(changed), _words(facts, work.choice.kind))


def _require_health(facts: GpuFacts, node: NodeSpec, cards: int) -> None:
    first = next((each for each in diagnosis(facts, node=node.name, cards=cards) if each.status in _BROKEN), None)
    if first is not None:
        raise GuestError(
            f"cannot use its graphics cards: {first.found} ({first.why})",
            subject=node.subject,
            next_step=first.next_step,
        )


def _words(facts: GpuFacts, kind: DriverKind) -> str:
    names = [reading.name or "a card without a name" for reading in facts.readings]
    shown = ", ".join(
        f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )
    version = facts.versions.loaded or facts.versions.reported
    return f"{kind.value} driver {version or 'of an unknown version'}: {shown or 'no card'}"
