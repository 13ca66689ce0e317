"""The half of `prepare` that is about rights: who enters, what is shown, where the secret goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.hypervisor.login import password_login
from provisioner.cli.output import print_json
from provisioner.errors import RefusedError

if TYPE_CHECKING:
    from provisioner.domain.access_plan import AccessPlan
    from provisioner.fleet import Hypervisor
    from provisioner.ports.access import AccessDoor
    from provisioner.services.granting import GrantEvent, GrantReport


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """What the person said about it; without `login`, a root shell on the server is the way in."""

    is_undo: bool
    login: str | None
    password: str | None
    otp: str | None
    secret_file: Path | None
    shows_secret: bool
    slots: dict[str, tuple[str, ...]]
    is_json: bool


class AccessHalf:
    """Looks, and does what was agreed to."""

    def __init__(self, server: Hypervisor, options: AccessOptions) -> None:
        self._server = server
        self._options = options
        # A second factor is good for one login, so there is one for the whole command.
        self._kept: AccessDoor | None = None

    def preview(self) -> AccessPlan:
        """Return what would be done."""
        from provisioner.domain.names import GpuName, HypervisorName

        options = self._options
        slots = {(HypervisorName(self._server.name), GpuName(name)): found for name, found in options.slots.items()}
        with self._door() as door:
            return self._server.access_plan(
                door, undo=options.is_undo, secret_file=options.secret_file, gpu_slots=slots
            )

    def require_nothing_in_the_way(self, plan: AccessPlan) -> None:
        """Raise RefusedError when something must be mended before anything is done."""
        if plan.blocking:
            raise RefusedError(
                f"cannot set the rights: {'; '.join(obstacle.found for obstacle in plan.blocking)}",
                subject=f"cluster {plan.cluster}",
                next_step="; ".join(obstacle.next_step for obstacle in plan.blocking),
            )

    def apply(self, plan: AccessPlan) -> None:
        """Carry a plan out and say what came of it; ends the command where the token lacks rights all the same."""
        with self._door() as door:
            report = self._server.grant(plan, door, self._tell)
        if self._options.is_json:
            print_json({"result": {"access": report.as_dict() | self._secret(report)}})
        else:
            self._show(report)
        if report.missing:
            sys.exit(1)

    def _show(self, report: GrantReport) -> None:
        click.echo(f"rights in cluster {report.cluster}: {len(report.done)} steps done")
        for obstacle in report.obstacles:
            click.echo(f"left alone: {obstacle.found}\n  next: {obstacle.next_step}")
        for right in report.missing:
            click.echo(f"the token still lacks {right}: look at Datacenter > Permissions", err=True)
        if report.secret_file is not None:
            click.echo(f"the new token's secret is in {report.secret_file}, readable for you alone")
        for secret in self._secret(report).values():
            click.echo(f"secret: {secret}")

    def _secret(self, report: GrantReport) -> dict[str, str]:
        if not self._options.shows_secret or report.secret_file is None:
            return {}
        return {"secret": report.secret_file.read_text(encoding="utf-8").strip()}

    def _tell(self, event: GrantEvent) -> None:
        if self._options.is_json:
            print_json({"event": event.as_dict()})
        elif event.phase.value != "started":
            click.echo(click.style(f"· {event}", dim=True))

    @contextmanager
    def _door(self) -> Iterator[AccessDoor]:
        options = self._options
        if options.login is None:
            with self._server.shell() as shell:
                yield self._server.enter(shell)
            return
        if self._kept is None:
            where = self._server.api_url
            login = password_login(options.login, options.password, options.otp, where=where, option="--login")
            self._kept = self._server.enter(login())
        yield self._kept
