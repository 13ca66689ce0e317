"""Gives our token the rights that it needs, and takes them back: look, show, and only then do.

    granting = Granting(door)                       # an AccessDoor: who enters, and how
    plan = granting.preview(AccessWanted(fleet, cluster))
    print(plan)                                     # sentences, what changes, commands; moves nothing
    report = granting.apply(plan, on_event=print)   # the person has said yes

Consent is the caller's: `preview` returns a value, `apply` does what it says
and nothing else. Between the two the cluster is looked at again; if it is no
longer what the plan was made for, nothing is done. A run that was killed is
continued by the next one: its plan holds what is left. `preview_undo` makes the
plan of the way back, for the same `apply`.

A new token's secret is never part of a plan, an event or a report: it goes
from Proxmox's answer into the file that `GrantReport.secret_file` names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provisioner.domain.access import AccessWanted
from provisioner.domain.access_plan import AccessPlan, AccessStep, Obstacle, Secret
from provisioner.domain.names import ClusterName
from provisioner.errors import PermissionMissingError, ProvisionerError, RefusedError
from provisioner.planning.access import Right, access_plan, missing_rights, needed_rights, withdraw_plan
from provisioner.planning.access.errands import lacking_to_do, lacking_to_look
from provisioner.ports.access import AccessDoor
from provisioner.services.events import Phase


@dataclass(frozen=True, slots=True)
class GrantEvent:
    """Where a step is: `number` of `total`; `detail` says why it failed."""

    step: AccessStep
    phase: Phase
    number: int
    total: int
    detail: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "step": self.step.name,
            "phase": self.phase.value,
            "number": self.number,
            "total": self.total,
            "detail": self.detail,
        }

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.number}/{self.total} {self.step.name} {self.phase.value}{detail}"


OnGrantEvent = Callable[[GrantEvent], None]


def watch_nothing(event: GrantEvent) -> None:
    """Let every event pass."""


@dataclass(frozen=True, slots=True)
class GrantReport:
    """What was done.

    Attributes:
        cluster: whose rights.
        done: the names of the steps, in order.
        obstacles: what the plan left alone, to be seen to by a person.
        missing: rights that Proxmox says the token does not have all the same; always empty after an undo.
        secret_file: where a new token's secret was saved; None when no token was made.
    """

    cluster: ClusterName
    done: tuple[str, ...]
    obstacles: tuple[Obstacle, ...] = ()
    missing: tuple[Right, ...] = ()
    secret_file: Path | None = None

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "cluster": self.cluster,
            "done": list(self.done),
            "obstacles": [obstacle.as_dict() for obstacle in self.obstacles],
            "missing": [str(right) for right in self.missing],
            "secret_file": str(self.secret_file) if self.secret_file else None,
        }


class Granting:
    """`preview`, `preview_undo` and `apply` for one cluster, entered through one door."""

    def __init__(self, door: AccessDoor) -> None:
        self._door = door

    def preview(self, wanted: AccessWanted) -> AccessPlan:
        """Look, and return what would be done. Changes nothing.

        Raises:
            PermissionMissingError: whoever entered may not see all that the plan rests on.
            HypervisorError: Proxmox could not be asked.
            InputError: the place for the secret is contradictory.
        """
        self._require_sight(wanted, undoing=False)
        return access_plan(self._door.look(wanted), wanted)

    def preview_undo(self, wanted: AccessWanted) -> AccessPlan:
        """Look, and return what would be taken away. Changes nothing. Raises as `preview` does."""
        self._require_sight(wanted, undoing=True)
        return withdraw_plan(self._door.look(wanted, undoing=True), wanted)

    def apply(self, plan: AccessPlan, on_event: OnGrantEvent = watch_nothing) -> GrantReport:
        """Do what a plan says; the next plan holds what a run that failed or was killed left over.

        Raises:
            RefusedError: something must be mended first, or the cluster is no longer what the plan was made for.
            PermissionMissingError: whoever entered may not do one of the steps; none was done.
            HypervisorError: Proxmox refused a step; those before it are done.
            InputError: the secret's file cannot be made, or is in use.
        """
        wanted = plan.wanted
        if plan.blocking:
            raise RefusedError(
                f"cannot prepare the cluster: {'; '.join(obstacle.found for obstacle in plan.blocking)}",
                subject=self._door.subject,
                next_step="; ".join(obstacle.next_step for obstacle in plan.blocking),
            )
        now = self.preview_undo(wanted) if plan.is_undo else self.preview(wanted)
        if now.steps != plan.steps:
            raise RefusedError(
                "cannot carry out the plan: the cluster has changed since it was made",
                subject=self._door.subject,
                next_step="look at the new plan: run the same command again",
                retryable=True,
            )
        self._require_power(plan)
        for number, step in enumerate(plan.steps, 1):
            self._carry_out(step, number, len(plan.steps), on_event)
        return GrantReport(
            cluster=plan.cluster,
            done=tuple(step.name for step in plan.steps),
            obstacles=plan.obstacles,
            missing=() if plan.is_undo else self._still_missing(wanted),
            secret_file=next((step.file for step in plan.steps if step.secret is Secret.KEEP), None),
        )

    def _carry_out(self, step: AccessStep, number: int, total: int, on_event: OnGrantEvent) -> None:
        on_event(GrantEvent(step, Phase.STARTED, number, total))
        try:
            self._door.carry_out(step)
        except ProvisionerError as error:
            on_event(GrantEvent(step, Phase.FAILED, number, total, error.summary))
            raise
        on_event(GrantEvent(step, Phase.DONE, number, total))

    def _still_missing(self, wanted: AccessWanted) -> tuple[Right, ...]:
        """Ask Proxmox itself what the token may do now."""
        needed = needed_rights(wanted.fleet, wanted.cluster, self._door.major())
        needed = tuple(right for right in needed if not right.optional or wanted.may_delete_seeds)
        return missing_rights(self._door.token_permissions(wanted), needed)

    def _require_sight(self, wanted: AccessWanted, *, undoing: bool) -> None:
        self._require(lacking_to_look(self._door.own_permissions(), wanted, undoing=undoing), "see what is there")

    def _require_power(self, plan: AccessPlan) -> None:
        self._require(lacking_to_do(self._door.own_permissions(), plan.steps), "prepare the cluster")

    def _require(self, lacking: tuple[str, ...], purpose: str) -> None:
        if lacking:
            raise PermissionMissingError(
                f"cannot {purpose}: 403, this login lacks {', '.join(lacking)}",
                subject=self._door.subject,
                next_step="log in as root@pam, or as an administrator with these rights; nothing was changed",
            )
