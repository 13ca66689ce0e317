"""Who waits for whose image."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from provisioner.domain.fleet import FleetSpec, ImageSpec, NodeSpec
from provisioner.domain.names import HypervisorName, NodeName, StorageName
from provisioner.services.provisioning import Provisioning
from tests.fakes.world import FakeWorld

WAIT_SECONDS = 20


def other_node(fleet: FleetSpec, node: NodeSpec, image: str) -> tuple[FleetSpec, NodeSpec]:
    """The fleet with one more node, made from an image of that name."""
    first = fleet.images[node.image]
    other = replace(fleet.nodes[NodeName("llm-gpu-02")], hypervisor=node.hypervisor, gpus=(), image=image)
    images = {**fleet.images, image: replace(first, name=image)}
    return replace(fleet, images=images, nodes={**fleet.nodes, other.name: other}), other


@pytest.mark.parametrize("same", [True, False], ids=["the same image", "another image"])
def test_only_nodes_that_want_the_same_image_wait_for_its_download(
    fleet: FleetSpec, node: NodeSpec, world: FakeWorld, same: bool
) -> None:
    fleet, other = other_node(fleet, node, node.image if same else "another")
    hangs, goes_on = threading.Event(), threading.Event()
    fetched: list[str] = []
    fetch = world.cluster.download_image

    def download(hypervisor: HypervisorName, storage: StorageName, image: ImageSpec) -> tuple[str, ...]:
        fetched.append(image.name)
        if image.name == node.image:
            hangs.set()
            assert goes_on.wait(WAIT_SECONDS)
        return fetch(hypervisor, storage, image)

    world.cluster.download_image = download  # type: ignore[method-assign]
    provisioning = Provisioning(fleet, world)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(provisioning.up, node, lambda event: None)
        assert hangs.wait(WAIT_SECONDS)
        second = pool.submit(provisioning.up, other, lambda event: None)
        if same:
            goes_on.set()
        else:
            second.result(WAIT_SECONDS)
            assert not first.done()
            goes_on.set()
        first.result(WAIT_SECONDS)
        second.result(WAIT_SECONDS)
    assert fetched == ([node.image] if same else [node.image, "another"])
