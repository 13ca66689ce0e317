"""export prometheus, export grafana: what watches the control service."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import print_json


@click.command(
    "prometheus",
    short_help="Write Prometheus's configuration, rules and targets.",
    epilog="Example: provisioner export prometheus /etc/prometheus/gpu-nodes",
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--service", metavar="ADDRESS:PORT", help="Where Prometheus finds the service; default: where it listens."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/prometheus/provisioner.token"),
    show_default=True,
    help="A file with a token that may read; named only where the fleet file has tokens.",
)
@json_option
@pass_session
def prometheus(session: Session, folder: Path, service: str | None, token_file: Path) -> None:
    """Write what Prometheus needs: a configuration, recording and alert rules, and the engines as a targets file."""
    from provisioner.domain.service import read_listen_address

    try:
        address = read_listen_address(service) if service is not None else None
    except ValueError as error:
        raise click.BadParameter(f"{service}: {error}", param_hint="--service") from error
    written = session.fleet().export_prometheus(folder, service=address, token_file=token_file)
    if session.json:
        print_json({"result": {"files": [str(path) for path in written]}})
        return
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"next: promtool check config {written[0]}")


@click.command(
    "grafana",
    short_help="Write dashboards for Grafana.",
    epilog="Example: provisioner export grafana /var/lib/grafana/dashboards",
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
@pass_session
def grafana(session: Session, folder: Path) -> None:
    """Write dashboards for Grafana, to import or to provision: the fleet, and the control service itself."""
    written = session.fleet().export_grafana(folder)
    if session.json:
        print_json({"result": {"files": [str(path) for path in written]}})
        return
    for path in written:
        click.echo(f"wrote {path}")
    click.echo("next: in Grafana, Dashboards > New > Import; and choose the Prometheus that scrapes the service")
