"""Every request that granting and taking back can send is one that the official API description accepts."""

from __future__ import annotations

from typing import Any

import pytest

from provisioner.domain.access import MARK
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.services.granting import Granting
from tests.contract.pve_schema import SOURCES, complaints, official_api
from tests.lab.preparing import USER, bare_fleet, door_of, secret_file, wish
from tests.lab.support import Site, site_for


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All requests from a bare cluster and back, as the lab received them."""
    folder = tmp_path_factory.mktemp("rights")
    with served_folder(folder) as images, RunningLab(folder / "lab") as lab:
        site = site_for(lab, folder, images)
        there_and_back(site)
        return list(lab.requests())


def there_and_back(site: Site) -> None:
    """Carry out every kind of step at least once."""
    fleet = bare_fleet(site)
    granting = Granting(door_of(site))
    wanted = wish(fleet, may_delete_seeds=True)
    granting.apply(granting.preview(wanted))
    site.lab.call("PUT", "/access/roles/ProvisionerNode", privs="Sys.Audit")
    site.lab.call("PUT", f"/access/users/{USER}/token/fleet", privsep="0")
    entry = "id=10de:2204,iommugroup=99,node=pve1,path=0000:01:00,subsystem-id=10de:3095"
    site.lab.call("PUT", "/cluster/mapping/pci/rtx3090", map=[entry])
    assert len(granting.apply(granting.preview(wanted)).done) == 3
    secret_file(site).unlink()
    assert any(step.method == "DELETE" for step in granting.preview(wanted).steps)
    granting.apply(granting.preview(wanted))
    site.lab.call("POST", "/nodes/pve1/qemu", vmid="900", hostpci0="mapping=rtx3090")
    assert MARK in site.lab.call("GET", "/cluster/mapping/pci/rtx3090")["description"]
    granting.apply(granting.preview_undo(wanted))
    site.lab.finish(site.lab.call("DELETE", "/nodes/pve1/qemu/900"))
    assert granting.apply(granting.preview_undo(wanted)).done == ("delete PCI mapping rtx3090",)


@pytest.mark.parametrize("source", SOURCES)
def test_every_request_is_accepted_by_the_official_description(requests: list[dict[str, Any]], source: str) -> None:
    api = official_api(source)
    for request in requests:
        found = complaints(api, str(request["method"]), str(request["path"]), dict(request["params"]))
        assert not found, f"{request['method']} {request['path']}: {found}"


def test_every_kind_of_change_was_made(requests: list[dict[str, Any]]) -> None:
    changes = {(request["method"], request["path"]) for request in requests if request["method"] != "GET"}
    token = f"/access/users/{USER}/token/fleet"
    assert {
        ("POST", "/access/roles"),
        ("PUT", "/access/roles/ProvisionerNode"),
        ("DELETE", "/access/roles/ProvisionerNode"),
        ("POST", "/access/users"),
        ("DELETE", f"/access/users/{USER}"),
        ("POST", token),
        ("PUT", token),
        ("DELETE", token),
        ("PUT", "/access/acl"),
        ("POST", "/cluster/mapping/pci"),
        ("PUT", "/cluster/mapping/pci/rtx3090"),
        ("DELETE", "/cluster/mapping/pci/rtx3090"),
        ("PUT", "/storage/local"),
    } <= changes
