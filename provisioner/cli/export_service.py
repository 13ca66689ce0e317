"""export systemd, export haproxy: what runs beside the control service."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import print_json


@click.command(
    "systemd",
    short_help="Write units for systemd: service and idle timer.",
    epilog="Example: provisioner export systemd /etc/systemd/system",
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--user", default="provisioner", show_default=True, help="Whom the units run as.")
@click.option(
    "--secrets",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/provisioner/secrets.env"),
    show_default=True,
    help="A file of lines NAME=VALUE with what the fleet file takes from the environment.",
)
@json_option
@pass_session
def systemd(session: Session, folder: Path, user: str, secrets: Path) -> None:
    """Write units for systemd: the control service, hardened, and an idle timer for those who run no service."""
    written = session.fleet().export_systemd(folder, user=user, secrets=secrets)
    if session.json:
        print_json({"result": {"files": [str(path) for path in written]}})
        return
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"next: useradd --system --home-dir /var/lib/provisioner {user}")
    for place in session.fleet().folders_written_to():
        click.echo(f"      let {user} write to {place}, where orchestrators are told (chgrp, chmod g+w)")
    click.echo("      systemctl daemon-reload && systemctl enable --now provisioner.service")
    click.echo("      (or, without a service: systemctl enable --now provisioner-idle.timer)")


@click.command(
    "haproxy",
    short_help="Print a configuration for HAProxy before the service.",
    epilog="Example: provisioner export haproxy > /etc/haproxy/haproxy.cfg",
)
@click.option("--listen", default="127.0.0.1:8780", show_default=True, metavar="ADDRESS:PORT", help="For HAProxy.")
@pass_session
def haproxy(session: Session, listen: str) -> None:
    """Print a configuration for HAProxy: ready nodes directly, our gateway as the backup that wakes."""
    from provisioner.domain.service import read_listen_address

    try:
        address = read_listen_address(listen)
    except ValueError as error:
        raise click.BadParameter(f"{listen}: {error}", param_hint="--listen") from error
    click.echo(session.fleet().export_haproxy(address), nl=False)


@click.command(
    "n8n",
    short_help="Write the workflows for n8n, to import by hand.",
    epilog="Example: provisioner export n8n workflows",
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
@pass_session
def n8n(session: Session, folder: Path) -> None:
    """Write the workflows as n8n's editor imports them, for those who give us no API key; no secret is in them."""
    written = session.fleet().export_n8n(folder)
    if session.json:
        print_json({"result": {"files": [str(path) for path in written]}})
        return
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(
        "next: import them in n8n, choose a Header Auth credential (Authorization: Bearer TOKEN) in each node that"
    )
    click.echo("      asks for one, and switch them on; with an API key, provisioner register does all of this")
