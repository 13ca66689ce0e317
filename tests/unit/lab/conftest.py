"""A lab for tests of the lab."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.lab.harness import RunningLab
from tests.unit.lab.lab_vms import GPU_VM


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RunningLab]:
    with RunningLab(tmp_path / "lab") as running:
        yield running


@pytest.fixture
def done(lab: RunningLab) -> Callable[..., str]:
    """Call something that starts a task, and return how the task ended."""

    def call(method: str, path: str, **params: Any) -> str:
        record = lab.finish(lab.call(method, path, **params))
        return str(record.exitstatus)

    return call


@pytest.fixture
def gpu_vm(done: Callable[..., str]) -> int:
    """A stopped VM with the first card."""
    assert done("POST", "/nodes/pve1/qemu", vmid="5001", **GPU_VM) == "OK"
    return 5001
