"""Unpacking what was packed for guests."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive; nothing of it lands elsewhere where this Python can see to that."""
    with tarfile.open(archive) as tar:
        # Debian bookworm's Python 3.11.2 has no filters yet.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, **safely)
