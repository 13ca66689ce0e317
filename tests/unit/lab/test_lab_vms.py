"""A VM's life: create, change, start, clone, destroy; and what each refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.lab.harness import RunningLab
from provisioner.lab.refusals import Refusal
from tests.unit.lab.lab_vms import GPU_VM, PROVISIONER

Done = Callable[..., str]
VM = "/nodes/pve1/qemu/5001"


def refused(lab: RunningLab, method: str, path: str, who: str = PROVISIONER, **params: object) -> str:
    with pytest.raises(Refusal) as refusal:
        lab.call(method, path, who=who, **params)
    errors = refusal.value.errors
    return f"{refusal.value.status} {errors or refusal.value.message}"


def volumes(lab: RunningLab) -> list[str]:
    return [entry["volid"] for entry in lab.call("GET", "/nodes/pve1/storage/local-lvm/content")]


def test_the_id_is_claimed_before_the_task_runs(tmp_path: Path) -> None:
    with RunningLab(tmp_path, task_seconds=0.3) as lab:
        lab.call("POST", "/nodes/pve1/qemu", vmid="5001")
        message = refused(lab, "POST", "/nodes/pve1/qemu", vmid="5001")
        assert message == "500 unable to create VM 5001 - VM 5001 already exists on node 'pve1'"


def test_a_created_vm_has_disks_an_address_and_tidy_tags(lab: RunningLab, done: Done) -> None:
    assert done("POST", "/nodes/pve1/qemu", vmid="5001", **GPU_VM, tags="B;a,B") == "OK"
    config = lab.call("GET", f"{VM}/config")
    assert config["scsi0"] == "local-lvm:vm-5001-disk-1,size=8G"
    assert config["net0"].startswith("virtio=BC:24:11:")
    assert config["tags"] == "a;b"
    assert volumes(lab) == ["local-lvm:vm-5001-disk-0", "local-lvm:vm-5001-disk-1"]


def test_a_create_that_fails_in_the_task_undoes_everything(lab: RunningLab, done: Done) -> None:
    settings = {**GPU_VM, "scsi1": "local-lvm:0,import-from=local:import/missing.qcow2"}
    ended = done("POST", "/nodes/pve1/qemu", vmid="5001", **settings)
    assert ended.startswith("unable to create VM 5001 - ")
    assert "missing.qcow2" in ended
    assert volumes(lab) == []
    assert refused(lab, "GET", f"{VM}/config").endswith("does not exist")


def test_a_disk_is_as_large_as_the_image_it_was_imported_from(lab: RunningLab, done: Done) -> None:
    folder = lab.state_dir / "storage" / "local" / "import"
    folder.mkdir(parents=True)
    (folder / "noble.qcow2").write_bytes(b"QFI\xfb" + bytes(20) + (3 << 30).to_bytes(8, "big") + bytes(100))
    settings = {"scsi0": "local-lvm:0,import-from=local:import/noble.qcow2,discard=on"}
    assert done("POST", "/nodes/pve1/qemu", vmid="5001", **settings) == "OK"
    assert lab.call("GET", f"{VM}/config")["scsi0"] == "local-lvm:vm-5001-disk-0,discard=on,size=3G"


def test_resizing_only_grows(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    assert done("PUT", f"{VM}/resize", disk="scsi0", size="+2G") == "OK"
    assert lab.call("GET", f"{VM}/config")["scsi0"].endswith("size=10G")
    assert done("PUT", f"{VM}/resize", disk="scsi0", size="5G") == "shrinking disks is not supported"
    assert done("PUT", f"{VM}/resize", disk="scsi9", size="5G") == "disk 'scsi9' does not exist"


def test_changes_to_a_running_vm_wait_for_a_cold_start(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    done("POST", f"{VM}/status/start")
    lab.call("PUT", f"{VM}/config", memory="8192", description="now")
    assert lab.call("GET", f"{VM}/config")["memory"] == "8192"
    assert lab.call("GET", f"{VM}/config", current="1")["memory"] == "4096"
    assert lab.call("GET", f"{VM}/config", current="1")["description"] == "now"
    entries = {entry["key"]: entry for entry in lab.call("GET", f"{VM}/pending")}
    assert entries["memory"] == {"key": "memory", "value": "4096", "pending": "8192"}
    assert done("POST", f"{VM}/status/reboot") == "OK"
    assert lab.call("GET", f"{VM}/config", current="1")["memory"] == "8192"


def test_a_pending_change_can_be_taken_back(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    done("POST", f"{VM}/status/start")
    lab.call("PUT", f"{VM}/config", delete="cpu")
    assert {"key": "cpu", "value": "host", "delete": 1} in lab.call("GET", f"{VM}/pending")
    lab.call("PUT", f"{VM}/config", revert="cpu")
    assert {"key": "cpu", "value": "host"} in lab.call("GET", f"{VM}/pending")


def test_the_digest_guards_an_update(lab: RunningLab, gpu_vm: int) -> None:
    digest = lab.call("GET", f"{VM}/config")["digest"]
    lab.call("PUT", f"{VM}/config", memory="2048", digest=digest)
    message = refused(lab, "PUT", f"{VM}/config", memory="1024", digest=digest)
    assert message == "500 checksum mismatch (file change by other user?)"


def test_a_removed_disk_is_kept_aside_until_removed_again(lab: RunningLab, gpu_vm: int) -> None:
    lab.call("PUT", f"{VM}/config", delete="scsi0")
    assert lab.call("GET", f"{VM}/config")["unused0"] == "local-lvm:vm-5001-disk-1"
    lab.call("PUT", f"{VM}/config", delete="unused0")
    assert volumes(lab) == ["local-lvm:vm-5001-disk-0"]


def test_the_boot_order_names_only_what_is_there(lab: RunningLab, gpu_vm: int) -> None:
    message = refused(lab, "PUT", f"{VM}/config", boot="order=scsi9")
    assert message == "500 invalid bootorder: device 'scsi9' does not exist'"


def test_power_on_power_off(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    assert done("POST", f"{VM}/status/stop") == "OK"
    assert done("POST", f"{VM}/status/start") == "OK"
    assert done("POST", f"{VM}/status/start") == "VM 5001 already running"
    status = lab.call("GET", f"{VM}/status/current")
    assert (status["status"], status["qmpstatus"], status["agent"]) == ("running", "running", 1)
    assert refused(lab, "DELETE", VM) == "500 VM 5001 is running - destroy failed"
    assert done("POST", f"{VM}/status/reset") == "OK"
    assert lab.lab.pci.holder("pve1", "0000:01:00.0") == 5001
    assert done("POST", f"{VM}/status/shutdown") == "OK"
    assert lab.call("GET", f"{VM}/status/current")["status"] == "stopped"
    assert refused(lab, "POST", f"{VM}/status/reset") == "500 VM 5001 not running"


def test_a_paused_vm_cannot_be_shut_down_but_killed(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    done("POST", f"{VM}/status/start")
    assert done("POST", f"{VM}/status/suspend") == "OK"
    assert lab.call("GET", f"{VM}/status/current")["qmpstatus"] == "paused"
    assert refused(lab, "POST", f"{VM}/status/shutdown") == "500 VM is paused - cannot shutdown"
    assert done("POST", f"{VM}/status/shutdown", forceStop="1") == "OK"


def test_a_missing_iso_keeps_a_vm_from_starting(done: Done, lab: RunningLab) -> None:
    folder = lab.state_dir / "storage" / "local" / "template" / "iso"
    folder.mkdir(parents=True)
    (folder / "seed.iso").write_bytes(b"x")
    assert done("POST", "/nodes/pve1/qemu", vmid="5001", ide2="local:iso/seed.iso,media=cdrom") == "OK"
    (folder / "seed.iso").unlink()
    assert done("POST", f"{VM}/status/start") == "volume 'local:iso/seed.iso' does not exist"


def test_protection_and_locks(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    lab.call("PUT", f"{VM}/config", protection="1", lock="backup")
    assert refused(lab, "DELETE", VM) == "500 can't remove VM 5001 - protection mode enabled"
    assert done("POST", f"{VM}/status/start") == "VM is locked (backup)"
    assert refused(lab, "PUT", f"{VM}/config", memory="1024") == "500 VM is locked (backup)"
    lab.call("PUT", f"{VM}/config", delete="lock,protection", skiplock="1")
    assert done("DELETE", VM) == "OK"
    assert volumes(lab) == []


def test_a_full_clone_is_independent_and_has_its_own_address(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    upid = lab.call("POST", f"{VM}/clone", newid="5002", name="twin")
    assert ":qmclone:5001:" in upid
    assert lab.finish(upid).exitstatus == "OK"
    first, twin = (lab.call("GET", f"/nodes/pve1/qemu/{vmid}/config") for vmid in (5001, 5002))
    assert twin["scsi0"].startswith("local-lvm:vm-5002-disk-")
    assert twin["hostpci0"] == first["hostpci0"]
    assert twin["net0"] != first["net0"]
    assert twin["smbios1"] != first["smbios1"]
    assert done("DELETE", VM) == "OK"
    assert len(volumes(lab)) == 2


def test_linked_clones_hold_on_to_their_template(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    assert refused(lab, "POST", f"{VM}/clone", newid="5002", full="0").startswith("500 Linked clone feature")
    assert done("POST", f"{VM}/template") == "OK"
    assert lab.call("GET", f"{VM}/config")["scsi0"].startswith("local-lvm:base-5001-disk-1")
    assert done("POST", f"{VM}/status/start") == "you can't start a vm if it's a template"
    assert done("POST", f"{VM}/clone", newid="5002") == "OK"
    assert "still in use by linked cloned" in done("DELETE", VM)
    assert done("DELETE", "/nodes/pve1/qemu/5002") == "OK"


def test_resources_say_what_clients_poll_for(lab: RunningLab, done: Done, gpu_vm: int) -> None:
    done("POST", f"{VM}/status/start")
    (line,) = lab.call("GET", "/cluster/resources", type="vm", who=PROVISIONER)
    known = {key: line[key] for key in ("vmid", "node", "type", "status", "name", "maxcpu", "maxmem", "id", "template")}
    assert known == {
        "vmid": 5001,
        "node": "pve1",
        "type": "qemu",
        "status": "running",
        "name": "llm-gpu-01",
        "maxcpu": 4,
        "maxmem": 4 << 30,
        "id": "qemu/5001",
        "template": 0,
    }
    lab.call("POST", "/access/users", userid="eve@pve")
    assert lab.call("GET", "/cluster/resources", type="vm", who="eve@pve") == []


def test_next_id_is_the_lowest_free_one(lab: RunningLab, gpu_vm: int) -> None:
    assert lab.call("GET", "/cluster/nextid") == "100"
    assert refused(lab, "GET", "/cluster/nextid", vmid="5001") == "400 {'vmid': 'VM 5001 already exists'}"


def test_a_pool_identity_fails_on_tags_after_its_disks_were_made(lab: RunningLab, done: Done) -> None:
    lab.call("POST", "/pools", poolid="gpu")
    lab.call("POST", "/access/users", userid="pool@pve")
    lab.call("PUT", "/access/acl", path="/pool/gpu", roles="ProvisionerVM", users="pool@pve")
    ended = done("POST", "/nodes/pve1/qemu", vmid="5001", pool="gpu", tags="x", who="pool@pve")
    assert ended == "unable to create VM 5001 - Permission check failed (/vms/5001, VM.Config.Options)"
    assert done("POST", "/nodes/pve1/qemu", vmid="5001", pool="gpu", who="pool@pve") == "OK"
    assert lab.call("GET", "/cluster/resources", type="vm", who="pool@pve")[0]["pool"] == "gpu"


def test_own_cloud_init_drive_is_written_at_start(lab: RunningLab, done: Done) -> None:
    settings = {
        **GPU_VM,
        "ide2": "local-lvm:cloudinit",
        "ipconfig0": "ip=10.10.90.7/16,gw=10.10.0.1",
        "ciuser": "ubuntu",
    }
    assert done("POST", "/nodes/pve1/qemu", vmid="5001", **settings) == "OK"
    assert done("POST", f"{VM}/status/start") == "OK"
    interfaces = lab.call("GET", f"{VM}/agent/network-get-interfaces")["result"]
    assert interfaces[1]["ip-addresses"][0]["ip-address"] == "10.10.90.7"
    assert "user: ubuntu" in lab.call("GET", f"{VM}/cloudinit/dump", type="user")
