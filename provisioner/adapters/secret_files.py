"""Files that hold one secret: made before there is anything to put in, readable by their owner only, never overwritten.

The order is the point. Proxmox shows a token's secret once; a disk that is
full or a folder that may not be written must be found out before, not after.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from provisioner.adapters.secrets import SecretText
from provisioner.errors import InputError

_MODE = 0o600


def reserve(path: Path) -> None:
    """Make an empty file for a secret; one that is there, empty and private, will do.

    Raises:
        InputError: it cannot be made, holds something, or others could read it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_folder(path.parent)
    except FileExistsError:
        # Made by a run that was killed before it had a secret.
        os.close(_opened_empty(path))
    except OSError as error:
        raise _cannot_make(path, error) from error


def keep(path: Path, secret: SecretText) -> None:
    """Write a secret into the file that `reserve` made, and see it safely on the disk. Raises InputError."""
    descriptor = _opened_empty(path)
    try:
        os.write(descriptor, f"{secret.reveal()}\n".encode())
        os.fsync(descriptor)
    except OSError as error:
        raise _cannot_make(path, error) from error
    finally:
        os.close(descriptor)


def forget(path: Path) -> None:
    """Delete the file; one that is not there is no error. Raises InputError."""
    try:
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"cannot delete the file with the secret: {error.strerror}",
            subject=str(path),
            next_step="delete it by hand: its token is gone",
        ) from error


def _opened_empty(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise _cannot_make(path, error) from error
    seen = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(seen.st_mode):
        problem = "it is not a plain file"
    elif seen.st_size:
        problem = "it holds something already, which is never overwritten"
    elif seen.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        problem = f"others may use it (mode {stat.S_IMODE(seen.st_mode):o})"
    if problem:
        os.close(descriptor)
        raise InputError(
            f"cannot keep the token's secret: {problem}",
            subject=str(path),
            next_step="move it away, or name another file",
        )
    return descriptor


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_make(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot keep the token's secret: {error.strerror}",
        subject=str(path),
        next_step="name a file that can be written, in a folder of your own, as file:PATH in the fleet file",
    )
