"""Proxmox's own reckoning of how long a start may take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import NodeSpec, VmOptions
from provisioner.domain.quantities import GIB
from provisioner.planning.start_times import start_seconds


@pytest.mark.parametrize(
    ("gib", "gpus", "hugepages", "seconds"),
    [
        (8, 0, None, 35),
        (64, 0, None, 69),
        (8, 1, None, 125),
        (512, 1, None, 2053),
        (512, 2, None, 2053),
        (16, 0, "1GiB", 155),
        (64, 1, "1GiB", 261),
    ],
)
def test_it_grows_with_memory_and_more_so_with_a_gpu(
    node: NodeSpec, gib: int, gpus: int, hugepages: str | None, seconds: float
) -> None:
    options = VmOptions(numa=True, hugepages=hugepages)
    wished = replace(node, memory_bytes=gib * GIB, gpus=node.gpus * gpus, options=options)
    assert start_seconds(wished) == seconds
