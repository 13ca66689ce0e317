"""What a fleet file may say of where models are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.domain.model_keeping import ModelKeeping
from provisioner.domain.names import ClusterName, NodeName, StorageName
from provisioner.domain.quantities import GIB
from provisioner.planning.access.calls import Place
from provisioner.planning.access.rights import paths_of
from tests.fleets import FLEET, fleet_from

FIRST, SECOND = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")


def with_defaults(lines: str, own: str = "") -> str:
    text = FLEET.replace(
        "  idle_after: 20m", "  idle_after: 20m" + "".join(f"\n  {line}" for line in lines.split("; "))
    )
    return text.replace("modes: [small], gateway", f"modes: [small], {own} gateway") if own else text


def test_models_stay_on_the_boot_disk_unless_a_disk_is_asked_for(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    assert fleet.nodes[FIRST].models == ModelKeeping()
    assert fleet.model_storage(fleet.nodes[FIRST]) is None
    assert fleet.disk_storages(ClusterName("homelab")) == (StorageName("local-lvm"),)


def test_a_node_overrides_the_defaults(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, with_defaults("model_disk: 500GiB; model_storage: tank", "model_disk: 2TiB,"))
    assert fleet.nodes[FIRST].models == ModelKeeping(2048 * GIB, StorageName("tank"))
    assert fleet.nodes[SECOND].models == ModelKeeping(500 * GIB, StorageName("tank"))
    cluster = fleet.clusters[ClusterName("homelab")]
    assert fleet.disk_storages(cluster.name) == (StorageName("local-lvm"), StorageName("tank"))
    # The token gets what it needs for each of them.
    assert [path for path, _ in paths_of(Place.DISKS, fleet, cluster)] == ["/storage/local-lvm", "/storage/tank"]


def test_models_may_have_a_budget_with_or_without_a_disk(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, with_defaults("model_budget: 100GiB", "model_disk: 2TiB, model_budget: 1TiB,"))
    assert fleet.nodes[FIRST].models == ModelKeeping(2048 * GIB, None, 1024 * GIB)
    assert fleet.nodes[SECOND].models == ModelKeeping(None, None, 100 * GIB)


def test_the_storage_of_the_boot_disks_holds_it_unless_another_is_named(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, with_defaults("model_disk: 500GiB"))
    assert fleet.model_storage(fleet.nodes[FIRST]) == "local-lvm"


@pytest.mark.parametrize(
    ("defaults", "own", "place", "allowed"),
    [
        ("model_disk: 500", "", "defaults.model_disk", "a size with its unit"),
        ("model_disk: 1536MiB", "", "defaults.model_disk", "whole GiB"),
        ("min_uptime: 60s", "model_storage: tank,", "nodes.llm-gpu-01.model_storage", "model_disk: SIZE beside it"),
        ("min_uptime: 60s", "model_disk: 1GiB, model_storage: '9',", "nodes.llm-gpu-01.model_storage", "storage id"),
        ("model_budget: 201GiB", "", "nodes.llm-gpu-01.model_budget", "at most what disk has"),
        ("model_disk: 1GiB; model_budget: 2GiB", "", "nodes.llm-gpu-01.model_budget", "at most what model_disk has"),
        ("model_budget: all", "", "defaults.model_budget", "512MiB"),
        ("min_uptime: 60s", "adopt: true, model_budget: 1GiB,", "nodes.llm-gpu-01.model_budget", "an adopted VM"),
        ("min_uptime: 60s", "adopt: true, model_disk: 1GiB,", "nodes.llm-gpu-01.model_disk", "an adopted VM"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(
    tmp_path: Path, defaults: str, own: str, place: str, allowed: str
) -> None:
    with pytest.raises(FleetFileError) as found:
        fleet_from(tmp_path, with_defaults(defaults, own))
    assert f"{place}: found" in str(found.value)
    assert allowed in str(found.value)
