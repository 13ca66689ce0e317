"""The one reader of secrets: environment variables and private files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from provisioner.domain.fleet import SecretReference, SecretSource
from provisioner.errors import InputError


class SecretText:
    """A secret that does not show itself: not in a repr, a log or an error."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "SecretText(…)"


def read_secret(
    reference: SecretReference,
    *,
    subject: str,
    environment: Mapping[str, str] = os.environ,
    is_password: bool = False,
) -> SecretText:
    """Fetch a secret. Raises InputError that names the source, never the content.

    Args:
        reference: where it is.
        subject: whose it is, in the words of messages.
        environment: where variables are looked up.
        is_password: a person chose it, so it may hold spaces and any sign; only the line's end is cut off.
    """
    if reference.source is SecretSource.ENV:
        text = environment.get(reference.name, "")
        if not text:
            raise InputError(
                f"cannot read the secret {reference}: the environment variable is not set",
                subject=subject,
                next_step=f"export {reference.name}=... in this shell, or point the fleet file to file:PATH",
            )
    else:
        text = _read_private_file(Path(reference.name), reference, subject)
    if is_password:
        return SecretText(text.rstrip("\r\n"))
    secret = text.strip()
    # A token or key is one word. Anything else is a table or a JSON document saved by mistake, and some
    # libraries repeat a header they cannot send in their errors.
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise InputError(
            f"cannot use the secret {reference}: it is more than one word",
            subject=subject,
            next_step="put the secret, and nothing else, there: no table, no JSON, one line",
        )
    return SecretText(secret)


def _read_private_file(path: Path, reference: SecretReference, subject: str) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(
            f"cannot read the secret {reference}: {reason}",
            subject=subject,
            next_step="put the secret, and nothing else, into that file (mode 600)",
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            f"cannot use the secret {reference}: others may read the file (mode {stat.S_IMODE(mode):o})",
            subject=subject,
            next_step=f"chmod 600 {path}",
        )
    if not text.strip():
        raise InputError(
            f"cannot use the secret {reference}: the file is empty", subject=subject, next_step=f"put it into {path}"
        )
    return text
