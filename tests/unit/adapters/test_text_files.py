"""Files that other programs read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.adapters.files.text_files import LocalTextFiles


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Be as secretive as the unit that the service runs as."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_another_program_can_read_what_is_written_for_it(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    LocalTextFiles().write(path, "[]")
    assert (mode(path), path.read_text()) == (0o644, "[]")


def test_who_could_read_a_file_still_can(tmp_path: Path) -> None:
    path = tmp_path / "models.yml"
    path.write_text("old")
    path.chmod(0o640)
    LocalTextFiles().write(path, "new")
    assert (mode(path), path.read_text()) == (0o640, "new")
    assert list(tmp_path.iterdir()) == [path]
