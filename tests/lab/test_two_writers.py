"""Two machines that make the same node at the same moment, with nothing in common but the cluster.

The simulated guest has the host key of the seed that it booted with, and whoever logs in expects the one of the notes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provisioner.domain.cloud_init import CloudInit
from provisioner.errors import HostKeyError, HypervisorError
from provisioner.fleet import Fleet
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.services.events import Event, Phase
from tests.lab.cloned import four, native
from tests.lab.support import NODE, Site, site_for

WAIT_SECONDS = 30
VMID = 5001


@pytest.fixture(params=[0.0, 0.2], ids=["tasks are over at once", "tasks take their time"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", task_seconds=request.param) as lab:
        yield site_for(lab, tmp_path, images)


def another_machine(site: Site) -> Fleet:
    """The same fleet file with a state folder of its own, so that no lock on this machine keeps the two apart."""
    return Fleet.load(site.fleet_file, settings=replace(site.settings, state_folder=site.folder / "client-2"))


def up_together(first: Fleet, second: Fleet, node: str, step: str) -> None:
    """Bring a node up from both; each begins the named step only when both have come to it."""
    both = threading.Barrier(2, timeout=WAIT_SECONDS)

    def up(fleet: Fleet) -> None:
        come = threading.Event()

        def meet(event: Event) -> None:
            if event.step == step and event.phase is Phase.STARTED and not come.is_set():
                come.set()
                both.wait()

        try:
            fleet.up(node, on_event=meet)
        except HypervisorError as error:
            # Whoever comes second to a later write is told to run the same command again.
            if not error.retryable:
                raise
            fleet.up(node)

    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(up, fleet) for fleet in (first, second)]:
            run.result(2 * WAIT_SECONDS)


def isos(site: Site) -> list[str]:
    return sorted(
        entry["volid"]
        for entry in site.lab.call("GET", "/nodes/pve1/storage/local/content")
        if entry["content"] == "iso"
    )


def config(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = site.lab.call("GET", f"/nodes/pve1/qemu/{VMID}/config")
    return found


def test_the_guest_boots_with_the_key_of_whoever_made_the_vm(site: Site) -> None:
    first = site.fleet()
    up_together(first, another_machine(site), NODE, "create")
    named = config(site)["ide2"].split(",")[0]
    # Whoever came second has taken its own seed away again.
    assert isos(site) == [named]
    assert re.fullmatch(rf"local:iso/{NODE}-{VMID}-[0-9a-f]{{12}}-seed\.iso", named)
    assert first.up(NODE).changed == ()
    assert first.destroy(NODE) == (f"vm {VMID} and its disks", f"seed {named}")
    assert isos(site) == []


@pytest.mark.parametrize("drive", [CloudInit.SEED, CloudInit.PROXMOX])
def test_the_same_holds_for_a_clone(site: Site, drive: CloudInit) -> None:
    first = four(site) if drive is CloudInit.SEED else native(four(site), site)
    up_together(first, another_machine(site), "node-1", "clone")
    named = config(site)["ide2"].split(",")[0]
    assert isos(site) == ([named] if drive is CloudInit.SEED else [])
    assert first.up("node-1").changed == ()


def test_a_simulated_guest_shows_the_key_of_the_seed_that_it_booted_with(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    notes = config(site)["description"]
    other = re.sub(r"(ssh-host-key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI).*", r"\1" + "A" * 43, notes)
    assert other != notes
    site.lab.call("PUT", f"/nodes/pve1/qemu/{VMID}/config", description=other)
    with pytest.raises(HostKeyError):
        fleet.up(NODE)


def test_a_node_made_with_a_seed_of_the_old_name_keeps_it(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    fleet.sleep(NODE)
    named = config(site)["ide2"].split(",")[0]
    (seed,) = site.folder.rglob(named.rpartition("/")[2])
    seed.rename(seed.with_name(f"{NODE}-{VMID}-seed.iso"))
    site.lab.call("PUT", f"/nodes/pve1/qemu/{VMID}/config", ide2=f"local:iso/{NODE}-{VMID}-seed.iso,media=cdrom")
    assert fleet.up(NODE).changed == ("start",)
    fleet.sleep(NODE)
    seed.with_name(f"{NODE}-{VMID}-seed.iso").unlink()
    assert fleet.up(NODE).changed == ("seal seed", "start")
    assert isos(site) == [f"local:iso/{NODE}-{VMID}-seed.iso"]
    assert fleet.destroy(NODE)[1:] == (f"seed local:iso/{NODE}-{VMID}-seed.iso",)


def test_a_disk_that_another_cluster_keeps_under_the_same_vmid_is_left_alone(site: Site) -> None:
    fleet = site.fleet()
    fleet.up(NODE)
    volume = {"vmid": str(VMID), "filename": f"vm-{VMID}-disk-7", "size": "1G"}
    theirs = site.lab.call("POST", "/nodes/pve1/storage/local-lvm/content", **volume)
    fleet.destroy(NODE)
    assert [disk["volid"] for disk in site.lab.call("GET", "/nodes/pve1/storage/local-lvm/content")] == [theirs]


def test_a_run_that_was_killed_with_its_seed_uploaded_leaves_nothing_for_long(site: Site) -> None:
    class Killed(BaseException):
        """As by a signal."""

    def die(event: Event) -> None:
        if event.step == "create":
            raise Killed

    fleet = site.fleet()
    for _ in range(2):
        with pytest.raises(Killed):
            fleet.up(NODE, on_event=die)
    assert len(isos(site)) == 2
    another_machine(site).up(NODE)
    assert isos(site) == [config(site)["ide2"].split(",")[0]]
    fleet.destroy(NODE)
    with pytest.raises(Killed):
        fleet.up(NODE, on_event=die)
    (left,) = isos(site)
    assert fleet.destroy(NODE) == (f"seed {left}",)
