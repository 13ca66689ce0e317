"""What `up` would do: every row is a node's place in its cluster, and the steps or the refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from provisioner.domain.actions import Plan, StepKind
from provisioner.domain.conventions import TAG
from provisioner.domain.fleet import FleetSpec, NodeSpec, VmOptions
from provisioner.domain.mode import EngineSpec
from provisioner.domain.model_keeping import ModelDisk, ModelKeeping
from provisioner.domain.names import EngineName, HypervisorName, MappingId, StorageName, Vmid
from provisioner.domain.notes import write_notes
from provisioner.domain.quantities import GIB
from provisioner.domain.snapshot import ClusterSnapshot, MappingSeen, NodeSeen, Power, StorageSeen, VmConfig, VmSeen
from provisioner.domain.templates import TEMPLATE_TAG
from provisioner.domain.vm_traits import Drift, PassedDevice, Trait, wanted_traits
from provisioner.engines.registry import ENGINES
from provisioner.planning.provision import plan_node
from provisioner.planning.vm_shape import new_notes, vm_shape

PVE1 = HypervisorName("pve1")
LOCAL, LVM = StorageName("local"), StorageName("local-lvm")
CARD = MappingId("rtx3090")
LAST = ["base", "driver", "configure", "prove"]
GUEST = ["guest", "grow filesystem", *LAST]
BARE = [step for step in GUEST if step != "driver"]


@dataclass(frozen=True)
class Row:
    """What differs from a settled, running node as the fleet file wants it."""

    name: str
    steps: list[str] = field(default_factory=list)
    refused: str = ""
    cold: tuple[str, ...] = ()
    vm: Mapping[str, Any] | None = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    traits: Mapping[Trait, str] = field(default_factory=dict)
    wish: Mapping[str, Any] = field(default_factory=dict)
    sealed: bool = True
    seen: Mapping[str, Any] = field(default_factory=dict)


OFF = {"power": Power.STOPPED}
MODELS = {"models": ModelKeeping(500 * GIB)}
OURS = ModelDisk(LVM, 500 * GIB, is_ours=True)
HALF_CLONED = {
    "tags": frozenset({TAG, TEMPLATE_TAG, "tpl-0123abcd"}), "seed": None, "disk_bytes": 3 * GIB, "devices": (),
}  # fmt: skip
ROWS = [
    Row("nothing to do", GUEST),
    Row("off", ["start", *GUEST], vm=OFF),
    Row("absent", ["seed", "create", "grow disk", "start", "guest", "seal seed", *LAST], vm=None),
    Row("absent, no image", ["image", "seed", "create", "grow disk", "start", "guest", "seal seed", *LAST],
        vm=None, seen={"image_present": False}),
    Row("being created", ["await creation", "guest", "seal seed", *LAST],
        vm={"lock": "create", "name": "", "tags": frozenset(), **OFF}, sealed=False),
    Row("locked", refused="locked (backup)", vm={"lock": "backup"}),
    Row("foreign", refused="does not carry the tag", vm={"tags": frozenset()}),
    Row("first boot not over", ["guest", "seal seed", *LAST], sealed=False),
    Row("seed lost, settled", ["seal seed", "start", *GUEST], vm=OFF, seen={"seed_present": False}),
    Row("seed lost, first boot not over", ["renew notes", "seed", "start", "guest", "seal seed", *LAST],
        vm=OFF, sealed=False, seen={"seed_present": False}),
    Row("seed drive emptied, settled", ["start", *GUEST], vm=OFF, config={"seed": None}, seen={"seed_present": False}),
    Row("seed drive emptied, first boot not over", refused="seed ISO was taken out", vm=OFF, config={"seed": None},
        sealed=False),
    Row("clone without its shape", ["shape", "grow disk", "start", "guest", "seal seed", *LAST], vm=OFF,
        config=HALF_CLONED, sealed=False),
    Row("clone without its shape, seed lost",
        ["renew notes", "seed", "shape", "grow disk", "start", "guest", "seal seed", *LAST], vm=OFF,
        config=HALF_CLONED, seen={"seed_present": False}, sealed=False),
    Row("clone without its shape, running", refused="somebody started its VM before it was whole", config=HALF_CLONED,
        sealed=False),
    Row("disk grows", ["grow disk", *GUEST], wish={"disk_bytes": 300 * GIB}),
    Row("disk shrinks", refused="disks only grow", wish={"disk_bytes": 100 * GIB}),
    Row("a model disk is wanted", ["model disk", *GUEST], wish=MODELS),
    Row("a model disk is there", GUEST, wish=MODELS, config={"model_disk": OURS}),
    Row("a model disk grows", ["grow model disk", *GUEST], wish=MODELS,
        config={"model_disk": replace(OURS, size_bytes=300 * GIB)}),
    Row("a model disk shrinks", refused="the model disk has 600GiB, wanted are 500GiB: disks only grow", wish=MODELS,
        config={"model_disk": replace(OURS, size_bytes=600 * GIB)}),
    Row("a model disk elsewhere", refused='on storage "tank", wanted is "local-lvm"', wish=MODELS,
        config={"model_disk": replace(OURS, storage=StorageName("tank"))}),
    Row("another's disk in its place", refused="scsi1, is taken by a disk that is not ours", wish=MODELS,
        config={"model_disk": replace(OURS, is_ours=False)}),
    Row("another's disk where none is wanted", GUEST, config={"model_disk": replace(OURS, is_ours=False)}),
    Row("a model disk that nobody wants any more", GUEST, config={"model_disk": OURS}),
    Row("a model disk on no storage", refused='no storage "tank" on pve1',
        wish={"models": ModelKeeping(500 * GIB, StorageName("tank"))}),
    Row("absent, with a model disk",
        ["seed", "create", "grow disk", "model disk", "start", "guest", "seal seed", *LAST], vm=None, wish=MODELS),
    Row("clone without its shape, with a model disk",
        ["shape", "grow disk", "model disk", "start", "guest", "seal seed", *LAST], vm=OFF, config=HALF_CLONED,
        sealed=False, wish=MODELS),
    Row("disk gone", refused="lost its boot disk", config={"disk_bytes": None}),
    Row("cores, running", ["change", "restart", *GUEST], wish={"cores": 4}, cold=("cores",)),
    Row("cores, off", ["change", "start", *GUEST], vm=OFF, wish={"cores": 4}),
    Row("tags", ["change", *GUEST], wish={"options": VmOptions(tags=frozenset({"llm"}))}),
    Row("a person's tags", GUEST, config={"tags": frozenset({TAG, "ada"})}),
    Row("protection", ["change", *GUEST], wish={"options": VmOptions(protection=True)}),
    Row("start at boot", ["change", *GUEST], traits={Trait.START_AT_BOOT: "yes"}),
    Row("network card", ["change", *GUEST], traits={Trait.NETWORK: "virtio BC:24:11:00:13:89 on vmbr1"}),
    Row("secure boot", ["change", "restart", *GUEST], wish={"options": VmOptions(secure_boot=True)},
        cold=("secure boot",)),
    Row("machine and firmware", ["change", "restart", *GUEST], cold=("machine", "firmware"),
        traits={Trait.MACHINE: "i440fx", Trait.FIRMWARE: "seabios"}),
    Row("a card less", ["change", "restart", *BARE], wish={"gpus": ()}, cold=("gpus",)),
    Row("the card gone from the VM", ["change", "restart", *GUEST], config={"devices": (), "running_devices": ()},
        cold=("gpus",)),
    Row("the card gone, and its mapping too", refused='no PCI mapping "rtx3090" in sight',
        config={"devices": (), "running_devices": ()}, seen={"mappings": {}}),
    Row("a running VM needs no mapping", GUEST, seen={"mappings": {}}),
    Row("another's device", GUEST, config={"devices": (PassedDevice(0, MappingId("capture")), PassedDevice(1, CARD)),
                                           "running_devices": (PassedDevice(0, MappingId("capture")),
                                                               PassedDevice(1, CARD))}),
    Row("the card by its raw address", refused="hostpci0 (0000:01:00)",
        config={"devices": (PassedDevice(0, None, "0000:01:00"),), "running_devices": ()}),
    Row("a raw device beside the card", GUEST,
        config={"devices": (PassedDevice(0, CARD), PassedDevice(1, None, "0000:09:00"))}),
    Row("written, waiting for a start", ["restart", *GUEST], cold=("cores",),
        config={"waiting": (Drift(Trait.CORES, "8", "12"),)}),
    Row("written by mistake, not in effect", ["change", *GUEST], traits={Trait.CORES: "1"},
        config={"waiting": (Drift(Trait.CORES, "12", "1"),)}),
    Row("hugepages, not set by root", refused="only root@pam's own login",
        wish={"options": VmOptions(numa=True, hugepages="2MiB")}),
    Row("hugepages, set by root", ["change", "restart", *GUEST], cold=("numa",), traits={Trait.HUGEPAGES: "2MiB"},
        wish={"options": VmOptions(numa=True, hugepages="2MiB")}),
    Row("hugepages of a person's own", refused="write numa: true|do not work without numa",
        traits={Trait.HUGEPAGES: "1GiB"}),
    Row("hugepages for a new VM", refused="cannot be part of a new VM", vm=None,
        wish={"options": VmOptions(numa=True, hugepages="any")}),
]  # fmt: skip


def plan(fleet: FleetSpec, node: NodeSpec, row: Row) -> Plan:
    wished = replace(node, **row.wish)
    fleet = replace(fleet, nodes={**fleet.nodes, wished.name: wished})
    engine = ENGINES[fleet.mode_of(node).engine]
    notes = replace(new_notes(node, engine, fleet.mode_of(node).model, "ssh-ed25519 AAAA"), seed_is_sealed=row.sealed)
    settled = VmConfig(
        notes=write_notes("", node.name, notes),
        disk_bytes=node.disk_bytes,
        digest="abc",
        traits={**wanted_traits(vm_shape(fleet, node)), Trait.HUGEPAGES: "none", **row.traits},
        tags=frozenset({TAG}),
        devices=(PassedDevice(0, CARD),),
        running_devices=(PassedDevice(0, CARD),),
        seed=(LOCAL, "llm-gpu-01-5001-seed.iso"),
    )
    vm = VmSeen(node.vmid, node.name, PVE1, Power.RUNNING, frozenset({TAG}))
    vm_seen = None if row.vm is None else replace(vm, **row.vm)
    storages = {LOCAL: frozenset({"iso", "import"}), LVM: frozenset({"images"})}
    cluster = ClusterSnapshot(
        hypervisors={PVE1: True},
        vms={} if vm_seen is None else {Vmid(5001): vm_seen},
        storages={(PVE1, name): StorageSeen(name, PVE1, content, True, None) for name, content in storages.items()},
    )
    seen = NodeSeen(
        cluster=cluster,
        vm=vm_seen,
        config=None if vm_seen is None else replace(settled, **row.config),
        mappings={CARD: MappingSeen(CARD, ())},
        image_present=True,
        seed_present=True,
    )
    return plan_node(fleet, wished, replace(seen, **row.seen), ENGINES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_state_has_its_steps_or_its_refusal(fleet: FleetSpec, node: NodeSpec, row: Row) -> None:
    found = plan(fleet, node, row)
    if row.refused:
        assert found.refusal is not None
        assert any(words in f"{found.refusal.reason} {found.refusal.next_step}" for words in row.refused.split("|"))
        assert found.refusal.next_step
        assert found.steps == ()
        return
    assert found.refusal is None, found.refusal
    assert [step.name for step in found.steps] == row.steps
    cold = {trait.value for step in found.steps for trait in step.at_cold_start}
    assert cold == set(row.cold)
    assert {step.name for step in found.steps if step.needs_cold_start} <= {"change", "restart"}


def test_an_engine_for_another_makers_cards_is_refused(fleet: FleetSpec, node: NodeSpec) -> None:
    vllm = EngineName("vllm")
    mode = replace(fleet.mode_of(node), engine=vllm, model="org/model")
    fleet = replace(
        fleet,
        engines={**fleet.engines, vllm: EngineSpec(vllm, "0.33.0")},
        modes={**fleet.modes, mode.name: mode},
    )
    amd = MappingSeen(CARD, (), ("node=pve1,path=0000:01:00,id=1002:744c",))
    found = plan(fleet, node, Row("a card of AMD's", seen={"mappings": {CARD: amd}}))
    assert found.refusal is not None
    assert "computes on NVIDIA's cards alone" in found.refusal.reason
    assert found.steps == ()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_step_is_whole_for_programs(fleet: FleetSpec, node: NodeSpec, row: Row) -> None:
    found = plan(fleet, node, row)
    value = found.as_dict()
    assert value["has_changes"] == any(step.kind is StepKind.CHANGE for step in found.steps)
    assert (value["refused"] is None) is (found.refusal is None)
    steps: Any = value["steps"]
    assert len({step["id"] for step in steps}) == len(steps)
    for step in steps:
        assert set(step) == {"id", "name", "kind", "reason", "changes", "needs_cold_start"}
        assert step["reason"]
        assert all(change["from"] != change["to"] for change in step["changes"])
        assert step["needs_cold_start"] is any(change["needs_cold_start"] for change in step["changes"])


def test_a_plan_names_the_state_it_was_made_for(fleet: FleetSpec, node: NodeSpec) -> None:
    assert plan(fleet, node, Row("")).digest == "abc"
    assert plan(fleet, node, Row("", vm=None)).digest == ""
