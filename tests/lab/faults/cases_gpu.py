"""The GPU: with somebody else, reserved, moved, gone, or not coming back."""

from __future__ import annotations

from provisioner.errors import GpuTakenError, GpuUnusableError, RefusedError
from provisioner.lab.model import Mapping
from tests.lab.faults.bench import Case, Yard
from tests.lab.faults.cases_api import HASTY, START

ENTRY = "id=10de:2204,iommugroup=15,node=pve1,path=0000:01:00,subsystem-id=10de:3095"


def windows_leaves(yard: Yard) -> None:
    yard.lab.befall("vm_deleted", vmid=200)


def mapping_back(yard: Yard) -> None:
    yard.lab.lab.cluster.mappings.save("rtx3090", Mapping("rtx3090", [ENTRY]))


def group_back(yard: Yard) -> None:
    yard.lab.befall("iommu_group_moved", group=15)
    yard.lab.befall("iommu_group_moved", group=15, address="0000:01:00.1")


def iommu_off(yard: Yard) -> None:
    for function in (0, 1):
        yard.lab.befall("iommu_group_moved", group=-1, address=f"0000:01:00.{function}")


def put_back(yard: Yard) -> None:
    """Slot the card in again: what a lab has in the beginning."""
    from provisioner.lab.initial import _card

    node = yard.lab.lab.cluster.nodes["pve1"]
    node.devices = [*_card(1, "2204", "1aef", "3095", 15), *node.devices]
    yard.lab.lab.cluster.nodes.save("pve1", node)


def at_start(happens: object) -> list[dict[str, object]]:
    return [{"method": "POST", "path": START, "happens": happens, "times": 1}]


CASES = (
    *(
        Case(
            f"another VM has the card, our VM being {given}",
            verb,
            given,
            rules=at_start("gpu_taken"),
            error=GpuTakenError,
            says=["already in use by VMID '200'", 'it is VM 200 "windows"'],
            then=["shut down VM 200 in Proxmox"],
            left="stopped",
            mend=windows_leaves,
        )
        for verb, given in (("up", "absent"), ("up", "asleep"), ("wake", "asleep"))
    ),
    Case(
        "another VM is about to take the card and does not",
        "wake",
        "asleep",
        before=lambda yard: yard.lab.befall("gpu_reserved"),
        rules=[{"task": "qmstart", "skip": 1, "happens": "gpu_unreserved", "times": 1}],
        left="running",
    ),
    Case(
        "another VM keeps the card reserved",
        "wake",
        "asleep",
        before=lambda yard: yard.lab.befall("gpu_reserved"),
        times=HASTY,
        error=GpuTakenError,
        says=["currently reserved for use by VMID '200'"],
        then=["VM 200"],
        left="stopped",
        mend=lambda yard: yard.lab.befall("gpu_unreserved"),
    ),
    Case(
        "the VM that had the card is off, but its reservation lingers",
        "wake",
        "asleep",
        rules=[{"task": "qmstart", "says": "gpu_in_use", "times": 2}],
        left="running",
    ),
    Case(
        "every card of the mapping's pool is taken",
        "up",
        "asleep",
        rules=[{"task": "qmstart", "says": "gpu_pool_empty", "times": 1}],
        error=GpuTakenError,
        says=["could not find a free device for 'hostpci0'"],
        then=["every card of the mapping is with another running VM"],
        left="stopped",
    ),
    Case(
        "the card has moved to another IOMMU group",
        "up",
        before=lambda yard: yard.lab.befall("iommu_group_moved", group=17),
        error=RefusedError,
        says=['PCI mapping "rtx3090" does not fit pve1', "iommugroup"],
        then=["edit the mapping"],
        left="absent",
        mend=group_back,
    ),
    Case(
        "the card moves to another IOMMU group while the node sleeps",
        "wake",
        "asleep",
        rules=at_start({"iommu_group_moved": {"group": 17}}),
        error=GpuUnusableError,
        says=["PCI device mapping invalid (hardware probably changed)"],
        then=["edit the PCI mapping"],
        left="stopped",
        mend=group_back,
    ),
    Case(
        "the mapping is deleted while the node sleeps",
        "wake",
        "asleep",
        rules=at_start("mapping_deleted"),
        error=GpuUnusableError,
        says=["PCI device mapping not found for 'rtx3090'"],
        then=["Resource Mappings"],
        left="stopped",
        mend=mapping_back,
    ),
    Case(
        "the mapping is deleted before the VM is made",
        "up",
        before=lambda yard: yard.lab.befall("mapping_deleted"),
        error=RefusedError,
        says=['no PCI mapping "rtx3090" in sight'],
        then=["create it"],
        left="absent",
        mend=mapping_back,
    ),
    Case(
        "the card is pulled while the node sleeps",
        "wake",
        "asleep",
        rules=at_start("gpu_pulled"),
        error=GpuUnusableError,
        says=["PCI device"],
        then=["mapping"],
        left="stopped",
        mend=put_back,
    ),
    Case(
        "the card does not come back for its second start",
        "wake",
        "asleep",
        rules=at_start("gpu_stuck"),
        error=GpuUnusableError,
        says=["QEMU exited with code 1", "failed to reset PCI device '0000:01:00.0'"],
        then=["did not come back", "survives_stop: false"],
        left="stopped",
        mend=lambda yard: yard.lab.befall("gpu_unstuck"),
    ),
    *(
        Case(
            fault,
            "wake",
            "asleep",
            rules=[{"task": "qmstart", "says": reason, "times": 1}],
            error=GpuUnusableError,
            says=[words],
            then=[step],
            left="stopped",
        )
        for fault, reason, words, step in (
            ("the IOMMU is off", "no_iommu", "IOMMU not present", "VT-d or AMD-Vi"),
            ("a driver of the server holds the card", "gpu_not_bound", "can't unbind/bind PCI group", "doctor"),
            ("the card's address is empty", "gpu_gone", "no PCI device found", "another slot"),
        )
    ),
)
