"""The whole path against the embedded Proxmox with simulated guests, by the library's front door."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from provisioner.demo.path import ask
from provisioner.domain.names import Vmid
from provisioner.fleet import Fleet
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.planning.idle import IdleVerdict
from provisioner.services.fleet_view import NodeState
from provisioner.services.provisioning import UpReport
from tests.lab.support import NODE, Site, site_for


def state(fleet: Fleet) -> NodeState:
    (status,) = fleet.status()
    return status.state


def test_a_fleet_file_becomes_a_node_that_answers_sleeps_and_wakes(site: Site) -> None:
    fleet = site.fleet(
        lambda text: text.replace("idle_after: 20m", "idle_after: 0s").replace("uptime: 2m", "uptime: 0s")
    )
    assert state(fleet) is NodeState.ABSENT
    assert not fleet.hypervisor("pve1").report().must_be_mended
    up = fleet.up(NODE)
    assert ask(up.endpoint, "hello")
    assert state(fleet) is NodeState.SERVING
    assert fleet.up(NODE).changed == ()
    assert [decision.verdict for decision in fleet.idle()] == [IdleVerdict.SLEEP]
    assert state(fleet) is NodeState.ASLEEP
    endpoint = fleet.wake(model="tiny.gguf")
    assert ask(endpoint, "hello again")
    (seed,) = site.folder.rglob("*-seed.iso")
    removed = fleet.destroy(NODE)
    assert removed == ("vm 5001 and its disks", f"seed local:iso/{seed.name}")
    assert state(fleet) is NodeState.ABSENT


def test_create_and_start_take_at_most_12_api_calls(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    fleet.destroy(NODE)
    site.lab.forget_requests()
    fleet.up(NODE)  # the image is there already, as for every node but the first
    paths = [f"{request['method']} {request['path']}" for request in site.lab.requests()]
    start = next(at for at, path in enumerate(paths) if path.endswith("/status/start"))
    assert len(paths[: start + 2]) <= 12, paths


def test_nodes_side_by_side_share_one_download_and_are_counted_apart(tmp_path: Path) -> None:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", task_seconds=0.05) as lab:
        fleet = site_for(lab, tmp_path, images, nodes=3).fleet()
        reports = fleet.up_all()
        assert len(reports) == 3
        for report in reports.values():
            assert isinstance(report, UpReport), report
            assert report.calls < 60
        downloads = [request for request in lab.requests() if request["path"].endswith("/download-url")]
        assert len(downloads) == 1


def test_one_nodes_failure_stops_no_other(tmp_path: Path) -> None:
    faults = [{"task": "qmstart", "vmid": 5002, "fails": "got timeout"}]
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", faults=faults) as lab:
        reports = site_for(lab, tmp_path, images, nodes=3).fleet().up_all()
        assert {name: isinstance(report, UpReport) for name, report in reports.items()} == {
            "llm-gpu-01": True,
            "llm-gpu-02": False,
            "llm-cpu-01": True,
        }


def test_a_wake_takes_at_most_4_api_calls(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    fleet.sleep(NODE)
    report = fleet.wake_report(NODE)
    assert report.started
    assert report.calls <= 4


def test_status_asks_a_cluster_once(site: Site) -> None:
    fleet = site.fleet()
    site.lab.forget_requests()
    fleet.status()
    assert Counter(request["path"] for request in site.lab.requests()) == {"/cluster/resources": 1}


def test_the_vm_is_what_the_plan_said(site: Site) -> None:
    fleet = site.fleet()
    assert "2 cores, 1GiB memory with rtx3090" in str(fleet.plan(NODE))
    fleet.up(NODE)
    config = site.lab.call("GET", f"/nodes/pve1/qemu/{Vmid(5001)}/config")
    assert config["machine"] == "q35"
    assert config["bios"] == "ovmf"
    assert config["cpu"] == "host"
    assert int(config["balloon"]) == 0
    assert config["hostpci0"] == "mapping=rtx3090,pcie=1"
    assert config["tags"] == "provisioner"
    assert int(config["onboot"]) == 0
    assert "size=3G" in config["scsi0"]
    assert "pre-enrolled-keys=0" in config["efidisk0"]


def test_secrets_reach_neither_the_request_log_nor_the_notes(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    secret = site.lab.token()
    assert secret not in repr(site.lab.requests())
    assert "PRIVATE" not in repr(site.lab.call("GET", "/nodes/pve1/qemu/5001/config"))
    assert secret not in repr(fleet.spec)
