"""Labs for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.support import Site, site_for


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A lab with simulated guests in this process, and a fleet file for it."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        yield site_for(lab, tmp_path, images)
