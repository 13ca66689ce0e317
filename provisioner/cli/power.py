"""wake, sleep, mode, idle."""

from __future__ import annotations

import sys

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import Progress, print_json, print_result
from provisioner.domain.quantities import duration_text


@click.command(
    short_help="Start a node if it is off, and wait until it answers.",
    epilog="Example: provisioner wake --model llama3.1:8b",
)
@click.argument("node", required=False)
@click.option("--model", help="Wake whichever node serves this model.")
@json_option
@pass_session
def wake(session: Session, node: str | None, model: str | None) -> None:
    """Start a node if it is off; it is ready and answering when this returns."""
    if (node is None) == (model is None):
        raise click.UsageError("name either a node or, with --model, a model")
    fleet = session.power()
    with Progress(as_json=session.json) as progress:
        report = fleet.wake_report(node, model=model, on_event=progress)
    endpoint = report.endpoint
    how = f"awake after {duration_text(report.seconds)}" if report.started else "was awake"
    sentence = f"{endpoint.node} {how} ({report.reason}): {endpoint}"
    print_result(report.as_dict(), sentence, as_json=session.json)


@click.command(epilog="Example: provisioner sleep llm-gpu-01")
@click.argument("node")
@click.option("--force", is_flag=True, help="Also when it is busy or does not say; cut the power if it will not go.")
@json_option
@pass_session
def sleep(session: Session, node: str, force: bool) -> None:
    """Shut a node down cleanly. Refuses, with the reason, while it is busy."""
    fleet = session.power()
    with Progress(as_json=session.json) as progress:
        report = fleet.sleep(node, force=force, on_event=progress)
    how = f"asleep after {duration_text(report.seconds)}" if report.was_running else "was asleep"
    if report.rested:
        how = f"rests after {duration_text(report.seconds)}: its model is out of memory, and {report.rested}"
    print_result(report.as_dict(), "\n".join([f"{report.node} {how}", *report.stay_on]), as_json=session.json)


@click.command(epilog="Example: provisioner mode llm-gpu-01 gaming")
@click.argument("node")
@click.argument("mode")
@click.option("--force", is_flag=True, help="Also while it is busy or does not say; what runs is cut off.")
@json_option
@pass_session
def mode(session: Session, node: str, mode: str, force: bool) -> None:
    """Switch what a node's GPU is for. A mode that does not answer is rolled back."""
    fleet = session.power()
    with Progress(as_json=session.json) as progress:
        report = fleet.mode(node, mode, force=force, on_event=progress)
    before = f", {duration_text(report.last_seconds)} the last time" if report.last_seconds is not None else ""
    where = f": {report.endpoint}" if report.endpoint else ""
    sentence = (
        f"{report.node} is in mode {report.mode} after {duration_text(report.seconds)}{before} "
        f"({report.did}; it was in {report.previous}){where}"
    )
    print_result(report.as_dict(), sentence, as_json=session.json)


@click.command(epilog="Example: provisioner idle --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would happen; stop nothing.")
@json_option
@pass_session
def idle(session: Session, dry_run: bool) -> None:
    """Make one idle pass; print for every node why it stays or goes. For cron or a systemd timer."""
    fleet = session.power()
    with Progress(as_json=session.json) as progress:
        decisions = fleet.idle(dry_run=dry_run, on_event=progress)
    if session.json:
        print_json({"result": [decision.as_dict() for decision in decisions]})
    else:
        for decision in decisions:
            click.echo(str(decision))
    if any(decision.verdict.value in ("failed", "unknown") for decision in decisions):
        sys.exit(1)
