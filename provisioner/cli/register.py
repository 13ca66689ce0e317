"""register: tell the orchestrators, and verify what they now know."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import print_error, print_json

if TYPE_CHECKING:
    from provisioner.services.registering import RegistrationReport


@click.command(short_help="Tell n8n and others of the nodes.", epilog="Example: provisioner register --dry-run")
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.option("--dry-run", is_flag=True, help="Only ask what they know, and show the difference.")
@click.option("--force", is_flag=True, help="Overwrite also what somebody edited there.")
@json_option
@pass_session
def register(session: Session, nodes: tuple[str, ...], *, dry_run: bool, force: bool) -> None:
    """Tell the orchestrators of the nodes that exist, and verify what they now know.

    Running it again changes nothing. What somebody edited there is shown and kept.
    """
    if dry_run and force:
        raise click.UsageError("--dry-run changes nothing, so there is nothing to force")
    reports = session.fleet().register(nodes, dry_run=dry_run, force=force)
    for report in reports:
        if session.json:
            print_json({"result": report.as_dict()})
        else:
            _show(report, dry_run=dry_run)
        if report.error is not None:
            print_error(report.error, as_json=False)
    if any(report.error is not None for report in reports) or (
        not dry_run and not all(report.is_complete for report in reports)
    ):
        sys.exit(1)


def _show(report: RegistrationReport, *, dry_run: bool) -> None:
    known = ", ".join(report.nodes) or "no node"
    if report.error is not None:
        return
    if dry_run:
        click.echo(f"{report.title} should know: {known}")
    elif report.is_complete:
        click.echo(f"{report.title} knows: {known}{'' if report.changed else ' (nothing had to change)'}")
    else:
        click.echo(f"{report.title} does not know all of: {known}")
    for item in report.items:
        click.echo(f"  {item}")
    if any(item.is_by_hand for item in report.items):
        click.echo("  next: provisioner register --force overwrites what was changed by hand")
