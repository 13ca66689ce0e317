"""doctor."""

from __future__ import annotations

import sys

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.fleet import THERE_IS_SOMETHING_TO_DO
from provisioner.cli.output import print_json


@click.command(epilog="Example: provisioner doctor pve1")
@click.argument("hypervisor", required=False)
@json_option
@pass_session
def doctor(session: Session, hypervisor: str | None) -> None:
    """Check, through the API, that hypervisors can take the fleet's nodes. Exit code 3: something must be mended."""
    fleet = session.fleet()
    names = [hypervisor] if hypervisor else list(fleet.spec.hypervisors)
    troubled = False
    for name in names:
        checks = fleet.hypervisor(name).doctor()
        troubled = troubled or any(check.status.value == "fail" for check in checks)
        if session.json:
            rows = [
                {
                    "id": check.id,
                    "status": check.status.value,
                    "found": check.found,
                    "why": check.why,
                    "next_step": check.next_step,
                }
                for check in checks
            ]
            print_json({"hypervisor": name, "checks": rows})
        else:
            click.echo(name)
            for check in checks:
                click.echo("  " + str(check).replace("\n", "\n  "))
    if troubled:
        sys.exit(THERE_IS_SOMETHING_TO_DO)
