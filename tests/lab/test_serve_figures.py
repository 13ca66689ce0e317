"""What the figures of a service say of guests that are not well; none of them makes the page late."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.serving import Client, running_service
from tests.lab.support import NODE, Site, site_for
from tests.lab.watching import until

VMID = 5001
SERVICE = "service: {look_every: 0.3s, figures_every: 0.3s}\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("figures")
    with served_folder(folder) as images, RunningLab(folder / "lab", boot_seconds=0.1, engine_seconds=0.1) as lab:
        found = site_for(lab, folder, images)
        found.fleet(lambda text: text + SERVICE).up(NODE)
        yield found


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[Client]:
    with running_service(site) as service:
        yield service.client


@pytest.mark.parametrize(
    ("fault", "figure"),
    [
        ("gpu_driver_mismatch", 'gpu_check{node="llm-gpu-01",check="driver_matches",severity="fail"} 1'),
        ("gpu_lost", 'gpu_check{node="llm-gpu-01",check="driver_answers",severity="fail"} 1'),
        ("gpu_missing", 'gpu_check{node="llm-gpu-01",check="pci_device",severity="fail"} 1'),
        ("engine_on_cpu", 'engine_on_cpu{node="llm-gpu-01"} 1'),
        ("agent_silent", 'guest_blind{node="llm-gpu-01"} 1'),
        ("engine_silent_numbers", 'gpu_power_watts{node="llm-gpu-01",gpu="0"} '),
    ],
)
def test_a_guest_that_is_not_well_is_told_so(site: Site, client: Client, fault: str, figure: str) -> None:
    client.post(f"/api/nodes/{NODE}/sleep", {"force": True})
    site.lab.lab.faults.add(guest=fault, vmid=VMID)
    try:
        # What is not well may be why a wake is refused; the VM is on all the same.
        client.post(f"/api/nodes/{NODE}/wake", {"wait": False})

        def told() -> bool:
            began = time.monotonic()
            text = client.get("/metrics").value
            assert time.monotonic() - began < 10, "it waits for no guest"
            return f"\nprovisioner_{figure}" in text

        until(told, figure)
    finally:
        site.lab.lab.faults.clear()
