"""export: the fleet in other programs' words."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.export_service import haproxy, n8n, systemd
from provisioner.cli.export_watching import grafana, prometheus
from provisioner.cli.output import print_error, print_json


@click.group()
def export() -> None:
    """Write the fleet in other programs' words."""


@export.command(
    "ansible-inventory",
    short_help="Write what ansible-playbook needs to play by hand.",
    epilog="Example: provisioner export ansible-inventory by-hand llm-gpu-01",
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@json_option
@pass_session
def ansible_inventory(session: Session, folder: Path, nodes: tuple[str, ...]) -> None:
    """Write inventory, host keys and variables, and show the commands that play every playbook by hand.

    No secret is written: tokens and keys are looked up where the fleet file says, when a playbook is played.
    """
    exported = session.fleet().export_ansible_inventory(folder, nodes)
    if session.json:
        print_json({"result": {"inventory": str(exported.inventory), "commands": dict(exported.commands)}})
    else:
        for commands in exported.commands.values():
            click.echo("\n".join(commands))
    for error in exported.left_out.values():
        print_error(error, as_json=session.json)
    if exported.left_out:
        sys.exit(1)


export.add_command(prometheus)
export.add_command(grafana)
export.add_command(systemd)
export.add_command(haproxy)
export.add_command(n8n)
