"""Makes, clones and grows guests' disks.

A disk made from an image is an overlay on a private, read-only copy of that
image, kept under its checksum; so a hundred nodes cost one copy, and the image
they came from may be deleted. The overlay names its base, and the base's name is
the checksum that leads to the kernel: no notes beside the disk are needed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
import subprocess
from pathlib import Path

from provisioner.lab.guests.base import GuestFailure
from provisioner.lab.guests.qemu.command_line import Boot
from provisioner.lab.images.guest_image import manifests
from provisioner.lab.images.store import sha256_of

_TOOL_SECONDS = 300
_QCOW2_HEADER = struct.Struct(">4sIQI")
_QCOW2_MAGIC = b"QFI\xfb"
_BOOT_SIGNATURE = b"\x55\xaa"
_EXT_MAGIC = b"\x53\xef"


class Disks:
    """The disks of all guests of one lab. Every method blocks; call it off the event loop."""

    def __init__(self, bases: Path, boot_dir: Path | None) -> None:
        self._bases = bases
        self._boot_dir = boot_dir
        self._checksums: dict[tuple[int, int, int, int], str] = {}

    def create_empty(self, path: Path, size_bytes: int) -> int:
        """Make an empty disk."""
        _qemu_img("create", "-q", "-f", "qcow2", str(path), str(size_bytes))
        return size_bytes

    def create_from_image(self, path: Path, source: Path) -> int:
        """Make a disk from an image file and return its virtual size."""
        base = self._base_for(source)
        _qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base.resolve()), str(path))
        return virtual_size(path)

    def clone(self, source: Path, target: Path) -> None:
        """Copy a disk; an overlay stays an overlay on the same base, which never changes."""
        with _becoming(target) as growing:
            _run("cp", "--sparse=always", "--reflink=auto", str(source), str(growing.path))

    def resize(self, path: Path, size_bytes: int) -> None:
        """Grow a disk that no guest holds open."""
        _qemu_img("resize", "-q", "-f", "qcow2", str(path), str(size_bytes))

    def boot_for(self, disk: Path | None) -> Boot:
        """Return the kernel that belongs to the image a disk came from, or firmware when it has none."""
        base = backing_file(disk) if disk is not None else None
        if base is None:
            return Boot()
        kernel = base.with_suffix(".vmlinuz")
        try:
            return Boot(kernel=kernel, cmdline=base.with_suffix(".cmdline").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Boot()

    def _base_for(self, source: Path) -> Path:
        checksum = self._checksum(source)
        base = self._bases / f"{checksum}.qcow2"
        if base.exists():
            return base
        self._bases.mkdir(parents=True, exist_ok=True)
        kind = _image_format(source)
        # The kernel first: a base that exists is a base that can be booted.
        self._keep_kernel(base, checksum)
        with _becoming(base) as growing:
            if kind == "qcow2":
                shutil.copyfile(source, growing.path)
            else:
                _qemu_img("convert", "-q", "-f", kind, "-O", "qcow2", str(source), str(growing.path))
            growing.path.chmod(0o444)
        return base

    def _keep_kernel(self, base: Path, checksum: str) -> None:
        for image in manifests(self._boot_dir) if self._boot_dir is not None else ():
            if image.sha256 == checksum:
                with _becoming(base.with_suffix(".vmlinuz")) as growing:
                    shutil.copyfile(image.kernel, growing.path)
                with _becoming(base.with_suffix(".cmdline")) as growing:
                    growing.path.write_text(image.cmdline, encoding="utf-8")
                return

    def _checksum(self, source: Path) -> str:
        try:
            stat = source.stat()
            identity = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if identity not in self._checksums:
                self._checksums[identity] = sha256_of(source)
        except OSError as error:
            raise GuestFailure(f"cannot read image {source.name}: {error.strerror or error}") from error
        return self._checksums[identity]


def backing_file(disk: Path) -> Path | None:
    """Return the base that an overlay names in its header, None for any other file."""
    try:
        with disk.open("rb") as file:
            header = file.read(_QCOW2_HEADER.size)
            if len(header) < _QCOW2_HEADER.size:
                return None
            magic, _version, offset, length = _QCOW2_HEADER.unpack(header)
            if magic != _QCOW2_MAGIC or offset == 0:
                return None
            file.seek(offset)
            return Path(os.fsdecode(file.read(length)))
    except OSError as error:
        raise GuestFailure(f"cannot read disk {disk.name}: {error.strerror or error}") from error


def virtual_size(path: Path) -> int:
    """Return the size that a guest would see."""
    return int(_describe(path)["virtual-size"])


def _image_format(source: Path) -> str:
    """Return QEMU's name for the format of an image, after making sure that it is a disk of its own."""
    told = _describe(source)
    if told.get("backing-filename"):
        raise GuestFailure(f"cannot import {source.name}: the image refers to another file, {told['backing-filename']}")
    kind = str(told["format"])
    if kind == "raw" and not _looks_like_a_disk(source):
        raise GuestFailure(f"cannot import {source.name}: it is no disk image")
    return kind


def _looks_like_a_disk(source: Path) -> bool:
    """QEMU takes any file for a raw disk; ask for a boot sector or a file system."""
    with source.open("rb") as file:
        start = file.read(2048)
    return start[510:512] == _BOOT_SIGNATURE or start[1080:1082] == _EXT_MAGIC


def _describe(path: Path) -> dict[str, str | int]:
    # --force-share: also while a guest holds the disk open.
    told = json.loads(_qemu_img("info", "--force-share", "--output=json", str(path)))
    if not isinstance(told, dict):
        raise GuestFailure(f"cannot read {path.name}: qemu-img gave no description")
    return told


class _becoming:  # noqa: N801 - reads as a word of the `with` statement
    """A file that appears under its name only when it is complete."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self.path = final.with_name(f".{final.name}.{secrets.token_hex(4)}")

    def __enter__(self) -> _becoming:
        return self

    def __exit__(self, kind: object, _error: object, _trace: object) -> None:
        if kind is None:
            self.path.replace(self._final)
        else:
            self.path.unlink(missing_ok=True)


def _qemu_img(*arguments: str) -> str:
    return _run("qemu-img", *arguments)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TOOL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuestFailure(f"cannot run {command[0]}: {error}") from error
    if done.returncode != 0:
        raise GuestFailure(f"{' '.join(command[:2])} failed: {' '.join(done.stderr.split())}")
    return done.stdout
