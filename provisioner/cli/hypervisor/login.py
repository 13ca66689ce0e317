"""How a person says who they are: a name on the command line, the password from a file, a variable or the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from provisioner.adapters.proxmox.session import PasswordLogin
    from provisioner.domain.fleet import SecretReference


def secret_reference(text: str, option: str) -> SecretReference:
    """Read ``env:NAME`` or ``file:PATH``; what is given is never repeated, for it may be the secret itself."""
    from provisioner.domain.fleet import SecretReference, SecretSource

    source, mark, name = text.partition(":")
    if not mark or not name or source not in {each.value for each in SecretSource}:
        raise click.BadParameter("env:NAME or file:PATH; a secret never stands on a command line", param_hint=option)
    return SecretReference(SecretSource(source), name)


def expanded(secret: SecretReference) -> SecretReference:
    """Return a reference with the home folder put in for ``~``."""
    from provisioner.domain.fleet import SecretReference, SecretSource

    if secret.source is SecretSource.FILE:
        return SecretReference(SecretSource.FILE, str(Path(secret.name).expanduser()))
    return secret


def is_terminal() -> bool:
    """Say whether somebody sits there who can be asked."""
    return sys.stdin.isatty()


def password_login(
    user: str, password: str | None, otp: str | None, *, where: str, option: str
) -> Callable[[], PasswordLogin]:
    """Return what reads or asks for the password once the server is trusted.

    Args:
        user: a person with their realm.
        password: ``env:NAME`` or ``file:PATH``; without it, the terminal is asked.
        otp: digits of a second factor.
        where: the server, for the question.
        option: the option that gave `user`.

    Raises:
        click.UsageError: the name is no person's, or there is no terminal to ask on.
    """
    from provisioner.adapters.proxmox.session import PasswordLogin
    from provisioner.adapters.secrets import SecretText, read_secret

    if "@" not in user or "!" in user:
        raise click.BadParameter("a person with their realm, such as root@pam or me@pve", param_hint=option)
    if password is not None:
        place = expanded(secret_reference(password, "--password"))
        return lambda: PasswordLogin(user, read_secret(place, subject=f"user {user}", is_password=True), otp)
    if not is_terminal():
        raise click.UsageError("there is no terminal to ask for the password on; add --password env:NAME or file:PATH")
    return lambda: PasswordLogin(
        user, SecretText(click.prompt(f"Password of {user} at {where}", hide_input=True, err=True)), otp
    )
