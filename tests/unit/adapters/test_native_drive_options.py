"""Proxmox's own cloud-init drive: what a VM is told, how it is read back, and what the fleet file may not say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.adapters.proxmox.native_drive import READ_NATIVE
from provisioner.adapters.proxmox.vm_config import create_parameters
from provisioner.adapters.proxmox.vm_traits import change_settings, is_as_asked, traits_of
from provisioner.domain.actions import VmChange
from provisioner.domain.cloud_init import CloudInit, NativeDrive
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import NodeName
from provisioner.domain.vm_traits import Trait, VmShape, wanted_traits
from provisioner.planning.vm_shape import vm_shape
from tests.fleets import FLEET, NATIVE, fleet_from

KEYS = ("ssh-ed25519 AAAA+/== me@here", "ssh-ed25519 BBBB you@there")


def shape_of(fleet: FleetSpec) -> VmShape:
    shape = vm_shape(fleet, fleet.nodes[NodeName("llm-gpu-01")])
    assert shape.cloud_init is not None
    return replace(shape, cloud_init=replace(shape.cloud_init, authorized_keys=KEYS))


def test_a_new_vm_is_told_everything_that_proxmox_would_else_make_up(tmp_path: Path) -> None:
    told = create_parameters(shape_of(fleet_from(tmp_path, NATIVE)), "notes")
    keys = str(told.pop("sshkeys"))
    # What Proxmox takes for percent-encoded; a plus or slash left as it is would be refused.
    assert set(keys) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()%")
    assert unquote(keys).splitlines() == list(KEYS)
    assert {key: told[key] for key in told if key.startswith(("ide2", "ci", "ip", "nameserver", "search"))} == {
        "ide2": "local-lvm:cloudinit",
        "ciuser": "provisioner",
        "ipconfig0": "ip=10.10.90.1/16,gw=10.10.0.1",
        "nameserver": "10.10.0.1",
        "searchdomain": "internal",
        "ciupgrade": 0,
    }


def test_a_new_vm_reads_back_as_what_was_wanted(tmp_path: Path) -> None:
    shape = shape_of(fleet_from(tmp_path, NATIVE))
    seen = traits_of(create_parameters(shape, "notes"))
    assert {trait: seen[trait] for trait in READ_NATIVE} == {
        trait: value for trait, value in wanted_traits(shape).items() if trait in READ_NATIVE
    }


def test_a_seeded_vm_is_told_nothing_of_it(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    shape = vm_shape(fleet, fleet.nodes[NodeName("llm-gpu-01")])
    told = create_parameters(shape, "notes")
    assert told["ide2"] == "local:iso/llm-gpu-01-5001-seed.iso,media=cdrom"
    assert not [key for key in told if key.startswith(("ci", "ipconfig", "sshkeys", "nameserver"))]
    assert not set(wanted_traits(shape)) & set(READ_NATIVE)
    assert change_settings({}, VmChange(shape, frozenset(READ_NATIVE))) == ({}, ())


@pytest.mark.parametrize(
    ("trait", "ways", "said"),
    [
        (Trait.CLOUD_INIT, ["local-lvm:cloudinit", "local-lvm:vm-5001-cloudinit,media=cdrom,size=4M",
                            "dir:5001/vm-5001-cloudinit.qcow2,media=cdrom"], "Proxmox's own"),
        (Trait.CLOUD_INIT, ["local:iso/a-seed.iso,media=cdrom"], "seed ISO"),
        (Trait.CLOUD_INIT, ["none,media=cdrom", None], "none"),
        (Trait.CLOUD_INIT_ADDRESS, ["gw=10.10.0.1,ip=10.10.90.1/16", "ip=10.10.90.1/16,gw=10.10.0.1"],
         "10.10.90.1/16 via 10.10.0.1"),
        (Trait.CLOUD_INIT_ADDRESS, ["ip=dhcp"], "dhcp"),
        (Trait.CLOUD_INIT_ADDRESS, [None], "none"),
        (Trait.CLOUD_INIT_DNS, ["1.1.1.1 9.9.9.9", "1.1.1.1,9.9.9.9"], "1.1.1.1, 9.9.9.9"),
        (Trait.CLOUD_INIT_UPGRADE, [None, "1", 1], "yes"),
        (Trait.CLOUD_INIT_UPGRADE, ["0", 0], "no"),
    ],
)  # fmt: skip
def test_one_value_has_many_spellings(trait: Trait, ways: list[object], said: str) -> None:
    key = {"CLOUD_INIT": "ide2", "CLOUD_INIT_ADDRESS": "ipconfig0", "CLOUD_INIT_DNS": "nameserver"}.get(
        trait.name, "ciupgrade"
    )
    for way in ways:
        assert traits_of({} if way is None else {key: way})[trait] == said, way


def test_a_drift_is_written_and_nothing_else(tmp_path: Path) -> None:
    shape = shape_of(fleet_from(tmp_path, NATIVE))
    options = create_parameters(shape, "notes") | {"ipconfig0": "ip=10.10.90.9/16", "nameserver": "9.9.9.9"}
    change = VmChange(shape, frozenset({Trait.CLOUD_INIT_ADDRESS}))
    settings, deleted = change_settings(options, change)
    assert (settings, deleted) == ({"ipconfig0": "ip=10.10.90.1/16,gw=10.10.0.1"}, ())
    assert not is_as_asked(options, change)
    assert is_as_asked(options | settings, change)


def test_the_default_is_a_seed_and_a_node_may_differ(tmp_path: Path) -> None:
    one = FLEET.replace("modes: [small]}", "modes: [small], cloud_init: proxmox, nameservers: [10.10.0.1]}")
    nodes = fleet_from(tmp_path, one).nodes
    assert [node.cloud_init for node in nodes.values()] == [CloudInit.SEED, CloudInit.PROXMOX]
    drive = vm_shape(fleet_from(tmp_path, one), nodes[NodeName("llm-gpu-02")]).cloud_init
    assert isinstance(drive, NativeDrive)
    assert drive.gateway is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (NATIVE.replace("  cloud_init", "  extra_user_data: mine.yml\n  cloud_init"), "together with extra_user_data"),
        (NATIVE.replace("  nameservers: [10.10.0.1]\n", ""), "without nameservers"),
        (NATIVE.replace("cloud_init: proxmox", "cloud_init: native"), '"native"'),
        (FLEET.replace("modes: [small]}", "modes: [small], adopt: true, cloud_init: proxmox}"), "an adopted node"),
    ],
)
def test_what_cannot_be_is_refused_at_load(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(FleetFileError, match=found):
        fleet_from(tmp_path, text)


def test_extra_user_data_is_refused_with_the_reason(tmp_path: Path) -> None:
    text = NATIVE.replace("  cloud_init", "  extra_user_data: mine.yml\n  cloud_init")
    with pytest.raises(FleetFileError, match="takes no upload of snippets"):
        fleet_from(tmp_path, text)
