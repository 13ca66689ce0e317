"""Makes the disks that settings ask for, and takes them back when it goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from provisioner.lab.cluster import Cluster
from provisioner.lab.model import Storage, Volume
from provisioner.lab.refusals import Refusal, failed
from provisioner.lab.storage import Storages
from provisioner.lab.tasks import Task
from provisioner.lab.vm.config import NEW_DISK, ConfigOptions, drives, is_cdrom, is_cloudinit, printed, size_text
from provisioner.lab.volume_names import FILE_TYPES, split_volume_id

_GIB = 1024**3
_MIB = 1024**2
_EFI_BYTES = {"2m": 128 * 1024, "4m": 528 * 1024}
_CLOUDINIT_BYTES = 4 * _MIB


class DiskMaker:
    """Turns wishes such as ``local-lvm:32`` into volumes."""

    def __init__(self, cluster: Cluster, storages: Storages, options: ConfigOptions) -> None:
        self._cluster = cluster
        self._storages = storages
        self._options = options

    async def make(
        self,
        task: Task,
        node: str,
        vmid: int,
        settings: Mapping[str, str],
        made: list[str],
        default_storage: str | None = None,
    ) -> dict[str, str]:
        """Return the drive options with volumes in them; `made` grows as volumes appear."""
        result: dict[str, str] = {}
        seeds = [key for key, parts in drives(settings, self._options) if is_cloudinit(parts)]
        if len(seeds) > 1:
            raise failed(f"{seeds[1]} - cloud-init drive is already attached at '{seeds[0]}'")
        for key, parts in drives(settings, self._options):
            result[key] = await self._one(task, node, vmid, key, dict(parts), made, default_storage)
        return result

    def undo(self, made: list[str]) -> None:
        """Free what was made."""
        for volid in reversed(made):
            try:
                self._storages.free(volid)
            except Refusal:
                continue

    async def _one(
        self,
        task: Task,
        node: str,
        vmid: int,
        key: str,
        parts: dict[str, str],
        made: list[str],
        default_storage: str | None,
    ) -> str:
        file = parts["file"]
        if file in ("none", "cdrom"):
            return printed(parts)
        if is_cloudinit(parts):
            return await self._cloudinit(node, vmid, parts, made)
        new = NEW_DISK.fullmatch(file)
        if new is None:
            return self._existing(node, parts)
        storage = self._usable(node, new[1] or default_storage)
        source = parts.pop("import-from", None)
        wanted_format = parts.pop("format", None)
        if source is not None:
            volume = await self._import(task, node, vmid, key, storage, source, wanted_format)
        elif key in ("efidisk0", "tpmstate0"):
            size = _EFI_BYTES[parts.get("efitype", "2m")] if key == "efidisk0" else 4 * _MIB
            rounded = size if storage.type in FILE_TYPES else -(-size // _MIB) * _MIB
            volume = await self._storages.allocate_plain(storage, vmid, size_bytes=rounded)
        else:
            size = int(float(new[2]) * _GIB)
            volume = await self._storages.allocate(storage, vmid, size_bytes=size, image_format=wanted_format)
        made.append(volume.volid)
        task.log(f"{key}: successfully created disk '{volume.volid},size={size_text(volume.size)}'")
        return printed({**parts, "file": volume.volid, "size": size_text(volume.size)})

    async def _import(
        self, task: Task, node: str, vmid: int, key: str, storage: Storage, source: str, wanted_format: str | None
    ) -> Volume:
        path = self._source_path(node, source)
        task.log(f"importing disk '{source}' for {key}...")
        return await self._storages.allocate(
            storage, vmid, size_bytes=0, source=path, image_format=wanted_format or path.suffix.lstrip(".")
        )

    def _source_path(self, node: str, source: str) -> Path:
        if split_volume_id(source) is None:
            path = Path(source)
        else:
            storage = self._cluster.storage(self._storages.named(source).storage)
            self._storages.require_usable(storage, node)
            path = self._storages.path(source)
        if not path.is_file():
            raise failed(f"cannot import from '{source}' - no such file or directory")
        return path

    async def _cloudinit(self, node: str, vmid: int, parts: dict[str, str], made: list[str]) -> str:
        split = split_volume_id(parts["file"])
        storage = self._usable(node, split[0] if split else None)
        volume = await self._storages.allocate_plain(
            storage, vmid, size_bytes=_CLOUDINIT_BYTES, name=f"vm-{vmid}-cloudinit"
        )
        made.append(volume.volid)
        return printed({**parts, "file": volume.volid, "media": "cdrom"})

    def _existing(self, node: str, parts: dict[str, str]) -> str:
        volid = parts["file"]
        if split_volume_id(volid) is None:
            return printed(parts)
        storage = self._cluster.storage(self._storages.named(volid).storage)
        self._storages.require_usable(storage, node)
        if not self._storages.exists(volid):
            raise failed(f"volume '{volid}' does not exist")
        recorded = self._cluster.volumes.get(volid)
        size = recorded.size if recorded is not None else self._storages.path(volid).stat().st_size
        shown = size_text(size) if size % 1024 == 0 or not is_cdrom(parts) else f"{-(-size // 1024)}K"
        return printed({**parts, "size": shown})

    def _usable(self, node: str, name: str | None) -> Storage:
        if name is None:
            raise failed("no storage ID specified (and no default storage)")
        storage = self._cluster.storage(name)
        self._storages.require_usable(storage, node)
        return storage
