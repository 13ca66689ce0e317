"""Files on this machine that other programs read, such as the targets of Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class FileTrouble(Exception):
    """A file could not be read or written; the text says why."""


class TextFiles(Protocol):
    """Small texts in files."""

    def read(self, path: Path) -> str | None:
        """Return a file's text, None where there is none. Raises FileTrouble."""
        ...

    def write(self, path: Path, text: str) -> None:
        """Replace a file so that a reader finds the old text or the new one, nothing between. Raises FileTrouble."""
        ...
