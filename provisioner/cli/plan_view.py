"""A plan for people: what is added, changed, restarted, made sure, or refused. Colours only on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import click

from provisioner.domain.actions import CreateVm, Plan, RestartVm, Step, StepKind
from provisioner.domain.vm_traits import Drift


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield a plan's lines; `click.echo` takes the colours away where nobody sees them."""
    remark = f": {plan.remark}" if plan.remark else ""
    yield click.style(plan.node.subject, bold=True) + remark
    if plan.refusal is not None:
        yield click.style("  refused: ", fg="red", bold=True) + plan.refusal.reason
        yield click.style("  next: ", fg="cyan") + plan.refusal.next_step
    elif not plan.has_changes:
        yield click.style("  nothing to change", fg="green")
    for step in plan.steps:
        yield from _step_lines(step)


def _step_lines(step: Step) -> Iterator[str]:
    if step.kind is StepKind.ENSURE:
        yield click.style(f"  = {step}", dim=True)
        return
    mark, colour = _mark(step)
    # Drifts that have lines of their own need not be told twice.
    reason = "" if step.drifts and not isinstance(step.action, RestartVm) else f": {step.reason}"
    yield click.style(f"  {mark} {step.name}", fg=colour) + reason
    for drift in step.drifts:
        yield f"      {_drift(drift, waits=drift.trait in step.at_cold_start)}"


def _mark(step: Step) -> tuple[str, str]:
    if isinstance(step.action, RestartVm):
        return "!", "magenta"
    return ("+", "green") if isinstance(step.action, CreateVm) or not step.drifts else ("~", "yellow")


def _drift(drift: Drift, *, waits: bool) -> str:
    when = click.style(" (at the next cold start)", fg="magenta") if waits else ""
    values = f"{click.style(drift.seen, fg='red')} → {click.style(drift.wanted, fg='green')}"
    return f"{drift.trait.value}: {values}{when}"
