"""Every trait of a VM changed by hand, one by one: shown with both values, and put right; on both flavours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from tests.lab.drifting import FLAVOURS, both_values, config, drift, drift_in_effect, names, step
from tests.lab.support import NODE, Site, site_for


@pytest.fixture(params=FLAVOURS, scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One lab for all rows: each leaves the node as the fleet file wants it."""
    folder = tmp_path_factory.mktemp("drift")
    with served_folder(folder) as images, RunningLab(folder / "lab", pve=request.param) as lab:
        yield site_for(lab, folder, images)


@dataclass(frozen=True)
class Row:
    """What root writes, what the plan calls it and shows of both values, and which options `up` puts right."""

    options: dict[str, str]
    trait: str
    seen: str
    wanted: str
    cold: bool = True


ROWS = [
    Row({"name": "renamed-by-hand"}, "name", "renamed-by-hand", NODE, cold=False),
    Row({"onboot": "1"}, "start at boot", "yes", "no", cold=False),
    Row({"protection": "1"}, "protection", "yes", "no", cold=False),
    Row({"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=7"}, "network card", "virtio BC:24:11:00:00:01 on vmbr0",
        "virtio BC:24:11:00:13:89 on vmbr0", cold=False),
    Row({"cores": "1"}, "cores", "1", "2"),
    Row({"sockets": "2"}, "cores", "2 sockets of 2", "2"),
    Row({"memory": "2048"}, "memory", "2GiB", "1GiB"),
    Row({"balloon": "512"}, "ballooning", "to 512", "no"),
    Row({"numa": "1"}, "numa", "yes", "no"),
    Row({"cpu": "x86-64-v2-AES"}, "cpu", "x86-64-v2-AES", "host"),
    Row({"bios": "seabios"}, "firmware", "seabios", "ovmf"),
    Row({"efidisk0": "local-lvm:1,efitype=4m,pre-enrolled-keys=1"}, "secure boot", "yes", "no"),
    Row({"hostpci0": "mapping=rtx3060,pcie=1"}, "gpus", "rtx3060", "rtx3090"),
    Row({"scsihw": "virtio-scsi-pci"}, "disk controller", "virtio-scsi-pci", "virtio-scsi-single"),
    Row({"vga": "std"}, "display", "std", "none"),
    Row({"boot": "order=net0;scsi0"}, "boot device", "net0", "scsi0"),
    Row({"ostype": "other"}, "os type", "other", "l26"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row.options))
def test_a_drift_is_shown_with_both_values_and_put_right(site: Site, row: Row) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    (drift_in_effect if row.cold else drift)(site, **row.options)
    plan = fleet.plan(NODE)
    assert both_values(plan) == {row.trait: (row.seen, row.wanted)}
    assert f"{row.trait} {row.seen} → {row.wanted}" in str(plan)
    assert step(plan, "change").needs_cold_start is row.cold
    assert ("restart" in names(plan)) is row.cold
    report = fleet.apply(plan)
    assert "change" in report.changed
    assert report.reply
    assert not fleet.plan(NODE).has_changes, str(fleet.plan(NODE))
    assert fleet.up(NODE).changed == ()
    after = config(site)
    assert after["tags"] == "provisioner"
    assert "tag=7" not in str(row.options) or "tag=7" in str(after["net0"])


def test_an_agent_that_somebody_turned_off_is_put_right(site: Site) -> None:
    # Simulated guests are looked into through the agent: without it nobody can say that nobody is there.
    fleet = site.fleet()
    fleet.up(NODE)
    site.lab.finish(site.lab.call("POST", "/nodes/pve1/qemu/5001/status/stop"))
    drift(site, agent="0")
    plan = fleet.plan(NODE)
    assert both_values(plan) == {"guest agent": ("no", "yes")}
    assert fleet.apply(plan).reply
    assert fleet.up(NODE).changed == ()
