"""The end of the path on a real QEMU guest."""

from __future__ import annotations

import json

import pytest

from tests.lab.real_scene import Scene
from tests.lab.support import NODE

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(600)]


@pytest.mark.usefixtures("real_node")
def test_destroy_removes_vm_disks_and_seed(scene: Scene) -> None:
    (seed,) = scene.folder.rglob("*-seed.iso")
    removed = scene.result("destroy", NODE, "--confirm", NODE)["removed"]
    assert removed == ["vm 5001 and its disks", f"seed local:iso/{seed.name}"]
    assert list(scene.folder.rglob("*5001*disk*")) == []
    assert list(scene.folder.rglob("*seed.iso")) == []
    assert json.loads(scene.run("status", "--json").stdout)["nodes"][0]["state"] == "absent"
