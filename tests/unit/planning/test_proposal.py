"""From a discovered cluster to a proposed fleet: every rule on its own, then any cluster at all."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from provisioner.domain.discovery import Discovery, Interface, MappingFound, StorageFound, Unseen
from provisioner.domain.proposal import NodeProposal
from provisioner.domain.quantities import GIB
from provisioner.errors import HypervisorError
from provisioner.planning.graphics_memory import graphics_memory_bytes
from provisioner.planning.proposal.gpus import model_name
from tests.discoveries import card, cluster, mapping, proposed, server, storages, vm

MAPPED = mapping("rtx3090", "0000:01:00")


def nodes_of(discovery: Discovery) -> dict[str, NodeProposal]:
    return {node.name: node for node in proposed(discovery).nodes}


def test_a_mapped_card_becomes_a_slot_of_that_name_and_the_first_node() -> None:
    found = proposed(cluster(server(devices=card(1)), mappings=(MAPPED,)))
    (slot,) = found.gpus
    assert (slot.name, slot.mapping, slot.is_mapped, slot.vram_bytes) == ("rtx3090", "rtx3090", True, 24 * GIB)
    assert (slot.is_free, slot.notes, slot.functions) == (True, (), ("0000:01:00.0", "0000:01:00.1"))
    first = found.nodes[0]
    assert (first.name, first.vmid, first.gpus) == ("llm-gpu-01", 5001, ("rtx3090",))
    assert first.address == IPv4Interface("10.10.90.1/16")
    assert found.gateway == IPv4Address("10.10.0.1")


def test_an_unmapped_card_is_named_for_its_model_and_says_that_its_mapping_is_missing() -> None:
    found = proposed(cluster(server(devices=(*card(1), *card(2)))))
    assert [slot.name for slot in found.gpus] == ["rtx3090", "rtx3090-2"]
    assert all(not slot.is_mapped and "does not exist yet" in slot.notes[0] for slot in found.gpus)


def test_a_name_that_a_mapping_has_already_is_not_given_to_another_card() -> None:
    found = proposed(cluster(server(devices=(*card(1), *card(2))), mappings=(mapping("rtx3090", "0000:02:00"),)))
    assert [(slot.name, slot.is_mapped) for slot in found.gpus] == [("rtx3090-2", False), ("rtx3090", True)]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA Corporation GA102 [GeForce RTX 3090]", "rtx3090"),
        ("NVIDIA Corporation GA102 [GeForce RTX 3080 Lite Hash Rate]", "rtx3080"),
        ("NVIDIA Corporation TU102 [GeForce RTX 2080 Ti Rev. A]", "rtx2080ti"),
        ("NVIDIA Corporation AD102GL [RTX 6000 Ada Generation]", "rtx6000ada"),
        ("NVIDIA Corporation GB202GL [RTX PRO 6000 Blackwell Server Edition]", "rtxpro6000"),
        ("NVIDIA Corporation GH100 [H100 PCIe]", "h100pcie"),
        ("NVIDIA Corporation GV100GL [Tesla V100 PCIe 16GB]", "v100pcie16gb"),
        ("Advanced Micro Devices, Inc. [AMD/ATI] Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE]", "rx7900xt"),
        ("Advanced Micro Devices, Inc. [AMD/ATI] Raphael", "raphael"),
        ("Intel Corporation DG2 [Arc A770]", "arca770"),
        ("1234 5678 [9]", "gpu9"),
        ("名前", None),
        ("", None),
    ],
)
def test_a_model_is_named_by_what_tells_models_apart(title: str, name: str | None) -> None:
    assert model_name(title) == name


@pytest.mark.parametrize(
    ("vendor", "device", "name", "gib"),
    [
        ("10de", "2204", "", 24),
        ("10de", "26b9", "L40S", 48),
        ("10de", "ffff", "GA100 [A100 PCIe 40GB]", 40),
        ("10de", "2504", "GA106 [GeForce RTX 3060 Lite Hash Rate]", None),
        ("10de", "1e30", "TU102GL [Quadro RTX 6000/8000]", None),
        ("1002", "738c", "", 32),
        ("1002", "2204", "Something 24GB", None),
        (None, None, "", None),
    ],
)
def test_memory_is_told_only_where_the_ids_settle_it(
    vendor: str | None, device: str | None, name: str, gib: int | None
) -> None:
    assert graphics_memory_bytes(vendor, device, name) == (None if gib is None else gib * GIB)


def test_the_console_of_a_servers_management_is_no_gpu_and_an_integrated_one_no_node() -> None:
    bmc = replace(card(3, "2000", "ASPEED Graphics", vendor="1a03", functions=1)[0])
    igpu = replace(card(0, "3e92", "Intel UHD 630", vendor="8086", functions=1)[0], address="0000:00:02.0")
    found = proposed(cluster(server(devices=(bmc, igpu, *card(1)))))
    assert [(slot.address, slot.is_integrated) for slot in found.gpus] == [
        ("0000:00:02.0", True),
        ("0000:01:00.0", False),
    ]
    assert [node.gpus for node in found.nodes] == [("rtx3090",), ()]


def test_amds_graphics_inside_the_processor_are_no_card_wherever_they_sit() -> None:
    alone = card(0x13, "164e", "Advanced Micro Devices, Inc. [AMD/ATI] Raphael", vendor="1002", functions=1)
    display, security = card(0x14, "1638", "Some Radeon Graphics", vendor="1002")
    security = replace(
        security, class_code="1080", vendor_id="1022", device_id="15df", name="Platform Security Processor"
    )
    found = proposed(
        cluster(server(devices=(*card(1), *card(3, "73df", "Navi 22", vendor="1002"), *alone, display, security)))
    )
    assert [(slot.address, slot.is_integrated) for slot in found.gpus] == [
        ("0000:01:00.0", False),
        ("0000:03:00.0", False),
        ("0000:13:00.0", True),
        ("0000:14:00.0", True),
    ]


def test_a_card_on_the_first_bus_of_a_virtual_server_is_still_a_card() -> None:
    devices = tuple(replace(each, address=each.address.replace("01:00", "00:10")) for each in card(1))
    assert [slot.is_integrated for slot in proposed(cluster(server(devices=devices))).gpus] == [False]


def test_without_an_iommu_the_card_has_a_slot_that_says_so() -> None:
    found = proposed(cluster(server(devices=card(1, group=None)), mappings=(MAPPED,)))
    (slot,) = found.gpus
    assert "the IOMMU is off" in slot.notes[0]
    assert "cannot be passed through yet" in found.nodes[0].notes[0]


def test_a_stranger_in_the_group_is_named_and_a_bridge_is_none() -> None:
    nic = replace(card(2, functions=1)[0], class_code="0200", name="Intel I210", device_id="1533", vendor_id="8086")
    bridge = replace(nic, address="0000:00:01.0", class_code="0604", name="PCI bridge")
    (alone,) = proposed(cluster(server(devices=(*card(1), bridge)), mappings=(MAPPED,))).gpus
    assert alone.notes == ()
    (shared,) = proposed(cluster(server(devices=(*card(1), bridge, nic)), mappings=(MAPPED,))).gpus
    assert shared.notes == ("shares IOMMU group 15 with 0000:02:00.0 Intel I210: provisioner doctor says what to do",)


def test_what_proxmox_finds_wrong_with_a_mapping_is_passed_on() -> None:
    found = cluster(server(devices=card(1)), mappings=(mapping("old", "0000:01:00", problem="group changed"),))
    (slot,) = proposed(found).gpus
    assert (slot.name, slot.notes) == ("old", ("Proxmox finds fault with mapping old here: group changed",))


def test_of_two_mappings_of_a_card_the_one_that_fits_is_taken() -> None:
    both = (mapping("aged", "0000:01:00", problem="group changed"), mapping("fresh", "0000:01:00"))
    (slot,) = proposed(cluster(server(devices=card(1)), mappings=both)).gpus
    assert (slot.name, slot.notes) == ("fresh", ())


def test_a_mapping_of_one_function_says_that_the_rest_stays_behind() -> None:
    (slot,) = proposed(cluster(server(devices=card(1)), mappings=(mapping("half", "0000:01:00.0"),))).gpus
    assert slot.mapping == "half"
    assert "1 of the card's 2 functions" in slot.notes[0]


@pytest.mark.parametrize(
    "shared", [mapping("both", "0000:01:00;0000:02:00"), replace(MAPPED, name="vgpu", is_mediated=True)]
)
def test_a_mapping_that_is_not_one_card_is_nobodys_slot(shared: MappingFound) -> None:
    found = proposed(cluster(server(devices=(*card(1), *card(2))), mappings=(shared,)))
    assert [(slot.name, slot.is_mapped) for slot in found.gpus] == [("rtx3090", False), ("rtx3090-2", False)]


def test_a_pool_is_shared_by_its_cards_slots_and_a_vm_takes_one_of_them() -> None:
    pool = mapping("pool", "0000:01:00", "0000:02:00", "0000:03:00")
    found = cluster(
        server(devices=(*card(1), *card(2), *card(3))), mappings=(pool,), guests=(vm(300, "sharer", "pool"),)
    )
    slots = proposed(found).gpus
    assert [(slot.name, slot.mapping, slot.is_pooled, slot.is_mapped) for slot in slots] == [
        ("rtx3090", "pool", True, True),
        ("rtx3090-2", "pool", True, True),
        ("rtx3090-3", "pool", True, True),
    ]
    assert [slot.used_by for slot in slots] == [(300,), (), ()]
    nodes = nodes_of(found)
    assert nodes["llm-gpu-01"].gpus == ("rtx3090-2",)
    assert "takes a card of the pool" in nodes["llm-gpu-03"].notes[0]
    assert nodes["sharer"].gpus == ("rtx3090",)


def test_a_vm_that_names_a_pools_card_by_its_address_has_that_one() -> None:
    pool = mapping("pool", "0000:01:00", "0000:02:00")
    guests = (vm(300, "a", "0000:02:00"), vm(301, "b", "pool"), vm(302, "c", "pool"), vm(303, "d", "pool"))
    slots = proposed(cluster(server(devices=(*card(1), *card(2))), mappings=(pool,), guests=guests)).gpus
    assert [slot.used_by for slot in slots] == [(301, 303), (300, 302)]


@pytest.mark.parametrize("device", ["rtx3090", "0000:01:00", "0000:01:00.0", "0000:01:00.1"])
def test_a_vm_that_names_the_card_makes_it_not_free_and_is_offered_for_adoption(device: str) -> None:
    windows = vm(200, "Gaming PC", device, addresses=(IPv4Interface("10.10.0.77/16"),))
    found = cluster(server(devices=(*card(1), *card(2))), mappings=(MAPPED,), guests=(windows,))
    nodes = nodes_of(found)
    # The free card comes first, whatever its address.
    assert nodes["llm-gpu-01"].gpus == ("rtx3090-2",)
    assert nodes["llm-gpu-02"].notes == (
        'VM 200 "Gaming PC" names the same card: only one of the two can run at a time',
    )
    adopted = nodes["gaming-pc"]
    assert (adopted.is_adopted, adopted.vmid, adopted.gpus) == (True, 200, ("rtx3090",))
    assert adopted.address == IPv4Interface("10.10.0.77/16")


def test_a_template_a_container_and_a_vm_elsewhere_hold_no_card_here() -> None:
    others = (
        vm(200, "template", "rtx3090", is_template=True),
        replace(vm(201, "elsewhere", "0000:01:00"), hypervisor="pve2"),
        vm(202, "none"),
    )
    found = cluster(server(devices=card(1)), server("pve2", cidr=None), mappings=(MAPPED,), guests=others)
    assert [slot.is_free for slot in proposed(found).gpus] == [True]


def test_our_own_vm_is_its_node_again_and_takes_its_number_and_card_with_it() -> None:
    ours = vm(5001, "llm-gpu-01", "rtx3090", tags=frozenset({"provisioner"}))
    nodes = nodes_of(cluster(server(devices=(*card(1), *card(2))), mappings=(MAPPED,), guests=(ours,)))
    assert nodes["llm-gpu-01"].vmid == 5001
    assert nodes["llm-gpu-01"].gpus == ("rtx3090",)
    assert not nodes["llm-gpu-01"].is_adopted
    assert nodes["llm-gpu-02"].gpus == ("rtx3090-2",)


def test_a_taken_vmid_is_passed_by_without_taking_one_that_a_name_implies() -> None:
    nodes = nodes_of(cluster(server(devices=(*card(1), *card(2))), guests=(vm(5001), vm(5200))))
    assert (nodes["llm-gpu-01"].vmid, nodes["llm-gpu-02"].vmid, nodes["llm-cpu-01"].vmid) == (5201, 5002, 5101)


@pytest.mark.parametrize(
    ("cidr", "taken", "first", "cpu"),
    [
        ("10.10.0.2/16", None, "10.10.90.1/16", "10.10.90.101/16"),
        ("10.10.0.2/16", "10.10.90.1/16", "10.10.0.201/16", "10.10.90.101/16"),
        ("10.0.0.2/8", None, "10.10.90.1/8", "10.10.90.101/8"),
        ("172.20.0.2/16", None, "172.20.90.1/16", "172.20.90.101/16"),
        ("192.168.1.2/24", None, "192.168.1.201/24", "192.168.1.221/24"),
        ("192.168.1.2/24", "192.168.1.201/24", "192.168.1.202/24", "192.168.1.221/24"),
        ("192.168.1.18/28", None, "192.168.1.30/28", "192.168.1.29/28"),
    ],
)
def test_addresses_keep_the_numbering_as_far_as_the_network_has_room(
    cidr: str, taken: str | None, first: str, cpu: str
) -> None:
    guests = (vm(100, addresses=(IPv4Interface(taken),)),) if taken else ()
    nodes = nodes_of(cluster(server(devices=card(1), cidr=cidr, gateway=None), guests=guests))
    assert str(nodes["llm-gpu-01"].address) == first
    assert str(nodes["llm-cpu-01"].address) == cpu


def test_a_network_that_is_full_leaves_the_address_open() -> None:
    nodes = nodes_of(cluster(server(devices=card(1), cidr="192.168.1.1/30", gateway="192.168.1.2")))
    assert nodes["llm-gpu-01"].address is None


def test_a_gateway_outside_the_bridges_network_is_not_taken() -> None:
    found = proposed(cluster(server(devices=card(1), cidr="192.168.1.2/24", gateway="10.0.0.1")))
    assert found.gateway is None


def test_the_bridge_with_the_servers_address_goes_before_others() -> None:
    first = server(devices=card(1), cidr=None, gateway=None)
    address = IPv4Interface("172.20.0.2/16")
    lan = Interface("lan", True, True, address, IPv4Address("172.20.0.1"))
    found = proposed(cluster(replace(first, interfaces=(*(first.interfaces or ()), lan))))
    assert (found.bridge.name, found.bridge.others) == ("lan", ("vmbr0",))
    assert found.nodes[0].address == IPv4Interface("172.20.90.1/16")


def test_a_cluster_that_shows_no_bridge_gets_the_usual_one_and_nodes_without_address() -> None:
    found = proposed(cluster(replace(server(devices=card(1)), interfaces=None)))
    assert found.bridge.name == "vmbr0"
    assert "no bridge was seen" in found.bridge.notes[0]
    assert found.nodes[0].address is None


STORAGE_TABLE = [
    # kind, content, expected role -> name out of the storages given by the row's id
    pytest.param(
        [("lvm1", "lvm", "images"), ("thin", "lvmthin", "images"), ("dir1", "dir", "images,iso,import")],
        ("thin", "dir1", "dir1"),
        id="thin block storage for disks, files for files",
    ),
    pytest.param(
        [("rpool", "zfspool", "images"), ("local", "dir", "iso"), ("nas.x", "nfs", "import,images")],
        ("rpool", "nas.x", "local"),
        id="images and ISOs on different storages",
    ),
    pytest.param(
        [("local", "dir", "iso"), ("share", "nfs", "import,iso")],
        ("local-lvm", "share", "share"),
        id="one storage for both rather than two, the installer's name where none can hold disks",
    ),
    pytest.param(
        [("esxi1", "esxi", "import"), ("local", "dir", "iso,backup"), ("thin", "lvmthin", "images")],
        ("thin", "local", "local"),
        id="what imports from elsewhere holds no images of ours",
    ),
    pytest.param([], ("local-lvm", "local", "local"), id="nothing in sight"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "chosen"), STORAGE_TABLE)
def test_storages_are_chosen_by_what_they_can_hold(
    rows: list[tuple[str, str, str]], chosen: tuple[str, str, str]
) -> None:
    there = tuple(StorageFound(n, "pve1", k, frozenset(c.split(",")), True, GIB) for n, k, c in rows)
    found = proposed(cluster(server(devices=card(1)), storages=there))
    assert (found.disks.name, found.images.name, found.iso.name) == chosen


def test_a_storage_without_import_says_how_to_give_it_that() -> None:
    there = (StorageFound("local", "pve1", "dir", frozenset({"iso", "backup"}), True, GIB),)
    found = proposed(cluster(server(devices=card(1)), storages=there))
    assert "pvesh set /storage/local --content backup,import,iso" in found.images.notes[0]


def test_a_storage_that_every_gpu_server_has_goes_before_one_that_only_one_has() -> None:
    two = (server(devices=card(1)), server("pve2", card(1)))
    own = StorageFound("fast", "pve1", "lvmthin", frozenset({"images"}), True, 900 * GIB)
    shared = [StorageFound("ceph", name, "rbd", frozenset({"images"}), True, GIB) for name in ("pve1", "pve2")]
    assert proposed(cluster(*two, storages=(own, *shared))).disks.name == "ceph"
    only = proposed(cluster(*two, storages=(own,))).disks
    assert (only.name, only.notes) == ("fast", ("fast is not on pve2",))


def test_a_storage_that_is_down_comes_last_and_says_so() -> None:
    up, down = storages()[1], replace(storages()[1], name="aaa", is_available=False)
    found = proposed(cluster(server(devices=card(1)), storages=(down, up))).disks
    assert (found.name, found.others) == ("local-lvm", ())
    only = proposed(cluster(server(devices=card(1)), storages=(down,))).disks
    assert only.notes == ("aaa is not available on pve1",)


@pytest.mark.parametrize(
    ("threads", "memory", "free", "sizes"),
    [
        (32, 128 * GIB, 800 * GIB, (12, 48, 200)),
        (8, 32 * GIB, 100 * GIB, (4, 16, 50)),
        (1, GIB, GIB, (1, 2, 16)),
        (None, None, None, (4, 16, 64)),
    ],
)
def test_sizes_are_the_usual_or_half_of_what_is_there(
    threads: int | None, memory: int | None, free: int | None, sizes: tuple[int, int, int]
) -> None:
    home = replace(server(devices=card(1)), threads=threads, memory_bytes=memory)
    disks = replace(storages()[1], free_bytes=free)
    found = proposed(cluster(home, storages=(disks,))).sizes
    assert (found.cores, found.memory_bytes // GIB, found.disk_bytes // GIB) == sizes


def test_the_node_without_a_gpu_goes_to_a_server_that_answers() -> None:
    nodes = nodes_of(cluster(server("pve0", is_online=False), server("pve1")))
    assert nodes["llm-cpu-01"].hypervisor == "pve1"


def test_an_offline_server_stays_in_the_fleet_and_says_that_its_gpus_are_missing() -> None:
    found = proposed(cluster(server(devices=card(1)), server("pve2", is_online=False)))
    assert [each.name for each in found.hypervisors] == ["pve1", "pve2"]
    assert "was offline" in found.hypervisors[1].notes[0]


def test_a_server_whose_name_no_fleet_file_can_hold_is_left_out_and_named() -> None:
    found = proposed(cluster(server("pve1"), server("bad name\n")))
    assert [each.name for each in found.hypervisors] == ["pve1"]
    assert any("is left out" in note for note in found.notes)


def test_a_cluster_without_any_server_is_refused() -> None:
    with pytest.raises(HypervisorError, match="shows no server"):
        proposed(cluster())


def test_an_old_proxmox_is_told_apart() -> None:
    assert proposed(cluster(server())).notes == ()
    old = replace(cluster(server()), version="8.3.2")
    assert "8.4 or newer" in proposed(old).notes[0]


@pytest.mark.parametrize(
    ("missing", "word"),
    [
        ("VM.Audit", "VMs and containers"),
        ("Datastore.Audit", "storages"),
        ("SDN.Audit", "bridges"),
        ("Mapping.Audit", "PCI mappings"),
    ],
)
def test_a_missing_privilege_that_shortens_a_list_is_named(missing: str, word: str) -> None:
    found = cluster(server())
    assert proposed(found).unseen == ()
    held = {key: 1 for key in found.permissions["/"] if key != missing}
    (unseen,) = proposed(replace(found, permissions={"/": held})).unseen
    assert word in unseen.what
    assert missing in unseen.why


def test_a_privilege_that_does_not_reach_down_is_missing_too() -> None:
    found = replace(cluster(server()), permissions={"/": dict.fromkeys(cluster(server()).permissions["/"], 0)})
    assert len(proposed(found).unseen) == 4


def test_what_was_refused_outright_comes_before_what_was_left_out_silently() -> None:
    refused = Unseen("GPUs of pve1", "this login lacks Sys.Audit on /", "grant it")
    found = replace(cluster(server(devices=None)), unseen=(refused,), permissions={})
    assert proposed(found).unseen[0] is refused
    assert len(proposed(found).unseen) == 5


def test_the_cluster_keeps_its_name_where_the_file_can_hold_it() -> None:
    assert proposed(cluster(server(), cluster_name="lab")).cluster == "lab"
    assert proposed(cluster(server(), cluster_name="no way")).cluster == "homelab"
    assert proposed(cluster(server())).cluster == "homelab"
