"""export prometheus, export grafana: what watches the control service."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

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
    "--service", default="", metavar="URL", help="Where Prometheus finds the service, if not where it listens."
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
def prometheus(session: Session, folder: Path, service: str, token_file: Path) -> None:
    """Write what Prometheus needs: a configuration, rules and targets; and a table of all metrics."""
    place = urlsplit(service)
    if service and (place.scheme not in ("http", "https") or not place.netloc):
        raise click.BadParameter(f"{service}: a URL such as http://10.10.0.5:8700", param_hint="--service")
    written = session.fleet().export_prometheus(folder, service=service, token_file=token_file)
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
