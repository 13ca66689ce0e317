"""Several nodes of one image on the embedded Proxmox: one template, linked clones, whoever dies on the way."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.actions import DownloadImage, MakeTemplate
from provisioner.domain.names import HypervisorName, NodeName, Vmid
from provisioner.errors import ProvisionerError
from provisioner.fleet import Fleet
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.services.provisioning import UpReport
from provisioner.services.templates import TemplateMaker
from tests.lab.cloned import TEMPLATE, four, native, parents, vms
from tests.lab.support import Site, site_for

PVE1 = HypervisorName("pve1")
MOST_CALLS = 12


@pytest.fixture(params=["8.4", "9.1"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", pve=request.param) as lab:
        yield site_for(lab, tmp_path, images)


def reports(outcomes: dict[str, UpReport | ProvisionerError]) -> list[UpReport]:
    for outcome in outcomes.values():
        if isinstance(outcome, ProvisionerError):
            raise outcome
    return [outcome for outcome in outcomes.values() if isinstance(outcome, UpReport)]


def sent(site: Site, pattern: str) -> int:
    return sum(bool(re.search(pattern, f"{each['method']} {each['path']}")) for each in site.lab.requests())


def require_four_clones(site: Site, fleet: Fleet) -> None:
    """Four nodes that run, one template, nothing half-made, nothing to do."""
    seen = vms(site)
    assert sorted(seen) == [5001, 5002, 5003, 5004, TEMPLATE]
    assert {vm["status"] for vmid, vm in seen.items() if vmid != TEMPLATE} == {"running"}
    assert seen[TEMPLATE]["template"] == 1
    assert not any(vm.get("lock") for vm in seen.values())
    assert {str(vm["tags"]) for vmid, vm in seen.items() if vmid != TEMPLATE} == {"provisioner"}
    assert len(parents(site)) == 4
    assert all("base-9000-disk" in str(parent) for parent in parents(site).values())
    for name in fleet.spec.nodes:
        plan = fleet.plan(name)
        assert plan.refusal is None
        assert not plan.has_changes, str(plan)


def test_four_nodes_in_parallel_are_clones_of_one_template(site: Site) -> None:
    fleet = four(site)
    assert len(reports(fleet.up_all())) == 4
    require_four_clones(site, fleet)
    assert sent(site, r"POST .*/qemu$") == 1
    assert sent(site, r"POST .*/template$") == 1
    assert sent(site, r"POST .*/clone$") == 4


def test_a_clone_is_created_and_started_in_few_calls(site: Site) -> None:
    fleet = four(site)
    fleet.up("node-1")
    counted: list[int] = []
    api = next(iter(fleet._world.clusters.values()))
    before = api.calls

    def watch(event: Any) -> None:
        if event.step == "start" and event.phase.value == "done":
            counted.append(api.calls - before)

    fleet.up("node-2", watch)
    assert counted[0] <= MOST_CALLS


def test_two_processes_make_one_template(site: Site) -> None:
    fleets = [four(site), Fleet.load(site.fleet_file, settings=site.settings)]
    failures: list[BaseException] = []

    def up(fleet: Fleet, name: str) -> None:
        try:
            fleet.up(name)
        except ProvisionerError as error:
            failures.append(error)

    threads = [threading.Thread(target=up, args=pair) for pair in zip(fleets, ("node-1", "node-2"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(vms(site)) == [5001, 5002, TEMPLATE]


def test_another_writer_takes_the_templates_vmid(site: Site) -> None:
    site.lab.call("POST", "/nodes/pve1/qemu", vmid=TEMPLATE, name="a-persons-own")
    fleet = four(site)
    fleet.up("node-1")
    seen = vms(site)
    assert seen[TEMPLATE]["name"] == "a-persons-own"
    assert seen[TEMPLATE + 1]["template"] == 1


def test_without_the_right_to_clone_it_is_imported(site: Site) -> None:
    fleet = four(site)
    for entry in site.lab.call("GET", "/access/roles"):
        if not entry["special"] and "VM.Clone" in entry["privs"]:
            privileges = ",".join(each for each in entry["privs"].split(",") if each != "VM.Clone")
            site.lab.call("PUT", f"/access/roles/{entry['roleid']}", privs=privileges)
    assert "the token lacks VM.Clone on /vms" in str(fleet.plan("node-1"))
    fleet.up("node-1")
    assert sorted(vms(site)) == [5001]


def test_a_file_storage_clones_qcow2(site: Site) -> None:
    site.lab.call("PUT", "/storage/local", content="iso,import,images")
    images = site.lab.call("GET", "/access/roles/ProvisionerImages")
    site.lab.call("PUT", "/access/roles/ProvisionerImages", privs=",".join([*images, "Datastore.AllocateSpace"]))
    fleet = site_with_files(site)
    reports(fleet.up_all(["node-1", "node-2"]))
    volumes = [volume["volid"] for volume in site.lab.call("GET", "/nodes/pve1/storage/local/content")]
    assert [volume for volume in volumes if re.search(r"/base-9000-disk-\d\.qcow2$", volume)], volumes
    assert not fleet.plan("node-1").has_changes


def site_with_files(site: Site) -> Fleet:
    four(site)
    return site.fleet(lambda text: re.sub(r"disks: [a-z-]+", "disks: local", text))


def test_templates_stay_with_the_last_node_and_are_removed_when_asked(site: Site) -> None:
    fleet = four(site)
    reports(fleet.up_all(["node-1", "node-2"]))
    words: list[str] = []
    fleet.destroy("node-1", lambda event: words.append(str(event)))
    assert not any("stays for the next node" in word for word in words)
    fleet.destroy("node-2", lambda event: words.append(str(event)))
    assert any("9000 stays for the next node" in word for word in words)
    (kept,) = fleet.remove_unused_templates()
    assert (kept.removed, kept.why) == (False, "nodes of the fleet file are made from it")
    alone = site.fleet(lambda text: re.sub(r"  node-[234]:.*\n", "", text))
    (gone,) = alone.remove_unused_templates()
    assert gone.removed
    assert vms(site) == {}
    assert alone.remove_unused_templates() == ()


def test_a_template_that_disks_are_linked_to_stays(site: Site) -> None:
    fleet = four(site)
    reports(fleet.up_all(["node-1", "node-2"]))
    alone = site.fleet(lambda text: re.sub(r"  node-[234]:.*\n", "", text))
    (kept,) = alone.remove_unused_templates()
    assert (kept.removed, kept.why) == (False, "disks of other VMs are linked clones of its disk")
    assert sorted(vms(site)) == [5001, 5002, TEMPLATE]
    assert len(fleet.spec.nodes) == 4


def half_a_template(site: Site, fleet: Fleet) -> MakeTemplate:
    """Make the VM that is to be the template, and leave it at that."""
    api = next(iter(fleet._world.clusters.values()))
    actions = {step.name: step.action for step in fleet.plan("node-1").steps}
    image, making = actions["image"], actions["template"]
    assert isinstance(image, DownloadImage)
    assert isinstance(making, MakeTemplate)
    api.download_image(PVE1, image.storage, image.image)
    api.create_template(PVE1, Vmid(TEMPLATE), making.template)
    return making


def cloned_by_hand(site: Site, vmid: int, name: str) -> None:
    site.lab.finish(site.lab.call("POST", f"/nodes/pve1/qemu/{TEMPLATE}/clone", newid=vmid, name=name, full=0))


def test_a_template_half_made_is_finished(site: Site) -> None:
    fleet = four(site)
    half_a_template(site, fleet)
    fleet.up("node-1")
    assert vms(site)[TEMPLATE]["template"] == 1
    assert sent(site, r"POST .*/qemu$") == 1


def test_a_clone_that_still_has_its_templates_tags_is_not_taken_for_it(site: Site) -> None:
    fleet = four(site)
    api = next(iter(fleet._world.clusters.values()))
    making = half_a_template(site, fleet)
    api.make_template(PVE1, Vmid(TEMPLATE))
    # Another run's node, at the moment between its cloning and its shape; and a person's own.
    cloned_by_hand(site, 5001, "node-1")
    cloned_by_hand(site, 120, "mine")
    node = fleet.spec.nodes[NodeName("node-2")]
    made = TemplateMaker(fleet.spec, SystemClock()).ensure(api, node, making.template, lambda words: None)
    assert (made.template.vmid, made.changed) == (TEMPLATE, False)
    assert [vmid for vmid, vm in vms(site).items() if vm.get("template")] == [TEMPLATE]


def test_a_persons_own_clone_is_not_removed_with_the_templates(site: Site) -> None:
    fleet = four(site)
    api = next(iter(fleet._world.clusters.values()))
    half_a_template(site, fleet)
    api.make_template(PVE1, Vmid(TEMPLATE))
    cloned_by_hand(site, 120, "mine")
    alone = site.fleet(lambda text: re.sub(r"  node-[234]:.*\n", "", text))
    fates = {fate.vmid: fate for fate in alone.remove_unused_templates()}
    assert fates[Vmid(120)].why == "its name is none that we give: a clone has the tags of its template too"
    assert sorted(vms(site)) == [120, TEMPLATE]


def test_nodes_whose_drive_proxmox_makes_are_cloned_too(site: Site) -> None:
    fleet = native(four(site), site)
    (first, second) = reports(fleet.up_all(["node-1", "node-2"]))
    assert "clone" in first.changed
    assert "clone" in second.changed
    for vmid in (5001, 5002):
        config = site.lab.call("GET", f"/nodes/pve1/qemu/{vmid}/config")
        assert config["ide2"].startswith(f"local-lvm:vm-{vmid}-cloudinit,media=cdrom")
        assert config["sshkeys"].startswith("ssh-ed25519%20")
        assert "base-9000-disk" in str(parents(site)[vmid])
    assert fleet.up("node-1").changed == ()
    assert sent(site, r"POST .*/upload$") == 0


def test_clones_are_quicker_where_an_import_costs_seconds(tmp_path: Path) -> None:
    slow = [{"task": "qmcreate", "delay": 3.0}, {"task": "qmclone", "delay": 0.2}, {"task": "qmtemplate", "delay": 0.2}]
    walls, calls = {}, {}
    for choice in ("never", "auto"):
        folder = tmp_path / choice
        folder.mkdir()
        with served_folder(folder) as images, RunningLab(folder / "lab", faults=slow) as lab:
            fleet = four(site_for(lab, folder, images), f"  clone: {choice}\n")
            fleet.up("node-1")
            lab.forget_requests()
            begun = time.monotonic()
            reports(fleet.up_all(["node-2", "node-3", "node-4"]))
            walls[choice], calls[choice] = time.monotonic() - begun, len(lab.requests())
    print(f"wall {walls}, calls {calls}")
    assert walls["auto"] < walls["never"] - 1.0
    assert calls["auto"] < calls["never"]
