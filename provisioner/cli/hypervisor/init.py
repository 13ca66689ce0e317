"""init."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.hypervisor.login import expanded, is_terminal, password_login, secret_reference

if TYPE_CHECKING:
    from provisioner.adapters.proxmox.session import PasswordLogin, TokenLogin
    from provisioner.domain.access_plan import AccessPlan
    from provisioner.domain.discovery import CertificateSeen
    from provisioner.domain.fleet import TlsTrust
    from provisioner.domain.proposal import TokenChoice

_USUAL_FILE = Path("inventory/fleet.yml")
_PORT = 8006
_FLEET_TOKEN = "provisioner@pve!fleet"  # noqa: S105 - a name
_TOKEN_FILE = "~/.config/provisioner/{cluster}.token"  # noqa: S105 - a path

EPILOG = """\b
Examples:
  provisioner init https://10.10.0.2:8006 --user root@pam
  provisioner init https://10.10.0.2:8006 --token-id me@pve!look --token-secret file:look.token
"""


@click.command(short_help="Look at a cluster and write a fleet file with what is there.", epilog=EPILOG)
@click.argument("api_url", metavar="URL", required=False)
@click.option("--api", "api_option", metavar="URL", help="The same as URL.")
@click.option("--token-id", metavar="USER@REALM!ID", help="Log in with this API token.")
@click.option("--token-secret", metavar="env:NAME|file:PATH", help="Where its secret is.")
@click.option(
    "--user", metavar="USER@REALM", help="Log in as a person instead; a token given then is for the file only."
)
@click.option("--password", metavar="env:NAME|file:PATH", help="Where the password is [default: asked for].")
@click.option("--otp", metavar="DIGITS", help="The person's second factor, from an authenticator app.")
@click.option(
    "--fingerprint",
    "--accept-fingerprint",
    "fingerprint",
    metavar="AB:CD:...",
    help="The SHA-256 fingerprint that the server's certificate must have; pinned in the file.",
)
@click.option("--ca-file", type=click.Path(path_type=Path, dir_okay=False), help="The authority that signed it.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help=f"Where to write [default: {_USUAL_FILE}]."
)
@click.option("--dry-run", is_flag=True, help="Print the file; write nothing.")
@json_option
@pass_session
def init(
    session: Session,
    api_url: str | None,
    api_option: str | None,
    token_id: str | None,
    token_secret: str | None,
    user: str | None,
    password: str | None,
    otp: str | None,
    fingerprint: str | None,
    ca_file: Path | None,
    output: Path | None,
    dry_run: bool,
) -> None:
    """Look at a cluster and write a fleet file with what is there; nothing is changed on the cluster.

    A certificate that nobody vouches for is shown and has to be accepted before any secret is sent.
    """
    from provisioner.bootstrap import discovering
    from provisioner.cli.hypervisor.init_report import InitReport, print_init_report
    from provisioner.errors import ProvisionerError
    from provisioner.planning.proposal import cluster_name

    if (api_url is None) == (api_option is None):
        raise click.UsageError("give the address of the cluster once, such as https://10.10.0.2:8006")
    url = normal_url(api_url or api_option or "")
    wanted = _trust(fingerprint, ca_file)
    token = _token(token_id, token_secret)
    login = _login(token, user, password, otp, url)
    path = output or session.fleet_file or _USUAL_FILE
    service = discovering(login)
    if not dry_run:
        # Before anybody types a password for nothing.
        service.require_absent(path)
    address = service.trusted(url, wanted, _confirm(url) if is_terminal() else None)
    discovery = service.discover(address)
    chosen = token or _new_token(cluster_name(discovery))
    proposed = service.propose(discovery, chosen, address.tls, path)
    if not dry_run:
        service.write(proposed, path)
    plan: AccessPlan | ProvisionerError | None = None
    if user is not None:
        try:
            plan = service.privileged_step(address, proposed.fleet, proposed.proposal)
        except ProvisionerError as error:
            # The file is written; who may do the rest is for the person to find out.
            plan = error
    print_init_report(InitReport(proposed, None if dry_run else path, plan, user), as_json=session.json)


def normal_url(text: str) -> str:
    """Return an address as the fleet file wants it: https, a port, no path. Raises UsageError.

    People paste what their browser shows (``https://pve1:8006/#v1:0:18``), or type only a name.
    """
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"https://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if not host or parts.scheme != "https" or parts.username is not None or not host.isprintable() or " " in host:
        raise click.UsageError(f"{text!r} is not the https address of a server, such as https://10.10.0.2:8006")
    if port is None and not has_scheme:
        port = _PORT
    name = f"[{host}]" if ":" in host else host
    return f"https://{name}:{port}" if port is not None else f"https://{name}"


def _trust(fingerprint: str | None, ca_file: Path | None) -> TlsTrust:
    from provisioner.domain.fleet import TlsTrust
    from provisioner.domain.name_rules import normal_fingerprint

    if fingerprint is None:
        return TlsTrust(ca_file=ca_file)
    if ca_file is not None:
        raise click.UsageError("give either --fingerprint or --ca-file")
    try:
        return TlsTrust(fingerprint=normal_fingerprint(fingerprint))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fingerprint") from None


def _token(token_id: str | None, secret: str | None) -> TokenChoice | None:
    from provisioner.domain.name_rules import TOKEN_ID, fits
    from provisioner.domain.proposal import TokenChoice

    if (token_id is None) != (secret is None):
        raise click.UsageError("--token-id and --token-secret go together")
    if token_id is None or secret is None:
        return None
    if not fits(TOKEN_ID, token_id):
        raise click.BadParameter("USER@REALM!TOKENID, such as provisioner@pve!fleet", param_hint="--token-id")
    return TokenChoice(token_id, secret_reference(secret, "--token-secret"))


def _new_token(cluster: str) -> TokenChoice:
    from provisioner.domain.fleet import SecretReference, SecretSource
    from provisioner.domain.proposal import TokenChoice

    return TokenChoice(_FLEET_TOKEN, SecretReference(SecretSource.FILE, _TOKEN_FILE.format(cluster=cluster)))


def _login(
    token: TokenChoice | None, user: str | None, password: str | None, otp: str | None, url: str
) -> Callable[[], TokenLogin | PasswordLogin]:
    """Return what reads the secret once the server is trusted. Raises UsageError."""
    from provisioner.adapters.proxmox.session import TokenLogin
    from provisioner.adapters.secrets import read_secret

    if user is None:
        if token is None:
            raise click.UsageError("say who you are: --user root@pam, or --token-id with --token-secret")
        if password is not None or otp is not None:
            raise click.UsageError("--password and --otp belong to --user")
        return lambda: TokenLogin(token.token_id, read_secret(expanded(token.secret), subject=f"token of {url}"))
    return password_login(user, password, otp, where=url, option="--user")


def _confirm(url: str) -> Callable[[CertificateSeen], bool]:
    def ask(seen: CertificateSeen) -> bool:
        click.echo(f"No authority vouches for {url} ({seen.doubt}). Its certificate's SHA-256 fingerprint is", err=True)
        click.echo(f"\n  {seen.fingerprint}\n", err=True)
        click.echo("On the server, `pvenode cert info` shows the same, unless somebody stands in between.", err=True)
        return click.confirm("Is it the same? It will be pinned", default=False, err=True)

    return ask
