"""Labs for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.demo.lab_process import processes_using, running_lab
from provisioner.lab import host_packages
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.lab.images.store import default_cache_dir
from tests.lab.real_scene import Scene
from tests.lab.support import NODE, Site, site_for


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A lab with simulated guests in this process, and a fleet file for it."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        yield site_for(lab, tmp_path, images)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A lab with real guests, and a fleet of one node; what one module leaves behind the next one finds."""
    if host_packages.missing():
        pytest.skip("QEMU cannot be had here: make lab-packages installs it, as root or with sudo")
    folder = tmp_path_factory.mktemp("qemu")
    with running_lab(folder, backend="qemu", cache=default_cache_dir()) as fleet_file:
        text = "".join(
            line
            for line in fleet_file.read_text().splitlines(keepends=True)
            if not line.startswith(("  llm-gpu-02:", "  llm-cpu-01:"))
        )
        fleet_file.write_text(text)
        yield Scene(folder, fleet_file)
    assert processes_using(folder) == []


@pytest.fixture(scope="module")
def real_node(scene: Scene) -> Scene:
    """The node awake: at once where an earlier module has brought it up, from nothing where none has."""
    (node,) = json.loads(scene.run("status", "--json").stdout)["nodes"]
    scene.run("up" if node["state"] == "absent" else "wake", NODE)
    return scene
