"""Writes a few texts into a folder, each whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from provisioner.errors import InputError
from provisioner.ports.text_files import FileTrouble


def write_texts(folder: Path, texts: Mapping[str, str]) -> tuple[Path, ...]:
    """Write files, replacing those that are there; return their paths. Raises InputError."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            path, beside = folder / name, folder / f".{name}.new"
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, path)
            written.append(path)
    except OSError as error:
        raise InputError(
            f"cannot write there: {error.strerror}",
            subject=str(folder),
            next_step="name a folder that you may write to",
        ) from error
    return tuple(written)


class LocalTextFiles:
    """The port `TextFiles` on this machine."""

    def read(self, path: Path) -> str | None:
        """Return a file's text, None where there is none. Raises FileTrouble."""
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise FileTrouble(f"cannot read it: {_why(error)}") from error

    def write(self, path: Path, text: str) -> None:
        """Replace a file so that a reader finds the old text or the new one, nothing between. Raises FileTrouble.

        Who could read the old one can read the new one; where there was none everybody can, for other programs' users
        are to, whatever our own umask is.
        """
        beside = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(text, encoding="utf-8")
            old = path.stat() if path.exists() else None
            if old is not None:
                with suppress(PermissionError):
                    os.chown(beside, old.st_uid, old.st_gid)
            beside.chmod(stat.S_IMODE(old.st_mode) if old is not None else 0o644)
            os.replace(beside, path)
        except OSError as error:
            raise FileTrouble(f"cannot write it: {_why(error)}") from error


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is not text"
