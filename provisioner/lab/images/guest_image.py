"""Builds the guest: Debian trixie from packages, as a qcow2 with its kernel beside it.

There is no boot loader inside. QEMU loads the kernel directly, which needs no
loop mount and no partition to build, and saves seconds at each boot; the
manifest tells the backend which kernel and command line belong to which disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from provisioner.lab.images import store, tools
from provisioner.lab.images.store import Progress

SUITE = "trixie"
"""Debian 13: its cloud-init runs all stages in one interpreter, bookworm's starts four."""

DISK_MIB = 1500
"""Room for the system (about 300 MiB) and little else; a resized disk is grown into at boot."""

KERNEL_COMMAND_LINE = (
    "root=/dev/nvme0n1 rw console=ttyS0 net.ifnames=0 quiet mitigations=off nokaslr audit=0 lsm=capability apparmor=0"
)
"""NVMe and ext4 are built into Debian's cloud kernel, so no initrd is needed."""

PACKAGES = (
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "dbus",  # logind needs it, and logind hears the power button
    "udev",
    "openssh-server",
    "cloud-init",
    "qemu-guest-agent",
    "python3",  # Ansible's modules run in the guest
    "python3-apt",
    "sudo",
    "iproute2",
    "iputils-ping",
    "nftables",  # the guest's own firewall
    "netbase",
    "procps",
    "pciutils",
    "ca-certificates",
    "curl",
    "libgomp1",
    "e2fsprogs",  # the guest formats its disk of models, and grows file systems
)

MMDEBSTRAP_OPTIONS = (
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    # The kernel package would build an initrd nobody loads, ten seconds of work.
    '--essential-hook=chroot "$1" dpkg-divert --quiet --local --rename --add /usr/sbin/update-initramfs',
    '--essential-hook=ln -s /bin/true "$1/usr/sbin/update-initramfs"',
)

FILE_SYSTEM = (
    "-t",
    "ext4",
    "-L",
    "root",
    "-O",
    "^metadata_csum",
    "-J",
    "size=4",
    "-E",
    "lazy_itable_init=0",
    "-m",
    "0",
)
"""A small journal: guests have their power cut, and fsck costs more than the journal does."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A bootable disk image: the file, its checksum, and what QEMU loads to boot it."""

    qcow2: Path
    sha256: str
    kernel: Path
    cmdline: str


def ensure_guest_image(cache_dir: Path | None = None, on_progress: Progress = lambda _line: None) -> GuestImage:
    """Return the guest image, building it (one to two minutes) when the cache has none of this recipe."""
    cache = cache_dir or store.default_cache_dir()
    script = _finishing_script()
    key = store.recipe_key(
        {
            "suite": SUITE,
            "packages": PACKAGES,
            "options": MMDEBSTRAP_OPTIONS,
            "finish": script,
            "file system": FILE_SYSTEM,
            "size": DISK_MIB,
            "cmdline": KERNEL_COMMAND_LINE,
        }
    )
    folder = store.obtain(cache, "guest", key, lambda work: _build(work, script, key, on_progress), on_progress)
    return read_manifest(folder / MANIFEST)


def read_manifest(path: Path) -> GuestImage:
    """Read the manifest beside an image. Raises OSError, KeyError or ValueError when it is none."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return GuestImage(
        qcow2=path.parent / told["qcow2"],
        sha256=told["sha256"],
        kernel=path.parent / told["kernel"],
        cmdline=told["cmdline"],
    )


def manifests(cache_dir: Path) -> Iterator[GuestImage]:
    """Yield every image in a cache that has a readable manifest."""
    for path in sorted(cache_dir.glob(f"*/{MANIFEST}")):
        try:
            yield read_manifest(path)
        except (OSError, KeyError, ValueError, TypeError):
            continue


def _build(work: Path, script: str, key: str, tell: Progress) -> None:
    tell(f"building the guest image from Debian {SUITE} packages; this takes a minute or two and happens once")
    disk = work / "disk.qcow2"
    with tools.tree_folder(work) as room:
        tree, raw, finish = room / "tree", room / "disk.raw", room / "finish.sh"
        finish.write_text(script, encoding="utf-8")
        finish.chmod(0o644)
        hook = f'--customize-hook=chroot "$1" sh < "{finish}"'
        include = "--include=" + ",".join(PACKAGES)
        tools.bootstrap(tree, suite=SUITE, options=[*MMDEBSTRAP_OPTIONS, include, hook], tell=tell)
        tell("turning the tree into a disk")
        tools.run(tools.in_tree_owner(["mke2fs", "-q", *FILE_SYSTEM, "-d", str(tree), str(raw), f"{DISK_MIB}M"]))
        shutil.copyfile(_kernel(tree), work / "vmlinuz")
        # Compressed, the file is a third of the size; emulated guests read no slower from it.
        tools.run(["qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", str(raw), str(disk)])
    manifest = {
        "qcow2": disk.name,
        "sha256": store.sha256_of(disk),
        "kernel": "vmlinuz",
        "cmdline": KERNEL_COMMAND_LINE,
        "recipe": key,
    }
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _kernel(tree: Path) -> Path:
    return max((tree / "boot").glob("vmlinuz-*"))


def _finishing_script() -> str:
    return (resources.files(__package__ or "provisioner.lab.images") / "recipe" / "finish-guest.sh").read_text("utf-8")
