"""ssh."""

from __future__ import annotations

import os

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import print_json


@click.command(
    epilog="Example: provisioner ssh llm-gpu-01 -- journalctl -u llama-server -n 20",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@json_option
@pass_session
def ssh(session: Session, node: str, command: tuple[str, ...]) -> None:
    """Log in to a node's guest, or run a command there. Its host key is checked against the VM's notes."""
    how = session.fleet().ssh(node)
    if session.json:
        print_json(
            {
                "result": {
                    "address": how.address,
                    "port": how.port,
                    "user": how.user,
                    "private_key": str(how.private_key),
                    "known_hosts": str(how.known_hosts),
                    "command": [*how.arguments, *command],
                }
            }
        )
        return
    try:
        os.execvp(how.arguments[0], [*how.arguments, *command])  # noqa: S606 - no shell is wanted
    except FileNotFoundError:
        raise click.ClickException("there is no ssh on this machine: install openssh-client") from None
