"""Prepares a hypervisor for passthrough: look, show, and only then change; reboot only when told to; take it all back.

    preparing = Preparing(hosts, host_preparation, locks, clock)
    preview = preparing.preview(pve1, PrepareChoices())   # a value with every file and command; moves nothing
    report = preparing.apply(preview)                     # the person has said yes
    arrival = preparing.reboot(preview, seconds=600)      # and yes to this, too

Consent is the caller's. What is applied is exactly what was shown: the playbook
refuses files that changed in between. A run that was killed is continued by
the next one, whose preview holds what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from provisioner.domain.fleet import HypervisorSpec
from provisioner.domain.host import HostFacts, Source
from provisioner.domain.host_files import HostState, RunningGuest
from provisioner.domain.host_preparation import Preparation
from provisioner.domain.names import GpuName, NodeName
from provisioner.errors import InputError, RefusedError
from provisioner.planning.host.merge import with_extras
from provisioner.planning.host.preparation import (
    HostChoices,
    checks_after_reboot,
    checks_before_reboot,
    gpu_slots,
    preparation,
    undoing,
)
from provisioner.planning.readiness import Check, failures
from provisioner.ports.host_preparation import HostPreparation
from provisioner.ports.hosts import Hosts
from provisioner.ports.node_locks import NodeLocks
from provisioner.ports.playbooks import OnTaskEvent, TaskEvent


@dataclass(frozen=True, slots=True)
class PrepareChoices:
    """What a person chose.

    Attributes:
        has_another_console: the server is reached other than by the screen on a GPU that is for guests.
        binds_early: keep the host's drivers off the cards from boot on, where they have taken them.
        gpu_slots: which slot (``0000:01:00``) is which GPU, where that cannot be told.
    """

    has_another_console: bool = False
    binds_early: bool = True
    gpu_slots: Mapping[GpuName, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PreparePreview:
    """What would be done, and what it was decided from."""

    hypervisor: HypervisorSpec
    facts: HostFacts
    state: HostState
    preparation: Preparation
    is_undo: bool = False

    @property
    def subject(self) -> str:
        """The hypervisor, in the words of messages."""
        return f"hypervisor {self.hypervisor.name}"

    def require_no_refusals(self) -> None:
        """Raise RefusedError when something keeps us from changing anything."""
        refusals = self.preparation.refusals
        if refusals:
            raise RefusedError(
                f"cannot prepare the hypervisor: {'; '.join(each.problem for each in refusals)}",
                subject=self.subject,
                next_step="; ".join(dict.fromkeys(each.next_step for each in refusals)),
            )

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        guests = self.state.guests
        return {
            "hypervisor": self.hypervisor.name,
            "undo": self.is_undo,
            **self.preparation.as_dict(),
            "running_guests": None if guests is None else [str(guest) for guest in guests],
        }


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What was done; `checks` say whether it arrived, `left` what stays to be seen to by a person."""

    hypervisor: str
    changed: tuple[str, ...]
    checks: tuple[Check, ...]
    reboot_for: tuple[str, ...]
    left: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """What should be there now and is not."""
        return failures(self.checks)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "hypervisor": self.hypervisor,
            "changed": list(self.changed),
            "checks": [check.as_dict() for check in self.checks],
            "reboot_for": list(self.reboot_for),
            "left": list(self.left),
        }


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a hypervisor came back from the reboot; `checks` say whether it brought what it was for."""

    hypervisor: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """What the reboot should have brought and did not."""
        return failures(self.checks)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {"hypervisor": self.hypervisor, "checks": [check.as_dict() for check in self.checks]}


def _ignore(event: TaskEvent) -> None:
    """Watch nothing."""


class Preparing:
    """`prepare`: the half on the hypervisor itself."""

    def __init__(self, hosts: Hosts, changes: HostPreparation, locks: NodeLocks) -> None:
        self._hosts = hosts
        self._changes = changes
        self._locks = locks

    def preview(self, hypervisor: HypervisorSpec, choices: PrepareChoices = PrepareChoices()) -> PreparePreview:
        """Look, and return what would be done. Changes nothing.

        Raises:
            InputError: the fleet file says no ``ssh`` for it, or one that leads to another server.
            UntrustedError, HypervisorError: it cannot be logged in to, or a record on it is damaged.
        """
        facts, state = self._look(hypervisor)
        wanted = HostChoices(
            gpu_slots(hypervisor, facts, state, choices.gpu_slots),
            choices.has_another_console,
            choices.binds_early,
            frozenset(choices.gpu_slots),
        )
        return PreparePreview(hypervisor, facts, state, preparation(facts, state, wanted))

    def preview_undo(self, hypervisor: HypervisorSpec) -> PreparePreview:
        """Look, and return what taking everything back would do. Changes nothing. Raises as `preview` does."""
        facts, state = self._look(hypervisor)
        return PreparePreview(hypervisor, facts, state, undoing(state), is_undo=True)

    def apply(self, preview: PreparePreview, on_event: OnTaskEvent | None = None) -> PrepareReport:
        """Do what a preview says, and verify what can be verified before a reboot.

        Raises:
            RefusedError: the preview holds refusals; nothing was changed.
            HypervisorError: the host is no longer what the preview was made for (nothing was changed), or a step
                failed; the summary says how things stand.
        """
        preview.require_no_refusals()
        plan, hypervisor = preview.preparation, preview.hypervisor
        with self._locks.held(NodeName(f"hypervisor-{hypervisor.name}")):
            if preview.is_undo:
                outcome = self._changes.undo(hypervisor, on_event or _ignore)
            else:
                outcome = self._changes.prepare(hypervisor, plan, preview.state, on_event or _ignore)
            state = self._changes.state(hypervisor)
        return PrepareReport(
            hypervisor=hypervisor.name,
            changed=outcome.changed,
            checks=checks_before_reboot(preview.facts, state, plan),
            reboot_for=plan.reboot_for,
            left=undoing(state).notes if preview.is_undo else (),
        )

    def reboot(self, preview: PreparePreview, *, seconds: float, on_event: OnTaskEvent | None = None) -> Arrival:
        """Reboot, wait, and verify that it brought what it was for.

        Args:
            preview: what was prepared, or undone.
            seconds: how long the hypervisor may be away.
            on_event: told about each task.

        Raises:
            NotReadyError: it did not come back in time.
            HypervisorError: it could not be told to reboot, or an earlier refresh was cut off.
        """
        hypervisor = preview.hypervisor
        with self._locks.held(NodeName(f"hypervisor-{hypervisor.name}")):
            before = self._changes.state(hypervisor)
            if before.refresh_needed:
                raise RefusedError(
                    "cannot reboot: what boots is not yet made from the changed files "
                    f"({', '.join(each.value for each in before.refresh_needed)} is due)",
                    subject=preview.subject,
                    next_step=f"provisioner prepare {hypervisor.name} does it first",
                )
            self._changes.reboot(hypervisor, seconds, on_event or _ignore)
            facts, state = self._look(hypervisor)
            wanted = None if preview.is_undo else preview.preparation
            running = (facts.command_line or "").split()
            is_elsewhere = wanted is not None and any(word not in running for word in wanted.words)
            source = self._changes.booted_from(hypervisor) if is_elsewhere else ""
        return Arrival(
            hypervisor.name, checks_after_reboot(facts, state, wanted, boot_id=before.boot_id, booted_from=source)
        )

    def running_guests(self, hypervisor: HypervisorSpec) -> tuple[RunningGuest, ...] | None:
        """Return what a reboot would shut down; None where Proxmox did not say."""
        return self._changes.state(hypervisor).guests

    def save_variables(self, path: Path, preview: PreparePreview) -> None:
        """Write what the playbook would be given, for somebody who runs it by hand. Raises InputError."""
        self._changes.save_variables(path, preview.preparation, preview.state)

    def _look(self, hypervisor: HypervisorSpec) -> tuple[HostFacts, HostState]:
        dump = self._hosts.gather(hypervisor)
        facts = with_extras(replace(dump.facts, sources=(Source.SSH,)), dump.extras)
        state = self._changes.state(hypervisor)
        if state.node not in (None, hypervisor.name):
            address = hypervisor.ssh.address if hypervisor.ssh is not None else ""
            raise InputError(
                f'cannot touch the server at {address}: its cluster calls it "{state.node}"',
                subject=f"hypervisor {hypervisor.name}",
                next_step=f"mend hypervisors.{hypervisor.name}.ssh.address in the fleet file: it is another server's",
            )
        return facts, state
