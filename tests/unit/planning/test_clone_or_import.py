"""Import or linked clone, as a table; which template, and what the plan says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.actions import CloneVm, CreateVm
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import HypervisorName, NodeName, StorageName, Vmid
from provisioner.domain.snapshot import ClusterSnapshot, MappingSeen, NodeSeen, Power, StorageSeen, VmSeen
from provisioner.domain.templates import TEMPLATE_TAG, Template, is_named_so
from provisioner.engines.registry import ENGINES
from provisioner.planning.cloning import free_template_vmid, how_to_make, template_shape, templates, wanted_keys
from provisioner.planning.provision import plan_node
from tests.fleets import FLEET, fleet_from

PVE1, PVE2 = HypervisorName("pve1"), HypervisorName("pve2")
DISKS, LOCAL = StorageName("local-lvm"), StorageName("local")
FIRST = NodeName("llm-gpu-01")
ALL = {"/vms": dict.fromkeys(("VM.Clone", "VM.Config.CDROM", "VM.Allocate"), 1)}
TWO_SERVERS = FLEET.replace("defaults:", "  pve2: {cluster: homelab}\ndefaults:").replace(
    "llm-gpu-02: {hypervisor: pve1, gpus: [rtx3090]", "llm-gpu-02: {hypervisor: pve2"
)
ONE = FLEET.replace("  llm-gpu-02: {hypervisor: pve1, gpus: [rtx3090], modes: [small]}\n", "")
OTHER_IMAGE = FLEET.replace("[rtx3090], modes: [small]}", "[rtx3090], modes: [small], image: mine}").replace(
    "defaults:", f"images:\n  mine: {{url: 'http://example.org/y.qcow2', sha256: {'a' * 64}}}\ndefaults:"
)


NATIVE = FLEET.replace("  idle_after: 20m", "  idle_after: 20m\n  cloud_init: proxmox\n  nameservers: [10.10.0.1]")
OTHER = VmSeen(Vmid(5002), "llm-gpu-02", PVE1, Power.STOPPED, frozenset({"provisioner"}))


def cluster(kind: str = "lvmthin", *vms: VmSeen, shared: bool = False) -> ClusterSnapshot:
    def storages(here: HypervisorName) -> list[StorageSeen]:
        files = StorageSeen(LOCAL, here, frozenset({"iso", "import"}), True, None, "dir")
        return [StorageSeen(DISKS, here, frozenset({"images"}), True, None, kind, shared), files]

    return ClusterSnapshot(
        hypervisors={PVE1: True, PVE2: True},
        vms={vm.vmid: vm for vm in vms},
        storages={(here, each.name): each for here in (PVE1, PVE2) for each in storages(here)},
    )


def template_of(fleet: FleetSpec, vmid: int = 9000) -> VmSeen:
    shape = template_shape(fleet, fleet.nodes[FIRST], cluster().storages[PVE1, DISKS])
    tags = frozenset({"provisioner", TEMPLATE_TAG, shape.tag})
    return VmSeen(Vmid(vmid), shape.name, PVE1, Power.STOPPED, tags, is_template=True)


def with_clone(text: str, choice: str) -> str:
    return text.replace("  idle_after: 20m", f"  idle_after: 20m\n  clone: {choice}")


CLONED = [
    ("two nodes share the image", FLEET, cluster(), "2 nodes share image"),
    *((f"on {kind}", FLEET, cluster(kind), f"({kind})") for kind in ("zfspool", "rbd", "dir", "nfs", "btrfs")),
    ("one node that insists", with_clone(ONE, "always"), cluster(), "the fleet file asks for it"),
    ("two servers with one storage", TWO_SERVERS, cluster("rbd", shared=True), "2 nodes share"),
]
IMPORTED = [
    *((f"on {kind}", FLEET, cluster(kind), ALL, f"of type {kind}, makes no") for kind in ("lvm", "iscsi")),
    ("an unknown type", FLEET, cluster(""), ALL, "does not tell"),
    ("one node alone", ONE, cluster(), ALL, "no other node"),
    ("never", with_clone(FLEET, "never"), cluster(), ALL, "as the fleet file says"),
    ("another image", OTHER_IMAGE, cluster(), ALL, "no other node"),
    ("no right to clone", FLEET, cluster(), {"/vms": {"VM.Config.CDROM": 1}}, "lacks VM.Clone on /vms"),
    ("no right to the drive", FLEET, cluster(), {"/vms": {"VM.Clone": 1}}, "lacks VM.Config.CDROM on /vms"),
    ("two servers", TWO_SERVERS, cluster(), ALL, "no other node here"),
    ("the other one is there", FLEET, cluster("lvmthin", OTHER), ALL, "the only node of image"),
    ("no right to the native drive", NATIVE, cluster(), ALL, "lacks VM.Config.Cloudinit on /vms"),
]


@pytest.mark.parametrize(("text", "seen", "why"), [case[1:] for case in CLONED], ids=[case[0] for case in CLONED])
def test_a_clone_is_chosen_where_it_is_quicker(tmp_path: Path, text: str, seen: ClusterSnapshot, why: str) -> None:
    fleet = fleet_from(tmp_path, text)
    making = how_to_make(fleet, fleet.nodes[FIRST], seen, ALL)
    assert making.template is not None
    assert why in making.why


@pytest.mark.parametrize(
    ("text", "seen", "permissions", "why"), [case[1:] for case in IMPORTED], ids=[case[0] for case in IMPORTED]
)
def test_an_import_is_chosen_where_nothing_can_be_gained(
    tmp_path: Path, text: str, seen: ClusterSnapshot, permissions: dict[str, dict[str, int]], why: str
) -> None:
    fleet = fleet_from(tmp_path, text)
    making = how_to_make(fleet, fleet.nodes[FIRST], seen, permissions)
    assert making.template is None
    assert why in making.why


def made_from(fleet: FleetSpec, seen: ClusterSnapshot, node: str = FIRST) -> Template | None:
    return how_to_make(fleet, fleet.nodes[NodeName(node)], seen, ALL).ready


def test_a_template_is_known_by_its_tags_and_only_when_it_is_done(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    ready = template_of(fleet)
    assert made_from(fleet, cluster("lvmthin", ready)) == Template(Vmid(9000), PVE1)
    for other in (
        replace(ready, tags=ready.tags - {"provisioner"}),
        replace(ready, tags=ready.tags - {TEMPLATE_TAG}),
        replace(ready, tags=frozenset({"provisioner", TEMPLATE_TAG, "tpl-00000000"})),
        replace(ready, is_template=False),
        replace(ready, lock="backup"),
        replace(ready, hypervisor=PVE2),
        replace(ready, is_container=True),
        replace(ready, name="Copy-of-VM-tpl"),
        replace(ready, vmid=Vmid(5002)),
    ):
        assert made_from(fleet, cluster("lvmthin", other)) is None, other


def test_a_template_that_is_there_or_begun_serves_a_last_node(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    ready = template_of(fleet)
    begun = replace(ready, is_template=False, name="")
    for template, known in ((ready, Template(Vmid(9000), PVE1)), (begun, None)):
        making = how_to_make(fleet, fleet.nodes[FIRST], cluster("lvmthin", OTHER, template), ALL)
        assert making.template is not None
        assert making.ready == known


def test_clones_are_no_templates_though_they_have_the_tags(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    ready = template_of(fleet)
    shape = template_shape(fleet, fleet.nodes[FIRST], cluster().storages[PVE1, DISKS])
    storage = cluster().storages[PVE1, DISKS]
    half = replace(ready, vmid=Vmid(5002), name="", is_template=False)
    by_hand = replace(ready, vmid=Vmid(120), name="Copy-of-VM-tpl", is_template=False)
    seen = cluster("lvmthin", half, by_hand, ready)
    assert templates(fleet, seen, shape, fleet.nodes[FIRST], storage) == (ready,)
    assert [is_named_so(vm) for vm in (ready, half, by_hand)] == [True, False, False]


def test_all_choose_the_same_of_two_templates(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    both = cluster("lvmthin", template_of(fleet, 9003), template_of(fleet, 9001))
    assert made_from(fleet, both) == made_from(fleet, both, "llm-gpu-02") == Template(Vmid(9001), PVE1)


def test_on_a_shared_storage_another_servers_template_serves(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, TWO_SERVERS)
    far = template_of(fleet)
    assert made_from(fleet, cluster("rbd", far, shared=True), "llm-gpu-02") == Template(Vmid(9000), PVE1)
    offline = replace(cluster("rbd", far, shared=True), hypervisors={PVE1: False, PVE2: True})
    assert made_from(fleet, offline, "llm-gpu-02") is None


def test_templates_stay_away_from_vmids_of_nodes_and_vms(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("llm-gpu-02: {", "llm-gpu-02: {vmid: 9000, "))
    assert free_template_vmid(fleet, {Vmid(9001): template_of(fleet, 9001)}, frozenset({Vmid(9002)})) == 9003


def test_firmware_and_storage_make_another_template(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("llm-gpu-02: {", "llm-gpu-02: {secure_boot: true, "))
    storage = cluster().storages[PVE1, DISKS]
    keys = {template_shape(fleet, node, storage).key for node in fleet.nodes.values()}
    keys.add(template_shape(fleet, fleet.nodes[FIRST], replace(storage, name=StorageName("zfs"))).key)
    assert len(keys) == 3


def test_a_templates_name_is_a_dns_name(tmp_path: Path) -> None:
    assert template_of(fleet_from(tmp_path)).name.startswith("tpl-ubuntu-24-04-")


def test_a_template_is_wanted_while_nodes_would_be_made_from_it(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    keys = wanted_keys(fleet, "homelab", cluster())
    assert {f"tpl-{key}" for key in keys} == template_of(fleet).tags - {"provisioner", TEMPLATE_TAG}
    assert wanted_keys(fleet_from(tmp_path, ONE), "homelab", cluster()) == frozenset()


def plan_of(fleet: FleetSpec, seen: ClusterSnapshot) -> tuple[list[str], object, str]:
    """Names of the first steps, the action that makes the VM, and its reason; of a refusal the reason alone."""
    node = fleet.nodes[FIRST]
    mappings = {gpu.mapping: MappingSeen(gpu.mapping, ()) for gpu in fleet.gpus_of(node)}
    place = NodeSeen(seen, None, None, mappings, image_present=False, seed_present=True, permissions=ALL)
    plan = plan_node(fleet, node, place, ENGINES)
    if plan.refusal is not None:
        return [], None, plan.refusal.reason
    (making,) = (step for step in plan.steps if isinstance(step.action, (CloneVm, CreateVm)))
    return [step.name for step in plan.steps][:6], making.action, making.reason


def test_the_plan_makes_the_template_first_and_says_why(tmp_path: Path) -> None:
    names, action, reason = plan_of(fleet_from(tmp_path), cluster())
    assert names == ["image", "template", "seed", "clone", "grow disk", "start"]
    assert isinstance(action, CloneVm)
    assert '2 nodes share image "ubuntu-24.04" on local-lvm (lvmthin)' in reason


def test_a_template_that_is_there_spares_the_image(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    names, action, reason = plan_of(fleet, cluster("lvmthin", template_of(fleet)))
    assert names[:4] == ["seed", "clone", "grow disk", "start"]
    assert isinstance(action, CloneVm)
    assert action.ready == Template(Vmid(9000), PVE1)
    assert "of template 9000" in reason


def test_an_import_says_why_too(tmp_path: Path) -> None:
    names, action, reason = plan_of(fleet_from(tmp_path), cluster("lvm"))
    assert names == ["image", "seed", "create", "grow disk", "start", "guest"]
    assert isinstance(action, CreateVm)
    assert 'storage "local-lvm", of type lvm, makes no linked clones' in reason


def test_a_clone_that_cannot_be_is_refused_where_the_file_insists(tmp_path: Path) -> None:
    names, _, reason = plan_of(fleet_from(tmp_path, with_clone(FLEET, "always")), cluster("lvm"))
    assert names == []
    assert "it cannot be a clone" in reason
