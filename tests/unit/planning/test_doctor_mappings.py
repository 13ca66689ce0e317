"""PCI mappings beside the hardware: every row is an entry, what is found, and how it should read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from provisioner.domain.fleet import FleetSpec, GpuSpec
from provisioner.domain.host import HostFacts, PciAddress, PciFunction
from provisioner.domain.names import GpuName, MappingId
from provisioner.planning.readiness import CheckStatus
from tests.fakes.host_facts import ENTRY, GPU, PORT, SOUND, ready_host
from tests.unit.planning.doctoring import findings, seen, well

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN
FITS = "node=pve1,path=0000:01:00,id=10de:2204,iommugroup=15,subsystem-id=10de:3095"


@dataclass(frozen=True)
class Row:
    name: str
    entries: tuple[str, ...]
    status: CheckStatus
    words: str
    command: str | None = None


def mends(*entries: str) -> str:
    maps = " ".join(f"--map '{entry}'" for entry in entries)
    return f"`pvesh set /cluster/mapping/pci/rtx3090 {maps}`"


OTHER = "id=10de:2204,iommugroup=8,node=pve2,path=0000:0a:00,subsystem-id=10de:3095"
OTHER_WRITTEN = "node=pve2,path=0000:0a:00,id=10de:2204,iommugroup=8,subsystem-id=10de:3095"
ROWS = [
    Row("fits", (ENTRY,), OK, "0000:01:00 NVIDIA GA102 [GeForce RTX 3090]"),
    Row("moved group", (ENTRY.replace("=15", "=17"),), FAIL, "the entry says 17, the device has 15", mends(FITS)),
    Row("no group", (ENTRY.replace("iommugroup=15,", ""),), FAIL, "says nothing, the device has 15", mends(FITS)),
    Row("no subsystem, accepted when made and refused at the start", (ENTRY.replace(",subsystem-id=10de:3095", ""),),
        FAIL, "subsystem-id: the entry says nothing, the device has 10de:3095", mends(FITS)),
    Row("another maker's card", (ENTRY.replace("10de:3095", "1462:3884"),), FAIL,
        "says 1462:3884, the device has 10de:3095", mends(FITS)),
    Row("upper case", (ENTRY.replace("10de:2204", "10DE:2204"),), FAIL, "must be lower case: 10de:2204", mends(FITS)),
    Row("another card in the slot", (ENTRY.replace("10de:2204", "10de:1b06"),), FAIL, "id: the entry says 10de:1b06",
        mends(FITS)),
    Row("moved to another slot", (ENTRY.replace("0000:01:00", "0000:0b:00"),), FAIL, "there is no device at 0000:0b:00",
        mends(FITS)),
    Row("gone", (ENTRY.replace("0000:01:00", "0000:0b:00").replace("2204", "1b06"),), FAIL, "there is no device at"),
    Row("the first function alone", (ENTRY.replace("01:00", "01:00.0"),), WARN, "without 0000:01:00.1"),
    Row("both functions by name", (ENTRY.replace("01:00", "01:00.0;0000:01:00.1"),), FAIL,
        "id of 0000:01:00.1: the entry says 10de:2204, the device has 10de:1aef", mends(FITS)),
    Row("only for another server", (OTHER,), FAIL, "has no entry for pve1, only for pve2", mends(OTHER_WRITTEN, FITS)),
    Row("another server's entry is kept", (OTHER, ENTRY.replace("=15", "=17")), FAIL, "the entry says 17",
        mends(OTHER_WRITTEN, FITS)),
    Row("a description is kept", (ENTRY.replace("=15", "=17") + ",description=left slot",), FAIL, "the entry says 17",
        mends(FITS.replace(",id=", ",id=") + ",description=left slot")),
    Row("nonsense", ("path,,=", "node=pve1"), FAIL, "names no device"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_entry_is_held_against_the_hardware(fleet: FleetSpec, row: Row) -> None:
    check = findings(well(fleet, mappings=seen(*row.entries)))["mapping_rtx3090"]
    assert check.status is row.status
    assert row.words in check.found
    if row.command is not None:
        assert row.command in check.next_step


def test_what_proxmox_finds_is_said_in_its_words_where_the_hardware_may_not_be_seen(fleet: FleetSpec) -> None:
    blind = replace(ready_host(), functions=None, groups=None, withheld={"lspci": "Sys.Audit on /"})
    errors = ("Invalid configuration: 'iommugroup' does not match for '0000:01:00' (15 != 17)",)
    check = findings(well(fleet, host=blind, mappings=seen(ENTRY, errors=errors)))["mapping_rtx3090"]
    assert check.status is FAIL
    assert "15 != 17" in check.found
    assert findings(well(fleet, host=blind))["mapping_rtx3090"].status is OK


def test_with_the_iommu_off_the_group_is_to_be_learnt_later(fleet: FleetSpec) -> None:
    checks = findings(well(fleet, host=replace(ready_host(), groups={})))
    assert checks["iommu"].status is FAIL
    assert checks["mapping_rtx3090"].status is FAIL
    assert "see the check iommu" in checks["mapping_rtx3090"].next_step
    # The order in which a person would mend it.
    assert list(checks).index("iommu") < list(checks).index("mapping_rtx3090")


def test_a_missing_mapping_comes_with_the_command_that_makes_it(fleet: FleetSpec) -> None:
    check = findings(well(fleet, mappings={}))["mapping_rtx3090"]
    assert check.status is FAIL
    assert check.found == 'there is no PCI mapping "rtx3090"'
    assert f"`pvesh create /cluster/mapping/pci --id rtx3090 --map {FITS}`" in check.next_step


def test_a_mapping_that_the_token_may_not_see_is_not_called_absent(fleet: FleetSpec) -> None:
    check = findings(well(fleet, mappings={}, permissions={"/": {"Sys.Audit": 0}}))["mapping_rtx3090"]
    assert "the token may not see it" in check.found
    assert check.next_step.startswith("give the token Mapping.Use on /mapping/pci/rtx3090")


def test_a_card_that_another_mapping_hands_out_is_not_proposed(fleet: FleetSpec) -> None:
    check = findings(well(fleet, mappings=seen(ENTRY, name="gaming")))["mapping_rtx3090"]
    assert "pvesh create" not in check.next_step


def with_second_gpu(fleet: FleetSpec, mapping: str) -> FleetSpec:
    spec = fleet.hypervisors[next(iter(fleet.hypervisors))]
    gpus = {**spec.gpus, GpuName("second"): GpuSpec(GpuName("second"), MappingId(mapping), 24 << 30)}
    return replace(fleet, hypervisors={spec.name: replace(spec, gpus=gpus)})


def test_two_gpus_of_the_fleet_that_are_one_card_are_told_apart(fleet: FleetSpec) -> None:
    mappings = {**seen(ENTRY), **seen(ENTRY, name="rtx")}
    check = findings(well(with_second_gpu(fleet, "rtx"), mappings=mappings))["mapping_second"]
    assert check.status is WARN
    assert 'the same card as "rtx3090"' in check.found


def test_a_pool_of_cards_behind_one_name_is_fine(fleet: FleetSpec) -> None:
    host, twin = two_cards()
    entries = (ENTRY, ENTRY.replace("01:00", "02:00").replace("=15", "=16"))
    checks = findings(well(with_second_gpu(fleet, "rtx3090"), host=host, mappings=seen(*entries)))
    assert checks["mapping_rtx3090"].status is OK
    assert checks["mapping_second"].status is OK
    assert twin.address in host.functions  # type: ignore[operator]


def two_cards() -> tuple[HostFacts, PciFunction]:
    host = ready_host()
    assert host.functions is not None
    assert host.groups is not None
    twin = replace(host.functions[GPU], address=PciAddress("0000:02:00.0"))
    return replace(
        host, functions={**host.functions, twin.address: twin}, groups={**host.groups, twin.address: 16}
    ), twin


def test_of_two_cards_alike_a_lost_one_is_not_guessed(fleet: FleetSpec) -> None:
    host, _ = two_cards()
    check = findings(well(fleet, host=host, mappings=seen(ENTRY.replace("01:00", "0b:00"))))["mapping_rtx3090"]
    assert check.status is FAIL
    assert "pvesh" not in check.next_step


def test_a_mapping_of_something_else_is_no_gpu(fleet: FleetSpec) -> None:
    entry = "node=pve1,path=0000:00:01.1,id=1022:1483,iommugroup=14"
    check = findings(well(fleet, mappings=seen(entry)))["mapping_rtx3090"]
    assert check.status is WARN
    assert "which is no GPU" in check.found


def test_a_virtual_function_is_a_card_of_its_own(fleet: FleetSpec) -> None:
    host = ready_host()
    assert host.functions is not None
    assert host.groups is not None
    slice_ = replace(host.functions[GPU], address=PciAddress("0000:01:00.4"))
    host = replace(
        host, functions={**host.functions, slice_.address: slice_}, groups={**host.groups, slice_.address: 15}
    )
    checks = findings(well(fleet, host=host, mappings=seen(ENTRY.replace("01:00", "01:00.4"))))
    assert checks["mapping_rtx3090"].status is OK
    assert "is cut into 1 virtual functions" in checks[f"virtual_functions_{GPU}"].found


def test_a_mediated_card_wants_a_mapping_that_says_so(fleet: FleetSpec) -> None:
    errors = ("Invalid configuration: 'mdev' does not match for '0000:01:00' (1 != 0)",)
    check = findings(well(fleet, mappings=seen(ENTRY, errors=errors)))["mapping_rtx3090"]
    assert check.status is FAIL
    assert "--mdev 1`" in check.next_step


def test_a_card_that_no_node_uses_fails_nobody(fleet: FleetSpec) -> None:
    host, twin = two_cards()
    assert host.functions is not None
    assert host.groups is not None
    held = replace(twin, driver="nouveau", is_driver_known=True)
    disk = PciFunction(PciAddress("0000:03:00.0"), "0108", "an NVMe disk", "144d", "a808")
    host = replace(
        host,
        functions={**host.functions, twin.address: held, disk.address: disk},
        groups={**host.groups, disk.address: 16},
    )
    checks = findings(well(fleet, host=host))
    for id_ in (f"driver_{twin.address}", f"group_{twin.address}"):
        assert checks[id_].status is OK
        assert checks[id_].found.endswith("no node uses this card")
    # As soon as it cannot be told which card is whose, every one counts.
    checks = findings(well(fleet, host=host, mappings={}))
    assert checks[f"group_{twin.address}"].status is FAIL
    assert checks[f"driver_{twin.address}"].status is WARN


def test_without_gpus_in_the_fleet_file_passthrough_need_not_work(fleet: FleetSpec) -> None:
    spec = fleet.hypervisors[next(iter(fleet.hypervisors))]
    nodes = {name: replace(node, gpus=()) for name, node in fleet.nodes.items()}
    bare = replace(fleet, hypervisors={spec.name: replace(spec, gpus={})}, nodes=nodes)
    checks = findings(well(bare, host=replace(ready_host(), groups={})))
    assert checks["iommu"].status is WARN
    assert not any(check.status is FAIL for check in checks.values())


def test_the_hosts_own_port_is_in_no_ones_way(fleet: FleetSpec) -> None:
    host = ready_host()
    assert host.groups is not None
    checks = findings(well(fleet, host=replace(host, groups={**host.groups, PORT: 15, SOUND: 15})))
    assert checks[f"group_{GPU}"].status is OK
