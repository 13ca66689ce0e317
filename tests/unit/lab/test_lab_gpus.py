"""PCI devices: one running holder each, pools, and mappings that no longer fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from provisioner.lab.harness import RunningLab
from tests.unit.lab.lab_vms import GPU_VM

Done = Callable[..., str]
CARD = "id=10de:2204,iommugroup=15,node=pve1,path=0000:01:00,subsystem-id=10de:3095"
OTHER = "id=10de:2504,iommugroup=16,node=pve1,path=0000:02:00,subsystem-id=10de:2504"


def vm(done: Done, vmid: int, **changes: str) -> None:
    assert done("POST", "/nodes/pve1/qemu", vmid=str(vmid), **{**GPU_VM, **changes}) == "OK"


def start(done: Done, vmid: int) -> str:
    return done("POST", f"/nodes/pve1/qemu/{vmid}/status/start")


def test_two_vms_may_name_a_card_but_only_one_may_run(done: Done) -> None:
    vm(done, 5001)
    vm(done, 5002)
    assert start(done, 5001) == "OK"
    assert start(done, 5002) == "PCI device '0000:01:00.0' already in use by VMID '5001'"
    assert done("POST", "/nodes/pve1/qemu/5001/status/stop") == "OK"
    assert start(done, 5002) == "OK"


def test_a_guest_that_shuts_itself_down_frees_its_card(lab: RunningLab, done: Done) -> None:
    vm(done, 5001)
    vm(done, 5002)
    assert start(done, 5001) == "OK"
    lab.call("POST", "/nodes/pve1/qemu/5001/agent/shutdown")
    assert done("POST", "/nodes/pve1/qemu/5001/status/shutdown") == "OK"
    assert start(done, 5002) == "OK"


def test_a_pool_gives_the_first_free_device(lab: RunningLab, done: Done) -> None:
    lab.call("POST", "/cluster/mapping/pci", id="any", map=[CARD, OTHER])
    for vmid in (5001, 5002, 5003):
        vm(done, vmid, hostpci0="mapping=any,pcie=1")
    assert [start(done, vmid) for vmid in (5001, 5002)] == ["OK", "OK"]
    assert start(done, 5003) == "could not find a free device for 'hostpci0'"


def test_one_vm_gets_two_different_devices_of_a_pool(lab: RunningLab, done: Done) -> None:
    lab.call("POST", "/cluster/mapping/pci", id="any", map=[CARD, OTHER])
    vm(done, 5001, hostpci0="mapping=any,pcie=1", hostpci1="mapping=any,pcie=1")
    assert start(done, 5001) == "OK"
    held = {lab.lab.pci.holder("pve1", f"0000:0{bus}:00.0") for bus in (1, 2)}
    assert held == {5001}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (CARD.replace("iommugroup=15,", ""), "missing expected property 'iommugroup'"),
        (CARD.replace(",subsystem-id=10de:3095", ""), "missing expected property 'subsystem-id'"),
        (CARD.replace("iommugroup=15", "iommugroup=99"), "'iommugroup' does not match"),
        (CARD.replace("10de:2204", "10DE:2204"), "'id' does not match"),
        (CARD.replace("0000:01:00", "0000:09:00"), "no PCI device found"),
    ],
)
def test_a_mapping_that_does_not_fit_is_found_out_at_start(
    lab: RunningLab, done: Done, entry: str, problem: str
) -> None:
    lab.call("POST", "/cluster/mapping/pci", id="odd", map=[entry])
    vm(done, 5001, hostpci0="mapping=odd,pcie=1")
    assert f"PCI device mapping invalid (hardware probably changed): {problem}" in start(done, 5001)
    checks = {m["id"]: m["checks"] for m in lab.call("GET", "/cluster/mapping/pci", **{"check-node": "pve1"})}
    assert checks["rtx3090"] == []
    assert checks["odd"][0]["severity"] == "error"
    assert lab.lab.pci.holder("pve1", "0000:01:00.0") is None


def test_a_mapping_without_an_entry_for_the_node_is_not_found(lab: RunningLab, done: Done) -> None:
    lab.call("POST", "/cluster/mapping/pci", id="far", map=[CARD.replace("pve1", "pve2")])
    vm(done, 5001, hostpci0="mapping=far,pcie=1")
    assert start(done, 5001) == "PCI device mapping not found for 'far'"


@pytest.mark.parametrize(("offers", "says"), [(True, False), (False, True)])
def test_a_mapping_must_say_whether_the_card_offers_mediated_devices(
    lab: RunningLab, done: Done, offers: bool, says: bool
) -> None:
    lab.lab.cluster.nodes["pve1"].devices[0]["mdev"] = int(offers)
    lab.call("POST", "/cluster/mapping/pci", id="odd", map=[CARD], mdev=str(int(says)))
    vm(done, 5001, hostpci0="mapping=odd,pcie=1")
    assert f"'mdev' does not match for 'odd' ({offers:d} != {says:d})" in start(done, 5001)
    lab.call("PUT", "/cluster/mapping/pci/odd", map=[CARD], mdev=str(int(offers)))
    assert start(done, 5001) == "OK"


def test_pcie_needs_q35(done: Done) -> None:
    vm(done, 5001, machine="pc-i440fx-9.0")
    assert start(done, 5001) == "q35 machine model is not enabled"


def test_more_cores_than_the_host_has_do_not_start(done: Done) -> None:
    vm(done, 5001, cores="64")
    assert start(done, 5001) == "MAX 32 vcpus allowed per VM on this node"


def test_memory_is_pinned_so_two_large_vms_do_not_fit(done: Done) -> None:
    vm(done, 5001, memory=str(100 * 1024))
    vm(done, 5002, memory=str(100 * 1024), hostpci0="mapping=rtx3060,pcie=1")
    assert start(done, 5001) == "OK"
    assert start(done, 5002).startswith("start failed")


def test_the_audio_function_is_hidden_only_when_its_class_is(lab: RunningLab) -> None:
    assert len(lab.call("GET", "/nodes/pve1/hardware/pci")) == 4
    shown = lab.call("GET", "/nodes/pve1/hardware/pci", **{"pci-class-blacklist": "04"})
    assert [device["id"] for device in shown] == ["0000:01:00.0", "0000:02:00.0"]
