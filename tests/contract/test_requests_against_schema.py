"""Every request that our Proxmox adapter can send is one that the official API description accepts."""

from __future__ import annotations

import re

import pytest

from provisioner.adapters.proxmox import hypervisors, simulated_guests
from provisioner.errors import HypervisorError
from tests.contract.pve_schema import SOURCES, complaints, official_api
from tests.lab.support import NODE, Site

# What the adapters' source calls: method and the last word of the path.
_CALLS = re.compile(r'_session\.call\(\s*"(GET|POST|PUT|DELETE)"')


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """All requests of a node's whole life, as the lab received them."""
    from provisioner.lab.file_server import served_folder
    from provisioner.lab.harness import RunningLab
    from tests.lab.support import site_for

    folder = tmp_path_factory.mktemp("life")
    with served_folder(folder) as images, RunningLab(folder / "lab") as lab:
        site = site_for(lab, folder, images)
        live_a_whole_life(site)
        return list(lab.requests())


def live_a_whole_life(site: Site) -> None:
    """Call every method of the adapter at least once."""
    site.fleet(lambda text: text.replace("  disk: 3GiB", "  disk: 3GiB\n  model_disk: 10GiB")).up(NODE)
    fleet = site.fleet(lambda text: text.replace("model_disk: 10GiB", "model_disk: 12GiB"))
    fleet.hypervisor("pve1").doctor()
    fleet.up(NODE)
    fleet.up(NODE)
    fleet.status()
    fleet.idle()
    fleet.sleep(NODE)
    seed = site.lab.call("GET", "/nodes/pve1/qemu/5001/config")["ide2"].partition(",")[0]
    site.lab.call("DELETE", f"/nodes/pve1/storage/local/content/{seed}")
    fleet.up(NODE)
    fleet.sleep(NODE)
    fleet.wake(NODE)
    fleet.destroy(NODE)
    # A task that fails has its log read.
    site.lab.call("POST", "/nodes/pve1/qemu", vmid="5001", name="foreign")
    api = fleet._world.clusters[next(iter(fleet.spec.clusters))]
    with pytest.raises(HypervisorError):
        api.start_vm(hypervisors.HypervisorName("pve1"), hypervisors.Vmid(999999999)).wait()


@pytest.mark.parametrize("source", SOURCES)
def test_every_request_is_accepted_by_the_official_description(requests: list[dict[str, object]], source: str) -> None:
    api = official_api(source)
    assert len(requests) > 50
    for request in requests:
        found = complaints(api, str(request["method"]), str(request["path"]), dict(request["params"]))  # type: ignore[call-overload]
        assert not found, f"{request['method']} {request['path']}: {found}"


@pytest.mark.parametrize("source", SOURCES)
def test_the_checker_itself_refuses_what_proxmox_refuses(source: str) -> None:
    api = official_api(source)
    create = {"vmid": "5001"}
    for parameters, words in (
        ({"onboot": "True"}, "is no boolean"),
        ({"hostpci0": "mapping=a100,pci=1"}, "pci: unknown"),
        ({"memory": "many"}, "memory"),
        ({"nonsense": "1"}, "nonsense: unknown"),
        ({"bios": "efi"}, "is none of"),
        ({"net0": "virtio,brigde=vmbr0"}, "brigde: unknown"),
    ):
        found = complaints(api, "POST", "/nodes/pve1/qemu", {**create, **parameters})
        assert any(words in each for each in found), (parameters, found)
    assert "vmid: missing" in complaints(api, "POST", "/nodes/pve1/qemu", {})
    assert complaints(api, "PATCH", "/nodes/pve1/qemu", {}) == ["no PATCH /nodes/pve1/qemu"]
    assert complaints(api, "POST", "/nodes/pve1/qemu", create) == []


def test_a_whole_life_covers_every_call_in_the_source(requests: list[dict[str, object]]) -> None:
    from pathlib import Path

    sources = [Path(str(module.__file__)).read_text() for module in (hypervisors, simulated_guests)]
    acts = {
        "cluster/resources", "cluster/mapping/pci", "content", "status/current", "config", "download-url", "upload",
        "qemu", "resize", "status/start", "status/shutdown", "status/stop", "ping", "exec", "exec-status",
        "tasks", "status",
    }  # fmt: skip
    sent = " ".join(str(request["path"]) for request in requests)
    assert sum(len(_CALLS.findall(text)) for text in sources) >= 12
    for act in acts:
        assert act in sent, act
    assert {request["method"] for request in requests} == {"GET", "POST", "PUT", "DELETE"}
