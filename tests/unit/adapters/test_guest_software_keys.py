"""What a fleet file may say of a guest's drivers, of who reaches it, and of how it mends itself."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import NodeName
from provisioner.planning.gpu.driver import wish_of
from tests.fleets import FLEET, fleet_from

NAME = NodeName("llm-gpu-01")


def with_driver(folder: Path, text: str) -> FleetSpec:
    return fleet_from(folder, FLEET.replace("vram: 24GiB}", f"vram: 24GiB, driver: {text}}}"))


def test_a_guest_lets_in_its_own_network_mends_itself_and_gets_no_toolkit(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    software = fleet.nodes[NAME].software
    assert software.allowed_networks == (IPv4Network("10.10.0.0/16"),)
    assert (software.upgrades_itself, software.cuda_toolkit) == (True, None)
    assert [gpu.driver for gpu in fleet.gpus_of(fleet.nodes[NAME])] == ["auto"]


def test_a_node_overrides_the_defaults(tmp_path: Path) -> None:
    text = FLEET.replace(
        "  idle_after: 20m", "  idle_after: 20m\n  allowed_networks: [10.0.0.0/8]\n  unattended_upgrades: false"
    ).replace(
        "modes: [small], gateway", "modes: [small], cuda_toolkit: 12-9, allowed_networks: [192.168.1.0/24], gateway"
    )
    fleet = fleet_from(tmp_path, text)
    own, other = fleet.nodes[NAME].software, fleet.nodes[NodeName("llm-gpu-02")].software
    assert own.allowed_networks == (IPv4Network("192.168.1.0/24"),)
    assert (own.cuda_toolkit, own.upgrades_itself) == ("12-9", False)
    assert other.allowed_networks == (IPv4Network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    "text", ["auto", "none", "rocm", "580-server", "580-server-open", "595-open", "580-server-dkms"]
)
def test_a_driver_may_be_named(tmp_path: Path, text: str) -> None:
    fleet = with_driver(tmp_path, text)
    assert [gpu.driver for gpu in fleet.gpus_of(fleet.nodes[NAME])] == [text]
    wish_of(fleet, fleet.nodes[NAME])


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("vram: 24GiB}", "vram: 24GiB, driver: latest}", "580-server-open"),
        ("vram: 24GiB}", "vram: 24GiB, driver: nvidia-driver-580}", "auto, none, rocm"),
        ("  idle_after: 20m", "  idle_after: 20m\n  allowed_networks: [10.10.0.0]", "prefix length"),
        ("  idle_after: 20m", "  idle_after: 20m\n  allowed_networks: [10.10.0.1/16]", "host bits"),
        ("  idle_after: 20m", "  idle_after: 20m\n  allowed_networks: everyone", "list"),
        ("  idle_after: 20m", "  idle_after: 20m\n  cuda_toolkit: '12.9'", "12-9"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(tmp_path: Path, old: str, new: str, allowed: str) -> None:
    with pytest.raises(FleetFileError) as caught:
        fleet_from(tmp_path, FLEET.replace(old, new))
    assert allowed in str(caught.value)


def test_an_empty_list_of_networks_is_refused_because_nobody_could_log_in(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError):
        fleet_from(tmp_path, FLEET.replace("  idle_after: 20m", "  idle_after: 20m\n  allowed_networks: []"))
