"""Storages: what lies on them, how full they are, and making and freeing volumes.

Files such as ISOs are whatever lies in their folder below the state directory;
disk images are recorded, because their virtual size and owner are not in a file name.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provisioner.lab.cluster import Cluster
from provisioner.lab.guests.base import GuestBackend
from provisioner.lab.model import Guest, Storage, Volume
from provisioner.lab.refusals import failed
from provisioner.lab.volume_names import (
    FILE_TYPES,
    FOLDERS,
    SHARED_TYPES,
    VolumeName,
    parse_volume_name,
    split_volume_id,
)

_ROOMY = 1024**4
"""What a storage without a limit says its size is."""


@dataclass(frozen=True, slots=True)
class ContentEntry:
    """One line of a storage's content list."""

    volid: str
    content: str
    format: str
    size: int
    used: int
    created: int
    vmid: int | None = None
    parent: str | None = None


class Storages:
    """All storages of the cluster, below one folder."""

    def __init__(self, cluster: Cluster, folder: Path, backend: GuestBackend) -> None:
        self._cluster = cluster
        self._folder = folder
        self._backend = backend
        self.away: set[str] = set()
        """Storages that do not answer right now."""

    def folder_of(self, storage: str) -> Path:
        """Return where a storage keeps its files."""
        return self._folder / storage

    def named(self, volid: str) -> VolumeName:
        """Take a volume id apart. Raises Refusal."""
        split = split_volume_id(volid)
        if split is None:
            raise failed(f"unable to parse volume ID '{volid}'")
        return parse_volume_name(split[0], self._cluster.storage(split[0]).type, split[1])

    def path(self, volid: str) -> Path:
        """Return the file behind a volume id, whether it exists or not."""
        recorded = self._cluster.volumes.get(volid)
        if recorded is not None:
            return self.folder_of(recorded.storage) / recorded.file
        name = self.named(volid)
        if name.content != "images":
            return self.folder_of(name.storage) / FOLDERS[name.content] / name.file_name
        return self.folder_of(name.storage) / self._image_file(self._cluster.storage(name.storage), name)

    def exists(self, volid: str) -> bool:
        """Say whether a volume is there."""
        return volid in self._cluster.volumes or (self.named(volid).content != "images" and self.path(volid).is_file())

    def require_usable(self, storage: Storage, node: str) -> None:
        """Raise the refusal for disabled storages and those of other nodes."""
        if storage.disabled:
            raise failed(f"storage '{storage.name}' is disabled")
        if storage.nodes is not None and node not in storage.nodes:
            raise failed(f"storage '{storage.name}' is not available on node '{node}'")
        if storage.name in self.away:
            raise failed(f"storage '{storage.name}' is not online")

    def is_shared(self, storage: Storage) -> bool:
        """Say whether every node sees the same content."""
        return storage.type in SHARED_TYPES or bool(storage.options.get("shared"))

    def used_bytes(self, storage: Storage) -> int:
        """Return how much of a storage is taken."""
        files = sum(entry.size for entry in self._files(storage))
        return files + sum(v.used for v in self._cluster.volumes.values() if v.storage == storage.name)

    def total_bytes(self, storage: Storage) -> int:
        """Return the size of a storage."""
        return storage.total_bytes if storage.total_bytes is not None else _ROOMY

    def free_bytes(self, storage: Storage) -> int:
        """Return what is left."""
        return max(0, self.total_bytes(storage) - self.used_bytes(storage))

    def content(self, storage: Storage) -> list[ContentEntry]:
        """Return everything on a storage, by volume id."""
        images = [
            ContentEntry(v.volid, "images", v.format, v.size, v.used, v.created, v.vmid, v.parent)
            for v in self._cluster.volumes.values()
            if v.storage == storage.name
        ]
        return sorted([*self._files(storage), *images], key=lambda entry: entry.volid)

    async def allocate(
        self,
        storage: Storage,
        vmid: int,
        *,
        size_bytes: int,
        source: Path | None = None,
        image_format: str | None = None,
        name: str | None = None,
    ) -> Volume:
        """Make a disk, empty or from an image. Raises Refusal or GuestFailure."""
        if "images" not in storage.content:
            raise failed(f"storage '{storage.name}' does not support content-type 'images'")
        data = source.stat().st_size if source is not None else 0
        self._require_space(storage, data, source)
        volume = self._new_volume(storage, vmid, image_format, name)
        path = self.folder_of(storage.name) / volume.file
        path.parent.mkdir(parents=True, exist_ok=True)
        volume.size = await self._backend.create_disk(path, source=source, size_bytes=size_bytes)
        volume.used = data
        self._cluster.volumes.save(volume.volid, volume)
        return volume

    async def allocate_plain(self, storage: Storage, vmid: int, *, size_bytes: int, name: str | None = None) -> Volume:
        """Make a small volume that no guest boots from: firmware variables, TPM state, a seed."""
        if "images" not in storage.content:
            raise failed(f"storage '{storage.name}' does not support content-type 'images'")
        self._require_space(storage, 0, None)
        volume = self._new_volume(storage, vmid, "raw", name)
        path = self.folder_of(storage.name) / volume.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size_bytes)
        volume.size = size_bytes
        self._cluster.volumes.save(volume.volid, volume)
        return volume

    async def copy(self, source: Volume, storage: Storage, vmid: int, *, linked: bool) -> Volume:
        """Make a clone of a disk for another VM."""
        self._require_space(storage, 0 if linked else source.used, None)
        volume = self._new_volume(storage, vmid, source.format, None)
        path = self.folder_of(storage.name) / volume.file
        path.parent.mkdir(parents=True, exist_ok=True)
        await self._backend.clone_disk(self.path(source.volid), path)
        volume.size, volume.used = source.size, 0 if linked else source.used
        volume.parent = source.volid if linked else None
        self._cluster.volumes.save(volume.volid, volume)
        return volume

    async def resize(self, volume: Volume, size_bytes: int) -> None:
        """Grow a disk."""
        await self._backend.resize_disk(self.path(volume.volid), size_bytes=size_bytes)
        volume.size = size_bytes
        self._cluster.volumes.save(volume.volid, volume)

    def free(self, volid: str) -> None:
        """Delete a volume. Raises Refusal when something is built on it."""
        volume = self._cluster.volumes.get(volid)
        if volume is None:
            path = self.path(volid)
            if not path.is_file():
                raise failed(f"volume '{volid}' does not exist")
            path.unlink()
            return
        if any(other.parent == volid for other in self._cluster.volumes.values()):
            raise failed(f"base volume '{volid.partition(':')[2]}' is still in use by linked cloned")
        path = self.path(volid)
        path.unlink(missing_ok=True)
        self._cluster.volumes.remove(volid)
        if path.parent.name == str(volume.vmid) and not any(path.parent.iterdir()):
            path.parent.rmdir()

    def rename_to_base(self, volume: Volume) -> Volume:
        """Turn a disk into the base of a template; its name says so."""
        name = volume.volid.partition(":")[2].replace(f"vm-{volume.vmid}-", f"base-{volume.vmid}-", 1)
        old = self.path(volume.volid)
        base = Volume(**{**vars(volume), "volid": f"{volume.storage}:{name}"})
        base.file = volume.file.replace(f"vm-{volume.vmid}-", f"base-{volume.vmid}-", 1)
        if old.exists():
            shutil.move(old, self.folder_of(volume.storage) / base.file)
        self._cluster.volumes.remove(volume.volid)
        self._cluster.volumes.save(base.volid, base)
        return base

    async def adopt(self, volid: str, guest: Guest, size_bytes: int) -> None:
        """Record and make a disk that a loaded configuration speaks of."""
        name = self.named(volid)
        if name.content != "images" or volid in self._cluster.volumes:
            return
        storage = self._cluster.storage(name.storage)
        file = self._image_file(storage, name)
        path = self.folder_of(storage.name) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            await self._backend.create_disk(path, source=None, size_bytes=size_bytes)
        volume = Volume(volid, storage.name, file, name.format, size_bytes, 0, guest.vmid, int(time.time()))
        self._cluster.volumes.save(volid, volume)

    def _require_space(self, storage: Storage, wanted: int, source: Path | None) -> None:
        free = self.free_bytes(storage)
        if wanted <= free and (free > 0 or storage.total_bytes is None):
            return
        if source is not None:
            raise failed(
                f"copy failed: command '/usr/bin/qemu-img convert -p -n {source.name}' failed: "
                f"qemu-img: error while writing at byte {free}: No space left on device"
            )
        if storage.type == "lvmthin":
            pool = f"{storage.options.get('vgname', 'pve')}/{storage.options.get('thinpool', 'data')}"
            raise failed(
                f"lvcreate error:   Cannot create new thin volume, free space in thin pool {pool} reached threshold."
            )
        if storage.type == "zfspool":
            raise failed(f"zfs error: cannot create '{storage.options.get('pool', 'rpool/data')}': out of space")
        raise failed(f"unable to create image: No space left on device ({storage.name})")

    def _new_volume(self, storage: Storage, vmid: int, image_format: str | None, name: str | None) -> Volume:
        files = storage.type in FILE_TYPES
        chosen = image_format if files and image_format in ("raw", "qcow2", "vmdk") else "raw"
        for index in range(10000):
            base = name or f"vm-{vmid}-disk-{index}"
            file_name = f"{base}.{chosen}" if files else base
            volid = f"{storage.name}:{vmid}/{file_name}" if files else f"{storage.name}:{file_name}"
            template = volid.replace(f"vm-{vmid}-", f"base-{vmid}-", 1)
            if volid not in self._cluster.volumes and template not in self._cluster.volumes:
                file = f"images/{vmid}/{file_name}" if files else file_name
                return Volume(volid, storage.name, file, chosen, 0, 0, vmid, int(time.time()))
            if name is not None:
                raise failed(f"disk image '{file_name}' already exists")
        raise failed(f"unable to allocate an image name for VM {vmid} in storage '{storage.name}'")

    def _image_file(self, storage: Storage, name: VolumeName) -> str:
        return f"images/{name.vmid}/{name.file_name}" if storage.type in FILE_TYPES else name.file_name

    def _files(self, storage: Storage) -> Iterator[ContentEntry]:
        if storage.type not in FILE_TYPES:
            return
        for content in storage.content:
            folder = self.folder_of(storage.name) / FOLDERS.get(content, "")
            if content in ("images", "rootdir", "none") or not folder.is_dir():
                continue
            for path in sorted(folder.iterdir()):
                if path.is_file() and not path.name.startswith("."):
                    stat = path.stat()
                    yield ContentEntry(
                        f"{storage.name}:{content}/{path.name}",
                        content,
                        path.suffix.lstrip(".").lower() or content,
                        stat.st_size,
                        stat.st_size,
                        int(stat.st_mtime),
                    )
