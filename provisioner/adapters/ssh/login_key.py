"""The key we log in to guests with: the fleet file's, or one made on first use and kept in our state folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.adapters.storage.state_folder import writing_below
from provisioner.errors import InputError

if TYPE_CHECKING:
    import paramiko


class LoginKey:
    """A private key file and what can be read off it."""

    def __init__(self, given: Path | None, state_folder: Path) -> None:
        self._given = given
        self._made = state_folder / "ssh" / "id_ed25519"

    @property
    def path(self) -> Path:
        """The private key's file; made if the fleet file names none. Raises InputError."""
        if self._given is not None:
            return self._given
        if not self._made.exists():
            with writing_below(self._made.parent):
                _make(self._made)
        return self._made

    def key(self) -> paramiko.PKey:
        """Read the private key. Raises InputError."""
        # Costs a tenth of a second, and `status` needs the path alone.
        import paramiko

        path = self.path
        try:
            return load_key(path)
        except FileNotFoundError:
            raise _unusable(path, "there is no such file", "check ssh.private_key in the fleet file") from None
        except paramiko.PasswordRequiredException as error:
            raise _unusable(
                path, "it is protected by a passphrase", "name a key without one; only this tool needs it"
            ) from error
        except (OSError, ValueError, paramiko.SSHException) as error:
            raise _unusable(path, f"it is no private key ({error})", "name an OpenSSH private key") from error

    def public_line(self) -> str:
        """Return the public key as a line of authorized_keys."""
        if self._given is None:
            # Ours has one form, and paramiko takes a tenth of a second to load.
            return _public_line(self.path)
        key = self.key()
        return f"{key.get_name()} {key.get_base64()}"


def load_key(path: Path) -> paramiko.PKey:
    """Read a private key file. Raises OSError, ValueError or SSHException; PasswordRequiredException of the latter."""
    import paramiko

    try:
        return paramiko.PKey.from_path(path)
    except TypeError as error:  # cryptography's word for a passphrase that was not given
        raise paramiko.PasswordRequiredException(str(error)) from error


def _make(path: Path) -> None:
    """Create a key so that all who start at once end up with the same one (mkstemp makes mode 600)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    text = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    descriptor, draft = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(draft)


def _public_line(path: Path) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    try:
        public = load_ssh_private_key(path.read_bytes(), password=None).public_key()
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(path, f"it is no private key ({error})", "remove it, and a new one is made") from error
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _unusable(path: Path, reason: str, next_step: str) -> InputError:
    return InputError(f"cannot use the login key: {reason}", subject=str(path), next_step=next_step)
