"""Writes a few texts into a folder, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from provisioner.errors import InputError


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
