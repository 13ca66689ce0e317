"""How a root filesystem comes to fill its disk: every row is what lsblk shows and what is run."""

from __future__ import annotations

import json

import pytest

from provisioner.domain.quantities import GIB, MIB
from provisioner.planning.guest_disk import filling, filling_models


def device(
    name: str, kind: str, size: int, parent: str | None = None, mount: str | None = None, fs: str | None = None
) -> dict[str, object]:
    return {"name": name, "pkname": parent, "type": kind, "fstype": fs, "mountpoint": mount, "size": size}


def ubuntu(disk: int, root: int, fs: str = "ext4", name: str = "sda", part: str = "") -> list[dict[str, object]]:
    """An Ubuntu cloud image's partitions: the root is the last one on the disk."""
    return [
        device("sr0", "rom", 376 << 10),
        device(name, "disk", disk),
        device(f"{name}{part}1", "part", root, name, "/", fs),
        device(f"{name}{part}14", "part", 4 * MIB, name),
        device(f"{name}{part}15", "part", 106 * MIB, name, "/boot/efi", "vfat"),
        device(f"{name}{part}16", "part", 913 * MIB, name, "/boot", "ext4"),
    ]


FULL = 200 * GIB - (4 + 106 + 913 + 1) * MIB
ROWS = [
    (ubuntu(200 * GIB, FULL), ["resize2fs /dev/sda1"]),
    (ubuntu(300 * GIB, FULL), ["growpart /dev/sda 1", "resize2fs /dev/sda1"]),
    (ubuntu(300 * GIB, FULL, "xfs"), ["growpart /dev/sda 1", "xfs_growfs /"]),
    (ubuntu(300 * GIB, FULL, "btrfs"), ["growpart /dev/sda 1", "btrfs filesystem resize max /"]),
    (ubuntu(300 * GIB, FULL, name="nvme0n1", part="p"), ["growpart /dev/nvme0n1 1", "resize2fs /dev/nvme0n1p1"]),
    ([device("vda", "disk", 5 * GIB, None, "/", "ext4")], ["resize2fs /dev/vda"]),
]


@pytest.mark.parametrize(("devices", "commands"), ROWS, ids=[str(row[1]) for row in ROWS])
def test_partition_then_filesystem_where_there_is_room(devices: list[dict[str, object]], commands: list[str]) -> None:
    found = filling(json.dumps({"blockdevices": devices}))
    assert [" ".join(command.words) for command in found.commands] == commands
    assert found.why_not == ""


MODELS = [*ubuntu(200 * GIB, FULL), device("sdb", "disk", 600 * GIB, None, "/var/lib/llm", "ext4")]
MODEL_ROWS = [
    (MODELS, ["resize2fs /dev/sdb"]),
    ([device("sdb", "disk", 600 * GIB, None, "/var/lib/llm", "xfs")], ["xfs_growfs /var/lib/llm"]),
    (ubuntu(200 * GIB, FULL), []),
    ([device("sdb", "disk", 600 * GIB)], []),
]


@pytest.mark.parametrize(("devices", "commands"), MODEL_ROWS, ids=[str(row[1]) for row in MODEL_ROWS])
def test_the_disk_of_the_models_is_filled_where_it_is_mounted(
    devices: list[dict[str, object]], commands: list[str]
) -> None:
    found = filling_models(json.dumps({"blockdevices": devices}))
    assert [" ".join(command.words) for command in found.commands] == commands


LVM = [
    device("sda", "disk", 300 * GIB),
    device("sda3", "part", 200 * GIB, "sda", None, "LVM2_member"),
    device("ubuntu--vg-root", "lvm", 200 * GIB, "sda3", "/", "ext4"),
]
LEFT = [
    (json.dumps({"blockdevices": LVM}), "not on a plain partition"),
    (json.dumps({"blockdevices": ubuntu(300 * GIB, FULL, "zfs_member")}), "which we do not know how to grow"),
    (json.dumps({"blockdevices": [device("sda", "disk", GIB)]}), "no block device holds the root"),
    ("lsblk: invalid option", "something else than expected"),
    ("[]", "something else than expected"),
]


@pytest.mark.parametrize(("answer", "why"), LEFT, ids=[row[1] for row in LEFT])
def test_what_is_not_understood_is_left_alone_and_said(answer: str, why: str) -> None:
    found = filling(answer)
    assert found.commands == ()
    assert why in found.why_not
