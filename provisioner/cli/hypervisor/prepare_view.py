"""What prepare shows a person: diffs, commands, steps; how it went; what waits for a reboot."""

from __future__ import annotations

from collections.abc import Sequence

import click

from provisioner.domain.access_plan import AccessPlan
from provisioner.domain.host_files import RunningGuest
from provisioner.planning.doctor import DoctorReport
from provisioner.planning.readiness import Check, CheckStatus
from provisioner.services.preparing import Arrival, PreparePreview, PrepareReport

_COLOURS = {CheckStatus.FAIL: "red", CheckStatus.WARN: "yellow", CheckStatus.OK: "green"}


def show_plan(name: str, host: PreparePreview | None, access: AccessPlan | None) -> None:
    """Show everything that would be done, before anybody is asked."""
    if host is not None:
        _show_host(name, host)
    if access is not None:
        if host is not None:
            click.echo()
        show_access(access)


def _show_host(name: str, host: PreparePreview) -> None:
    plan = host.preparation
    what = "taking back earlier changes" if host.is_undo else "the server itself"
    if not plan.is_needed and not plan.refusals:
        none = "there is nothing to take back" if host.is_undo else "nothing has to change"
        click.echo(f"{name}, {what}: {none}")
    else:
        click.echo(click.style(f"{name}, {what}:", bold=True))
    for change in plan.files:
        click.echo()
        _show_diff(change.diff())
        click.echo(f"  why: {change.why}")
        if change.mode not in ("0644", "0600") and change.before is None:
            click.echo(f"  mode: {change.mode}")
    if plan.commands:
        click.echo("\nthen these commands run there:")
        for command in plan.commands:
            click.echo(f"  {click.style(command.line, bold=True)}\n    why: {command.why}")
    for note in plan.notes:
        click.echo(f"note: {note}")
    for refusal in plan.refusals:
        click.echo(click.style("refused: ", fg="red") + refusal.problem)


def _show_diff(text: str) -> None:
    for line in text.splitlines():
        if line.startswith(("---", "+++")):
            click.echo(click.style(line, bold=True))
        else:
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            click.echo(click.style(line, fg=colour) if colour else line)


def show_access(plan: AccessPlan) -> None:
    """Show the steps that set the rights."""
    if plan.is_empty and not plan.obstacles:
        click.echo(f"rights in cluster {plan.cluster}: nothing has to change")
        return
    click.echo(click.style(f"rights in cluster {plan.cluster}:", bold=True))
    click.echo(str(plan))


def show_report(report: PrepareReport) -> None:
    """Show what was done on the server, and whether it arrived."""
    _show_checks(report.checks)
    for left in report.left:
        click.echo(f"left: {left}")


def show_reboot_reasons(name: str, reasons: Sequence[str], *, is_undo: bool) -> None:
    """Say what waits for a reboot, and how to do it."""
    click.echo("a reboot is needed:")
    for reason in reasons:
        click.echo(f"  - {reason}")
    again = "" if is_undo else f", or let provisioner do it and verify: provisioner prepare {name} --reboot"
    click.echo(f"next: reboot {name} when it suits{again}")


def reboot_question(name: str, guests: Sequence[RunningGuest] | None) -> str:
    """Return what a person must know before agreeing to a reboot."""
    if guests is None:
        return f"Which VMs and containers run on {name} could not be learnt; all of them will be shut down. Reboot now?"
    if not guests:
        return f"No VM and no container runs on {name}. Reboot now?"
    return f"{name} shuts down {', '.join(map(str, guests))}. Reboot now?"


def show_arrival(arrival: Arrival) -> None:
    """Show how the server came back."""
    click.echo(f"{arrival.hypervisor} is back:")
    _show_checks(arrival.checks)


def show_doctor(report: DoctorReport) -> None:
    """Show the doctor's verdict, as `doctor` does."""
    from provisioner.cli.hypervisor.doctor_view import show_report as show_doctor_report

    click.echo()
    show_doctor_report(report)


def _show_checks(checks: Sequence[Check]) -> None:
    for check in checks:
        label = click.style(f"[{check.status.value}]", fg=_COLOURS.get(check.status))
        click.echo(f"{label} {check.id}: {check.found}")
        if check.status is not CheckStatus.OK:
            click.echo(f"  why: {check.why}\n  next: {check.next_step}")
