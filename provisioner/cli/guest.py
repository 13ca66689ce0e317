"""ssh, logs, forward."""

from __future__ import annotations

import os
import sys

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import print_json


@click.command(
    epilog="Example: provisioner ssh llm-gpu-01 -- journalctl -u llm-small -n 20",
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


@click.command(
    short_help="Show what the engine of a node says.", epilog="Example: provisioner logs llm-gpu-01 --since 20m -f"
)
@click.argument("node")
@click.option("-n", "--lines", "count", type=click.IntRange(0), default=50, show_default=True, help="How many.")
@click.option("--since", help="Only later ones: a time back such as 20m, or a moment.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@json_option
@pass_session
def logs(session: Session, node: str, count: int, since: str | None, follow: bool) -> None:
    """Show what the engine of a node says: its unit's journal in the guest."""
    lines = session.fleet().logs(node, count=count, since=since, follow=follow)
    try:
        for line in lines:
            if session.json:
                print_json(line.as_dict())
            else:
                click.echo(str(line))
    except KeyboardInterrupt:
        if not follow:
            raise
    finally:
        lines.close()


@click.command(
    short_help="Bring a node's engine and Web UI to this machine.",
    epilog="Example: provisioner forward llm-gpu-01 --port 8000 --also 3000",
)
@click.argument("node")
@click.option("--port", type=click.IntRange(0, 65535), help="The port here [default: the engine's own]; 0 for any.")
@click.option(
    "--also", type=click.IntRange(1, 65535), multiple=True, help="A further port of the guest, a Web UI's say."
)
@json_option
@pass_session
def forward(session: Session, node: str, port: int | None, also: tuple[int, ...]) -> None:
    """Bring a node's engine, and its Web UI, to this machine through an SSH tunnel, until Ctrl-C."""
    with session.fleet().forward(node, port, also=also) as tunnel:
        for each in tunnel.forwards:
            if session.json:
                print_json({"forward": each.as_dict()})
            else:
                key = "clients send its API key; " if each.needs_key else ""
                click.echo(f"{each.name} of {node}: {each.url} ({key}Ctrl-C ends it)")
        sys.stdout.flush()
        try:
            tunnel.wait()
        except KeyboardInterrupt:
            click.echo("closed", err=True)
