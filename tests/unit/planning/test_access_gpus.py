"""Which card is which GPU, and what a mapping says of it: every row is a server as seen, and what is planned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from provisioner.domain.access import (
    AccessWanted,
    MappableDevice,
    PciMapping,
)
from provisioner.domain.access_plan import AccessPlan
from provisioner.domain.names import GpuName, MappingId
from provisioner.planning.access import access_plan
from tests.fleets import FLEET, fleet_from
from tests.unit.planning.access_cluster import (
    BARE,
    BMC,
    ENTRY,
    PVE1,
    RTX3060,
    RTX3090,
    SOUND,
    after,
    mapping,
)


@pytest.fixture
def wanted(tmp_path: Path) -> AccessWanted:
    fleet = fleet_from(tmp_path)
    return AccessWanted(fleet, next(iter(fleet.clusters.values())))


@dataclass(frozen=True)
class Cards:
    """One row: the fleet's GPUs, the server's cards and mappings, and what is planned."""

    name: str
    gpus: str
    devices: tuple[MappableDevice, ...] | None
    mapped: dict[str, str]
    """Mapping to the slots of its entries for pve1 after the plan."""
    mappings: dict[str, PciMapping] = field(default_factory=dict)
    slots: dict[str, tuple[str, ...]] = field(default_factory=dict)
    obstacle: str = ""
    pool: str = ""
    """The mapping that all of the GPUs share."""


def card(slot: str, device: str = "2204", name: str = "GA102 [GeForce RTX 3090]", group: int = 15) -> MappableDevice:
    return MappableDevice(f"{slot}.0", "0300", "10de", device, "10de:3095", group, name)


ONE, TWO, THREE = (f"0000:0{bus}:00" for bus in (1, 2, 3))
H100 = ("2330", "GH100 [H100 SXM5 80GB]")

ROWS = (
    Cards("by its name", "rtx3090", (RTX3090, SOUND, RTX3060, BMC), {"rtx3090": ONE}),
    Cards(
        "both by their names", "rtx3090 rtx3060", (RTX3090, SOUND, RTX3060), {"rtx3090": ONE, "rtx3060": "0000:0a:00"}
    ),
    Cards("the only one", "gpu0", (RTX3090, SOUND, BMC), {"gpu0": ONE}),
    Cards("what one name leaves", "rtx3060 other", (RTX3090, RTX3060), {"rtx3060": "0000:0a:00", "other": ONE}),
    Cards(
        "identical ones by address",
        "rtx3090-1 rtx3090-2",
        (card(TWO), card(ONE)),
        {"rtx3090-1": ONE, "rtx3090-2": TWO},
    ),
    Cards("all identical", "left right", (card(TWO, *H100), card(ONE, *H100)), {"left": ONE, "right": TWO}),
    Cards("too many identical ones", "h100", (card(ONE, *H100), card(TWO, *H100)), {}, obstacle="cannot be told"),
    Cards("two kinds, no name", "gpu0", (RTX3090, RTX3060), {}, obstacle="0000:0a:00 GA106"),
    Cards(
        "a name that two kinds bear",
        "rtx3060",
        (RTX3060, card(ONE, "2489", "GA104 [GeForce RTX 3060 Ti]")),
        {},
        obstacle="cannot be told",
    ),
    Cards("said", "gpu0", (RTX3090, RTX3060), {"gpu0": "0000:0a:00"}, slots={"gpu0": ("0a:00.0",)}),
    Cards(
        "said, and so the other",
        "aa bb",
        (RTX3090, RTX3060),
        {"aa": "0000:0a:00", "bb": ONE},
        slots={"aa": ("0000:0A:00",)},
    ),
    Cards(
        "a pool when asked for",
        "h100",
        (card(ONE, *H100), card(TWO, *H100)),
        {"h100": f"{ONE} {TWO}"},
        slots={"h100": (ONE, TWO)},
    ),
    Cards("said wrongly", "gpu0", (RTX3090,), {}, slots={"gpu0": ("07:00",)}, obstacle="no unmapped card at 07:00"),
    Cards("no card", "rtx3090", (SOUND, BMC), {}, obstacle="has no card without a mapping"),
    Cards("no IOMMU", "rtx3090", (card(ONE, group=-1),), {}, obstacle="shows no IOMMU group"),
    Cards("no answer", "rtx3090", None, {}, obstacle="does not answer"),
    Cards("mapped by hand", "rtx3090", (RTX3090,), {}, mappings={"rtx3090": mapping(ENTRY, ours=False)}),
    Cards(
        "a card of another mapping is taken",
        "gpu0",
        (card(ONE), card(TWO)),
        {"gpu0": TWO},
        mappings={"games": mapping(ENTRY, ours=False)},
    ),
    Cards(
        "mapped by hand and wrong",
        "rtx3090",
        (RTX3090,),
        {},
        mappings={"rtx3090": mapping(ENTRY, ours=False, problems=("'iommugroup' does not match",))},
        obstacle="is not of our making and does not fit pve1: 'iommugroup' does not match",
    ),
    Cards(
        "mapped by hand for another server",
        "rtx3090",
        (RTX3090,),
        {},
        mappings={"rtx3090": mapping(ENTRY.replace("pve1", "pve2"), ours=False)},
        obstacle="has no entry for pve1",
    ),
    Cards(
        "mapped by hand elsewhere",
        "rtx3090",
        (RTX3090, RTX3060),
        {},
        mappings={"rtx3090": mapping(ENTRY, ours=False)},
        slots={"rtx3090": ("0a:00",)},
        obstacle=f"holds {ONE} of pve1",
    ),
    Cards(
        "ours, and its group has moved",
        "gpu0",
        (card(ONE, group=99), card(TWO)),
        {"gpu0": ONE},
        mappings={"gpu0": mapping(ENTRY, problems=("'iommugroup' does not match",))},
    ),
    Cards(
        "ours, and told to be another",
        "gpu0",
        (card(ONE), card(TWO)),
        {"gpu0": TWO},
        mappings={"gpu0": mapping(ENTRY)},
        slots={"gpu0": (TWO,)},
    ),
    Cards(
        "a pool of as many cards as share it",
        "h100-1 h100-2",
        (card(ONE, *H100), card(TWO, *H100)),
        {"h100": f"{ONE} {TWO}"},
        pool="h100",
    ),
    Cards(
        "a pool that cannot be told whole",
        "h100-1 h100-2",
        (card(ONE, *H100), card(TWO, *H100), card(THREE, *H100)),
        {},
        pool="h100",
        obstacle="which card of pve1 it is cannot be told",
    ),
    Cards(
        "a pool made by hand",
        "aa bb",
        (card(ONE), card(TWO)),
        {},
        mappings={"cards": mapping(ENTRY, ENTRY.replace("0000:01", "0000:02"), ours=False)},
        pool="cards",
    ),
    Cards(
        "a pool made by hand that is too small",
        "aa bb",
        (card(ONE), card(TWO)),
        {},
        mappings={"cards": mapping(ENTRY, ours=False)},
        pool="cards",
        obstacle=f"holds {ONE} of pve1, for 2 GPU slots",
    ),
    Cards(
        "a pool of ours that grows",
        "aa bb",
        (card(ONE), card(TWO)),
        {"cards": f"{ONE} {TWO}"},
        mappings={"cards": mapping(ENTRY)},
        pool="cards",
    ),
    Cards(
        "a pool of ours whose groups have moved",
        "aa bb",
        (card(ONE, group=98), card(TWO, group=99), card(THREE)),
        {"cards": f"{ONE} {TWO}"},
        mappings={"cards": mapping(ENTRY, ENTRY.replace("0000:01", "0000:02"), problems=("moved",))},
        pool="cards",
    ),
    Cards(
        "ours, for another server too",
        "rtx3090",
        (RTX3090,),
        {"rtx3090": ONE},
        mappings={"rtx3090": mapping(ENTRY.replace("pve1", "pve2"))},
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_which_card_is_which_gpu(tmp_path: Path, row: Cards) -> None:
    each = f"{{mapping: {row.pool}, pool: true}}" if row.pool else ""
    gpus = ", ".join(f"{name}: {each or f'{{mapping: {name}}}'}" for name in row.gpus.split())
    text = FLEET.replace("      rtx3090: {mapping: rtx3090, vram: 24GiB}", f"      {{{gpus}}}").replace(
        "gpus: [rtx3090], ", ""
    )
    fleet = fleet_from(tmp_path, text)
    wanted = AccessWanted(
        fleet,
        next(iter(fleet.clusters.values())),
        gpu_slots={(PVE1, GpuName(name)): slots for name, slots in row.slots.items()},
    )
    seen = replace(
        BARE,
        devices={} if row.devices is None else {PVE1: row.devices},
        mappings={MappingId(name): each for name, each in row.mappings.items()},
    )
    plan = access_plan(seen, wanted)
    steps = [step for step in plan.steps if "PCI mapping" in step.name]
    made = after(seen, AccessPlan(wanted, tuple(steps)))
    slots = {
        name: " ".join(slot for each in found.entries if each.node == "pve1" for slot in each.slots)
        for name, found in made.mappings.items()
        if any(step.name.endswith(name) for step in steps)
    }
    assert slots == row.mapped
    found = [each.found for each in plan.obstacles]
    assert [text for text in found if row.obstacle in text] == found
    assert bool(found) == bool(row.obstacle)
    if row.devices is not None:
        again = access_plan(made, wanted)
        assert not [step for step in again.steps if "PCI mapping" in step.name]


def test_other_servers_entries_stay_in_a_mapping_that_is_changed(wanted: AccessWanted) -> None:
    elsewhere = ENTRY.replace("pve1", "pve2")
    seen = replace(BARE, mappings={MappingId("rtx3090"): mapping(elsewhere)})
    (step,) = [step for step in access_plan(seen, wanted).steps if "PCI" in step.name]
    assert step.method == "PUT"
    assert step.parameters["map"] == (elsewhere, ENTRY)
    assert step.changes == f"{elsewhere} -> {elsewhere} and {ENTRY}"


def test_a_card_that_offers_mediated_devices_needs_a_mapping_that_says_so(wanted: AccessWanted) -> None:
    seen = replace(BARE, devices={PVE1: (replace(RTX3090, has_mediated_types=True),)})
    (step,) = [step for step in access_plan(seen, wanted).steps if "PCI" in step.name]
    assert step.parameters["mdev"] == 1


def test_a_card_without_subsystem_ids_is_mapped_without_them(wanted: AccessWanted) -> None:
    seen = replace(BARE, devices={PVE1: (replace(RTX3090, subsystem=None),)})
    (step,) = [step for step in access_plan(seen, wanted).steps if "PCI" in step.name]
    assert step.parameters["map"] == ("node=pve1,path=0000:01:00,id=10de:2204,iommugroup=15",)
