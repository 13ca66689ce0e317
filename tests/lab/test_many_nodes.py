"""Many nodes on one cluster: how often Proxmox is asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.actions import Plan
from provisioner.domain.conventions import mac_address
from provisioner.domain.names import NodeName, Vmid
from provisioner.errors import ProvisionerError
from provisioner.fleet import Fleet
from provisioner.lab.core import Lab
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.lab.model import Guest
from provisioner.lab.routes import views
from provisioner.planning.idle import IdleVerdict
from tests.lab.support import NODE, Site, site_for

COUNT = 60


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A lab whose first node was made by us, and as many VMs like it as there are further nodes."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab") as lab:
        site = site_for(lab, tmp_path, images)
        site.fleet().up(NODE)
        site.fleet().sleep(NODE)
        site.fleet_file.write_text(site.fleet_file.read_text() + "".join(copies(site)))
        lab.forget_requests()
        yield site


def copies(site: Site) -> Iterator[str]:
    """Put a VM beside each further node; yield the lines of the fleet file."""
    first = site.lab.lab.cluster.guests["5001"]
    address = re.search(r"http://([0-9.]+):", first.config["description"])
    assert address is not None
    for number in range(2, COUNT + 1):
        vmid, name, ip = 5000 + number, f"node-{number}", f"10.99.0.{number}"
        config = {
            **first.config,
            "name": name,
            "net0": first.config["net0"].replace(mac_address(Vmid(5001)), mac_address(Vmid(vmid))),
            "description": first.config["description"].replace(NODE, name).replace(address[1], ip),
        }
        site.lab.run(save(site, Guest(vmid, "pve1", config=config)))
        yield f"  {name}: {{hypervisor: pve1, vmid: {vmid}, gpus: [rtx3090], modes: [small], gateway: 10.99.0.254, "
        yield f"address: {ip}/16}}\n"


async def save(site: Site, guest: Guest) -> None:
    site.lab.lab.cluster.save_guest(guest)


def asked(site: Site) -> Counter[str]:
    return Counter(re.sub(r"/qemu/\d+", "/qemu/N", str(request["path"])) for request in site.lab.requests())


def unproven(plan: Plan | ProvisionerError) -> list[str]:
    assert isinstance(plan, Plan), plan
    assert plan.refusal is None, plan
    return [step.name for step in plan.steps if step.kind.value == "change"]


def test_plans_of_many_ask_once_for_what_nodes_share(site: Site) -> None:
    plans = site.fleet().plans()
    assert len(plans) == COUNT
    assert {tuple(unproven(plan)) for plan in plans.values()} == {("start",)}
    assert asked(site) == {
        "/cluster/resources": 1,
        "/cluster/mapping/pci": 1,
        "/nodes/pve1/storage/local/content": 1,
        "/nodes/pve1/qemu/N/pending": COUNT,
    }


def test_an_idle_pass_over_nodes_that_are_off_asks_each_cluster_once(site: Site) -> None:
    decisions = site.fleet().idle()
    assert {decision.verdict for decision in decisions} == {IdleVerdict.ASLEEP}
    assert len(decisions) == COUNT
    assert asked(site) == {"/cluster/resources": 1}


def test_one_plan_that_cannot_be_made_stops_no_other(site: Site) -> None:
    fleet = site.fleet()
    away = replace(fleet.spec.clusters[next(iter(fleet.spec.clusters))], name="away", api_url="https://127.0.0.1:1")  # type: ignore[arg-type]
    server = replace(fleet.spec.hypervisors[next(iter(fleet.spec.hypervisors))], name="pve9", cluster="away")  # type: ignore[arg-type]
    away = replace(away, retry_seconds=0.0)
    nodes = dict(fleet.spec.nodes)
    nodes[NodeName("node-2")] = replace(nodes[NodeName("node-2")], hypervisor=server.name)
    spec = replace(
        fleet.spec,
        clusters={**fleet.spec.clusters, away.name: away},
        hypervisors={**fleet.spec.hypervisors, server.name: server},
        nodes=nodes,
    )
    plans = Fleet(spec, site.settings).plans()
    assert [name for name, plan in plans.items() if isinstance(plan, ProvisionerError)] == ["node-2"]


def test_what_a_server_has_not_reported_is_not_taken_for_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pvestatd hangs: the cluster shows no power and no name, and the VMs themselves do."""
    fleet = site.fleet()
    fleet.wake(NODE)
    facts = views.guest_resource

    def stale(lab: Lab, guest: Guest, pool: str | None) -> dict[str, object]:
        found = facts(lab, guest, pool) | {"status": "unknown"}
        del found["name"]
        return found

    monkeypatch.setattr(views, "guest_resource", stale)
    plans = fleet.plans([NODE, "node-2"])
    started = {name: plan.steps[0].name for name, plan in plans.items() if isinstance(plan, Plan)}
    assert started == {NODE: "guest", "node-2": "start"}
