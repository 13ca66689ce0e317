"""A person's user-data beside ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from provisioner.adapters.cloud_init.extra import OURS, read_extra
from provisioner.adapters.cloud_init.seeds import CloudInitSeeds, new_key_pair
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.errors import InputError
from tests.fleets import FLEET, fleet_from

EXTRA = """\
#cloud-config
packages: [htop, qemu-guest-agent]
package_update: false
write_files:
  - {path: /etc/motd, content: "Grüße\\n"}
runcmd:
  - [touch, /etc/mine]
"""


def extra(folder: Path, text: str) -> Path:
    path = folder / "extra.yml"
    path.write_text(text)
    return path


def merged(fleet: FleetSpec, node: NodeSpec, folder: Path) -> dict[str, object]:
    seeds = CloudInitSeeds(lambda: ("ssh-ed25519 AAAALogin",))
    key = new_key_pair()
    text = seeds.documents(fleet, replace(node, extra_user_data=extra(folder, EXTRA)), key.public, key)["user-data"]
    assert text.startswith("#cloud-config\n")
    return dict(yaml.safe_load(text))


def test_lists_are_joined_ours_first_without_doubles(fleet: FleetSpec, node: NodeSpec, tmp_path: Path) -> None:
    document = merged(fleet, node, tmp_path)
    assert document["packages"] == ["qemu-guest-agent", "htop"]
    assert document["runcmd"] == [
        ["systemctl", "start", "--no-block", "qemu-guest-agent.service"],
        ["touch", "/etc/mine"],
    ]


def test_what_keeps_the_guest_reachable_stays(fleet: FleetSpec, node: NodeSpec, tmp_path: Path) -> None:
    document = merged(fleet, node, tmp_path)
    assert document["hostname"] == "llm-gpu-01"
    assert document["ssh_pwauth"] is False
    assert set(document["ssh_keys"]) == {"ed25519_private", "ed25519_public"}  # type: ignore[call-overload]


def test_a_scalar_of_comfort_is_theirs(fleet: FleetSpec, node: NodeSpec, tmp_path: Path) -> None:
    document = merged(fleet, node, tmp_path)
    assert document["package_update"] is False
    assert document["write_files"] == [{"path": "/etc/motd", "content": "Grüße\n"}]


def test_nothing_of_it_is_left_once_the_first_boot_is_over(fleet: FleetSpec, node: NodeSpec, tmp_path: Path) -> None:
    """People join their networks there, and hand over keys for that; the file itself may be gone by then."""
    path = extra(tmp_path, "#cloud-config\nruncmd:\n  - [tailscale, up, --authkey, tskey-auth-secret]\n")
    seeds, key = CloudInitSeeds(lambda: ("ssh-ed25519 AAAALogin",)), new_key_pair()
    theirs = replace(node, extra_user_data=path)
    assert b"tskey-auth-secret" in seeds.seed(fleet, theirs, key)
    path.unlink()
    assert b"tskey-auth-secret" not in seeds.sealed_seed(fleet, theirs, key.public)


@pytest.mark.parametrize("key", sorted(OURS))
def test_a_key_of_ours_is_refused_by_name(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f'the key "{key}" is ours'):
        read_extra(extra(tmp_path, f"#cloud-config\n{key}: whatever\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho hello\n", "it is no cloud-config"),
        ("packages: [htop]\n", "the first line must be #cloud-config"),
        ("#cloud-config\n- a list\n", "it is no cloud-config"),
        ("#cloud-config\npackages: [htop\n", "broken YAML in line 3"),
        ("", "it is no cloud-config"),
    ],
)
def test_what_is_no_cloud_config_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_extra(extra(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        read_extra(tmp_path / "none.yml")


def test_the_path_is_taken_from_the_fleet_files_folder(tmp_path: Path) -> None:
    text = FLEET.replace("  idle_after: 20m\n", "  idle_after: 20m\n  extra_user_data: all.yml\n")
    text = text.replace("llm-gpu-01: {", "llm-gpu-01: {extra_user_data: one.yml, ")
    nodes = list(fleet_from(tmp_path, text).nodes.values())
    assert [node.extra_user_data for node in nodes] == [tmp_path / "one.yml", tmp_path / "all.yml"]
