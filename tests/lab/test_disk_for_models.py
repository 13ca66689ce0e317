"""A disk for models on the embedded Proxmox: made with the node, added to one that runs, grown, and gone with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from provisioner.errors import RefusedError
from tests.lab.support import NODE, Site


def wanting(size: str, before: str = "") -> Callable[[str], str]:
    old = f"  model_disk: {before}\n" if before else ""
    return lambda text: text.replace(f"  disk: 3GiB\n{old}", f"  disk: 3GiB\n  model_disk: {size}\n")


def scsi1(site: Site) -> str | None:
    found = site.lab.call("GET", "/nodes/pve1/qemu/5001/config").get("scsi1")
    return None if found is None else str(found)


def volumes(site: Site) -> set[str]:
    rows = site.lab.call("GET", "/nodes/pve1/storage/local-lvm/content", content="images")
    return {str(row["volid"]) for row in rows if int(row["vmid"]) == 5001}


def test_it_is_made_with_the_node_grows_in_place_and_is_destroyed_with_it(site: Site) -> None:
    fleet = site.fleet(wanting("10GiB"))
    plan = fleet.plan(NODE)
    assert "model disk: 10GiB on local-lvm; the guest gets it at /var/lib/llm" in str(plan)
    fleet.up(NODE)
    first = scsi1(site)
    assert first is not None
    volume, *settings = first.split(",")
    assert {"discard=on", "iothread=1", "serial=llm-models", "size=10G"} <= set(settings)
    assert volume in volumes(site)
    assert fleet.up(NODE).changed == ()
    larger = site.fleet(wanting("20GiB", "10GiB"))
    assert "grow model disk: the model disk has 10GiB, wanted are 20GiB" in str(larger.plan(NODE))
    larger.up(NODE)
    assert scsi1(site) == first.replace("size=10G", "size=20G")
    with pytest.raises(RefusedError, match="the model disk has 20GiB, wanted are 15GiB: disks only grow"):
        site.fleet(wanting("15GiB", "20GiB")).up(NODE)
    larger.destroy(NODE)
    assert volumes(site) == set()


def test_a_node_that_runs_gets_it_without_a_restart_and_keeps_it(site: Site) -> None:
    site.fleet().up(NODE)
    since = site.lab.call("GET", "/nodes/pve1/qemu/5001/status/current")["uptime"]
    fleet = site.fleet(wanting("10GiB"))
    assert "model disk" in fleet.up(NODE).changed
    assert site.lab.call("GET", "/nodes/pve1/qemu/5001/status/current")["uptime"] >= since
    # Whoever writes it out of the fleet file does not lose what it holds.
    without = site.fleet(lambda text: text.replace("  model_disk: 10GiB\n", ""))
    assert without.up(NODE).changed == ()
    assert scsi1(site) is not None
