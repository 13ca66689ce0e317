"""Making folders for what we keep, with an error a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioner.errors import InputError


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Make a private folder and let the caller write into it. Raises InputError when that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield
    except OSError as error:
        raise InputError(
            f"cannot write there: {error.strerror or error}",
            subject=str(folder),
            next_step="make it writable for you, or name another folder in PROVISIONER_STATE",
        ) from error
