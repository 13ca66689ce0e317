"""serve: the control service."""

from __future__ import annotations

import logging

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import print_json


@click.command(epilog="Example: provisioner serve --listen 127.0.0.1:8700")
@click.option("--listen", metavar="ADDRESS:PORT", help="Instead of the fleet file's service: listen; port 0 takes any.")
@json_option
@pass_session
def serve(session: Session, listen: str | None) -> None:
    """Run the control service: page, API, gateway, idle loop. SIGTERM lets requests finish, then ends it.

    Commands on this machine with the same state folder go through it while it runs.
    """
    from provisioner.domain.service import read_listen_address
    from provisioner.serving.process import Running, Service

    try:
        address = read_listen_address(listen) if listen is not None else None
    except ValueError as error:
        raise click.BadParameter(f"{listen}: {error}", param_hint="--listen") from error
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    def ready(running: Running) -> None:
        if session.json:
            print_json({"ready": {"url": running.url}})
        else:
            click.echo(f"serving at {running.url} (the fleet in a browser; API: {running.url}/api)")

    Service(session.fleet(), address).run(ready)
