"""Nodes that share a card on the embedded Proxmox: commands in processes of their own, killed and racing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from provisioner.domain.lease import GpuSlot, LeasePhase
from provisioner.domain.names import GpuName, HypervisorName
from provisioner.fleet import Fleet
from provisioner.lab.file_server import served_folder
from provisioner.lab.harness import RunningLab
from provisioner.services.fleet_view import NodeState
from tests.lab.support import NODE, Site, site_for
from tests.lab.test_killed import CHANGING, Ended, Victims

OTHER = "llm-gpu-02"
SLOT = GpuSlot(HypervisorName("pve1"), GpuName("rtx3090"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Two nodes with one card, both made, both asleep; who has the card may be asked for it at once."""
    with served_folder(tmp_path) as images, RunningLab(tmp_path / "lab", task_seconds=0.1) as lab:
        site = site_for(lab, tmp_path, images, nodes=2)
        fleet = site.fleet(sharing)
        for node in (NODE, OTHER):
            fleet.up(node)
            fleet.sleep(node)
        yield site


def sharing(text: str) -> str:
    text = text.replace("defaults:\n", "defaults:\n  min_residence: 0s\n")
    return re.sub(rf"({OTHER}: .*gpus: )\[[^]]*\]", r"\1[rtx3090]", text)


def states(fleet: Fleet) -> dict[str, NodeState]:
    return {str(each.node.name): each.state for each in fleet.status()}


def refusals(site: Site) -> list[str]:
    """What Proxmox had against starts."""
    tasks = site.lab.call("GET", "/nodes/pve1/tasks", typefilter="qmstart", limit=500)
    return [task["status"] for task in tasks if task.get("status", "OK") != "OK"]


def test_of_two_nodes_with_one_card_the_quiet_one_gives_way(site: Site) -> None:
    fleet = Fleet.load(site.fleet_file, settings=site.settings)
    fleet.wake(NODE)
    report = fleet.wake_report(OTHER)
    assert report.started
    assert states(fleet) == {NODE: NodeState.ASLEEP, OTHER: NodeState.SERVING}
    assert [each.claims for each in fleet.status([NODE])] == [f"rtx3090 is with {OTHER} (vm 5002)"]
    assert refusals(site) == []


def test_wakes_of_both_in_two_processes_end_one_after_the_other(site: Site) -> None:
    victims = Victims(site, CHANGING)

    def wake(number: int) -> Ended:
        return victims.run("wake", (NODE, OTHER)[number % 2], "--json", aside=f"-{number}")

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(wake, range(4)))
    assert [each.code for each in ended] == [0, 0, 0, 0], [each.words for each in ended]
    assert refusals(site) == []
    fleet = Fleet.load(site.fleet_file, settings=site.settings)
    assert sorted(states(fleet).values(), key=str) == [NodeState.ASLEEP, NodeState.SERVING]
    assert fleet.leases().waiters == ()


def test_a_wake_killed_after_any_request_is_continued_by_the_next(site: Site) -> None:
    victims = Victims(site, CHANGING | {"GET"})
    fleet = Fleet.load(site.fleet_file, settings=site.settings)
    killed = 0
    for when in victims.killed_after_each("wake", NODE, "--json"):
        killed += 1
        assert victims.run("wake", NODE, "--json").code == 0, when
        page = fleet.leases()
        assert (page.leases[SLOT].vmid, page.waiters) == (5001, ()), when
        fleet.sleep(NODE)
        # The next one is another story: after a sleep, a start of which nobody knows whether it has arrived is given
        # its 30 s, and this is not about those.
        for file in site.settings.state_folder.glob("provisioner.sqlite*"):
            file.unlink()
    assert killed >= 3
    assert refusals(site) == []


def test_a_hold_by_command_keeps_the_card_and_is_seen(site: Site) -> None:
    victims = Victims(site, CHANGING)
    fleet = Fleet.load(site.fleet_file, settings=site.settings)
    fleet.wake(NODE)
    assert victims.run("hold", NODE, "--for", "2h", "--by", "anna", "--json").code == 0
    refused = victims.run("wake", OTHER, "--json")
    assert refused.code == 1
    assert "cannot start it: anna holds llm-gpu-01 for another" in refused.words
    (status,) = fleet.status([NODE])
    assert status.claims.startswith("it is held by anna for another")
    assert victims.run("release", NODE, "--by", "anna").code == 0
    assert fleet.wake_report(OTHER).started
    assert fleet.leases().leases[SLOT].phase is LeasePhase.HELD
