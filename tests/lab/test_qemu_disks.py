"""Disks made, cloned and grown by the real qemu-img."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioner.lab.guests.base import GuestFailure
from provisioner.lab.guests.qemu.command_line import Boot
from provisioner.lab.guests.qemu.disks import Disks, backing_file, virtual_size
from provisioner.lab.images.store import sha256_of

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img here"),
]

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image file with something recognizable inside."""
    raw, image = tmp_path / "image.raw", tmp_path / "image.qcow2"
    raw.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"recognizable" * 1000)
    with raw.open("ab") as file:
        file.truncate(8 * MIB)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)], check=True, timeout=60)
    return image


@pytest.fixture
def cache(tmp_path: Path, image: Path) -> Path:
    """An image cache whose manifest knows a kernel for the image."""
    folder = tmp_path / "cache" / "guest-1"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(b"kernel")
    manifest = {"qcow2": "disk.qcow2", "sha256": sha256_of(image), "kernel": "vmlinuz", "cmdline": "root=/dev/x"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "cache"


def content(disk: Path, folder: Path) -> bytes:
    raw = folder / "content.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(disk), str(raw)], check=True, timeout=60)
    return raw.read_bytes()


def test_a_disk_lives_on_without_the_image_it_came_from(tmp_path: Path, image: Path) -> None:
    disks, disk = Disks(tmp_path / "bases", None), tmp_path / "vm.qcow2"
    expected = content(image, tmp_path)
    assert disks.create_from_image(disk, image) == 8 * MIB
    image.unlink()
    assert content(disk, tmp_path) == expected
    assert disk.stat().st_size < MIB


def test_many_disks_share_one_base(tmp_path: Path, image: Path) -> None:
    disks = Disks(tmp_path / "bases", None)
    for number in range(3):
        disks.create_from_image(tmp_path / f"{number}.qcow2", image)
    assert len(list((tmp_path / "bases").iterdir())) == 1


def test_the_kernel_is_found_through_the_disk_alone(tmp_path: Path, image: Path, cache: Path) -> None:
    disk, clone = tmp_path / "vm.qcow2", tmp_path / "clone.qcow2"
    Disks(tmp_path / "bases", cache).create_from_image(disk, image)
    shutil.rmtree(cache)
    later = Disks(tmp_path / "bases", None)
    later.clone(disk, clone)
    moved = disk.rename(tmp_path / "base.qcow2")
    for found in (later.boot_for(moved), later.boot_for(clone)):
        assert found.cmdline == "root=/dev/x"
        assert found.kernel is not None
        assert found.kernel.read_bytes() == b"kernel"


def test_an_image_nobody_knows_boots_by_firmware(tmp_path: Path, image: Path, cache: Path) -> None:
    other = tmp_path / "other.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(other), "1M"], check=True, timeout=60)
    disks, disk = Disks(tmp_path / "bases", cache), tmp_path / "vm.qcow2"
    disks.create_from_image(disk, other)
    assert disks.boot_for(disk) == Boot()
    assert disks.boot_for(None) == Boot()


def test_a_clone_goes_its_own_way(tmp_path: Path, image: Path) -> None:
    disks, disk, clone = Disks(tmp_path / "bases", None), tmp_path / "vm.qcow2", tmp_path / "clone.qcow2"
    disks.create_from_image(disk, image)
    disks.clone(disk, clone)
    subprocess.run(["qemu-io", "-c", "write -P 0x41 0 512", str(disk)], check=True, timeout=60, capture_output=True)
    assert content(disk, tmp_path)[:4] == b"AAAA"
    assert content(clone, tmp_path)[:4] == b"\0\0\0\0"


def test_a_disk_grows(tmp_path: Path, image: Path) -> None:
    disks, disk = Disks(tmp_path / "bases", None), tmp_path / "vm.qcow2"
    disks.create_from_image(disk, image)
    disks.resize(disk, 64 * MIB)
    assert virtual_size(disk) == 64 * MIB


def test_an_empty_disk_has_its_size_and_no_base(tmp_path: Path) -> None:
    disk = tmp_path / "vm.qcow2"
    assert Disks(tmp_path / "bases", None).create_empty(disk, 5 * MIB) == 5 * MIB
    assert virtual_size(disk) == 5 * MIB
    assert backing_file(disk) is None


def test_a_raw_image_will_do(tmp_path: Path, image: Path) -> None:
    disk = tmp_path / "vm.qcow2"
    assert Disks(tmp_path / "bases", None).create_from_image(disk, tmp_path / "image.raw") == 8 * MIB
    assert content(disk, tmp_path) == (tmp_path / "image.raw").read_bytes()


@pytest.mark.parametrize("text", [b"<html>404 not found</html>" * 100, b""])
def test_what_is_no_disk_is_refused_and_leaves_nothing(tmp_path: Path, text: bytes) -> None:
    page = tmp_path / "page.qcow2"
    page.write_bytes(text)
    with pytest.raises(GuestFailure, match="no disk image"):
        Disks(tmp_path / "bases", None).create_from_image(tmp_path / "vm.qcow2", page)
    assert not (tmp_path / "vm.qcow2").exists()
    assert not list((tmp_path / "bases").iterdir())


def test_a_damaged_image_is_refused(tmp_path: Path, image: Path) -> None:
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(GuestFailure):
        Disks(tmp_path / "bases", None).create_from_image(tmp_path / "vm.qcow2", image)


def test_an_image_that_reads_another_file_is_refused(tmp_path: Path, image: Path) -> None:
    sly = tmp_path / "sly.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(sly)], check=True, timeout=60
    )
    with pytest.raises(GuestFailure, match="refers to another file"):
        Disks(tmp_path / "bases", None).create_from_image(tmp_path / "vm.qcow2", sly)


def test_a_missing_image_is_a_failure_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(GuestFailure, match="cannot read image"):
        Disks(tmp_path / "bases", None).create_from_image(tmp_path / "vm.qcow2", tmp_path / "none.qcow2")
