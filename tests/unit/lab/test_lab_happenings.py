"""What befalls a cluster shows in its answers, and its opposite mends it."""

from __future__ import annotations

import ssl
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.lab.harness import RunningLab
from provisioner.lab.refusals import Refusal

VM = "/nodes/pve1/qemu/5001"
Done = Callable[..., str]


def refusal(lab: RunningLab, method: str, path: str, **params: object) -> str:
    with pytest.raises(Refusal) as caught:
        lab.call(method, path, **params)
    return f"{caught.value.status} {caught.value.message}"


def test_without_quorum_nothing_can_be_changed_but_everything_read(lab: RunningLab, gpu_vm: int, done: Done) -> None:
    lab.befall("quorum_lost")
    assert refusal(lab, "POST", f"{VM}/status/start") == "500 cluster not ready - no quorum?"
    assert refusal(lab, "POST", "/nodes/pve1/qemu", vmid="5002") == "500 cluster not ready - no quorum?"
    assert "Permission denied" in refusal(lab, "PUT", f"{VM}/config", description="x")
    assert "Permission denied" in done("DELETE", VM)
    assert lab.call("GET", f"{VM}/status/current")["status"] == "stopped"
    lab.befall("quorum_back")
    assert done("POST", f"{VM}/status/start") == "OK"


def test_a_vmid_can_be_taken_by_a_vm_a_template_or_a_container(lab: RunningLab) -> None:
    for vmid, kind in ((5002, "vm"), (5003, "template"), (5004, "container")):
        lab.befall("vmid_taken", vmid=vmid, kind=kind)
        word = "CT" if kind == "container" else "VM"
        assert refusal(lab, "POST", "/nodes/pve1/qemu", vmid=str(vmid)) == (
            f"500 unable to create VM {vmid} - {word} {vmid} already exists on node 'pve1'"
        )


def test_a_card_can_be_taken_reserved_or_stuck(lab: RunningLab, gpu_vm: int, done: Done) -> None:
    start = f"{VM}/status/start"
    lab.befall("gpu_reserved")
    assert done("POST", start) == "PCI device '0000:01:00.0' is currently reserved for use by VMID '200'"
    lab.befall("gpu_unreserved")
    lab.befall("gpu_taken")
    assert done("POST", start) == "PCI device '0000:01:00.0' already in use by VMID '200'"
    lab.befall("vm_stopped", vmid=200)
    lab.befall("gpu_stuck")
    upid = lab.call("POST", start)
    assert lab.finish(upid).exitstatus == "start failed: QEMU exited with code 1"
    assert any(
        "error getting device from group" in line["t"] for line in lab.call("GET", f"/nodes/pve1/tasks/{upid}/log")
    )
    lab.befall("gpu_unstuck")
    assert done("POST", start) == "OK"


def test_a_mapping_goes_stale_with_the_hardware(lab: RunningLab, gpu_vm: int, done: Done) -> None:
    lab.befall("iommu_group_moved", group=17)
    assert "PCI device mapping invalid" in done("POST", f"{VM}/status/start")
    lab.befall("iommu_group_moved", group=15)
    lab.befall("gpu_pulled")
    assert "no PCI device found" in done("POST", f"{VM}/status/start")
    lab.befall("mapping_deleted")
    assert done("POST", f"{VM}/status/start") == "PCI device mapping not found for 'rtx3090'"


def test_high_availability_takes_the_request_and_acts_later(lab: RunningLab, gpu_vm: int) -> None:
    lab.befall("ha_managed", vmid=5001, acts=0)
    upid = lab.call("POST", f"{VM}/status/start")
    assert upid.split(":")[5] == "hastart"
    assert lab.finish(upid).exitstatus == "OK"
    seen = lab.call("GET", f"{VM}/status/current")
    assert seen["status"] == "stopped"
    assert seen["ha"] == {"managed": 1, "state": "started"}
    lab.befall("ha_managed", vmid=5001)
    lab.finish(lab.call("POST", f"{VM}/status/start"))
    ended = [
        lab.finish(task["upid"]) for task in lab.call("GET", "/nodes/pve1/tasks", typefilter="qmstart", source="all")
    ]
    assert [(end.user, end.exitstatus) for end in ended] == [("root@pam", "OK")]
    assert lab.call("GET", "/cluster/resources", type="vm")[0]["hastate"] == "started"


def test_a_restart_of_the_server_ends_tasks_without_a_word_and_guests_with_them(lab: RunningLab, gpu_vm: int) -> None:
    lab.finish(lab.call("POST", f"{VM}/status/start"))
    lab.faults.add(task="qmshutdown", hangs=True)
    upid = lab.call("POST", f"{VM}/status/shutdown")
    lab.befall("node_rebooted")
    assert lab.call("GET", f"/nodes/pve1/tasks/{upid}/status")["exitstatus"] == "unexpected status"
    assert lab.call("GET", f"{VM}/status/current")["status"] == "stopped"


def test_a_server_that_is_away_is_not_asked_and_its_guests_are_unknown(lab: RunningLab, gpu_vm: int) -> None:
    lab.befall("node_offline")
    assert refusal(lab, "GET", f"{VM}/status/current") == "595 No route to host"
    assert [vm["status"] for vm in lab.call("GET", "/cluster/resources", type="vm")] == ["unknown"]
    lab.befall("node_online")
    assert lab.call("GET", f"{VM}/status/current")["status"] == "stopped"


def test_a_storage_that_is_away_or_full_says_so(lab: RunningLab, done: Done) -> None:
    lab.befall("storage_offline", storage="local-lvm")
    assert refusal(lab, "GET", "/nodes/pve1/storage/local-lvm/content") == "500 storage 'local-lvm' is not online"
    assert "is not online" in done("POST", "/nodes/pve1/qemu", vmid="5001", scsi0="local-lvm:1")
    lab.befall("storage_online", storage="local-lvm")
    lab.befall("storage_full", storage="local-lvm")
    assert "reached threshold" in done("POST", "/nodes/pve1/qemu", vmid="5001", scsi0="local-lvm:1")
    lab.befall("storage_emptied", storage="local-lvm")
    assert done("POST", "/nodes/pve1/qemu", vmid="5001", scsi0="local-lvm:1") == "OK"


def test_tokens_are_rotated_and_revoked(lab: RunningLab) -> None:
    old = lab.token()
    lab.befall("token_rotated")
    assert lab.token() != old
    lab.befall("token_revoked")
    assert "provisioner@pve!fleet" not in lab.credentials


def test_a_clock_that_jumps_shows_in_tasks(lab: RunningLab, done: Done) -> None:
    lab.befall("clock_jumps", seconds=86400)
    done("POST", "/nodes/pve1/qemu", vmid="5001")
    (task,) = lab.call("GET", "/nodes/pve1/tasks", source="all")
    assert task["starttime"] > time.time() + 80000


def test_the_api_restarts_on_the_same_port(tmp_path: Path) -> None:
    with RunningLab(tmp_path) as lab:
        lab.befall("api_restarts", seconds=0.3)
        with pytest.raises(urllib.error.URLError, match="refused"):
            lab.get("/version")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                assert lab.get("/version")["release"] == "9.1"
                return
            except urllib.error.URLError:
                continue
        pytest.fail("it never came back")


def test_a_renewed_certificate_is_another_one(tmp_path: Path) -> None:
    with RunningLab(tmp_path) as lab:
        first = ssl.get_server_certificate((lab.host, lab.port))
        lab.befall("certificate_renewed")
        assert ssl.get_server_certificate((lab.host, lab.port)) != first
        lab.run(lab.served.show_first_certificate())
        assert ssl.get_server_certificate((lab.host, lab.port)) == first


def test_a_task_can_end_in_every_way(tmp_path: Path) -> None:
    rules = [
        {"task": "qmcreate", "vmid": 5001, "ends": "unexpected status", "work": "done"},
        {"task": "qmcreate", "vmid": 5002, "says": "no_space"},
        {"task": "qmcreate", "vmid": 5003, "vanishes": True},
        {"task": "qmcreate", "vmid": 5004, "warns": ["one", "two"]},
    ]
    with RunningLab(tmp_path, faults=rules) as lab:
        upids = {vmid: lab.call("POST", "/nodes/pve1/qemu", vmid=str(vmid)) for vmid in (5001, 5002, 5004)}
        ends = {vmid: lab.finish(upid).exitstatus for vmid, upid in upids.items()}
        assert ends == {
            5001: "unexpected status",
            5002: "unable to create image: No space left on device",
            5004: "WARNINGS: 2",
        }
        gone = lab.call("POST", "/nodes/pve1/qemu", vmid="5003")
        with pytest.raises(KeyError):
            lab.finish(gone)
        with pytest.raises(Refusal, match="verification failed"):
            lab.call("GET", f"/nodes/pve1/tasks/{gone}/status")
        assert sorted(vm["vmid"] for vm in lab.call("GET", "/nodes/pve1/qemu")) == [5001, 5003, 5004]
