"""Storages: lists, content, and the ways files come in."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from provisioner.lab.model import Storage
from provisioner.lab.refusals import bad_parameters, failed
from provisioner.lab.routes import views
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.schema.formats import split_list
from provisioner.lab.storage import ContentEntry
from provisioner.lab.tasks import Task
from provisioner.lab.volume_names import FILE_TYPES, FOLDERS, checked_upload_name, split_volume_id

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_STORAGE = "/nodes/{node}/storage/{storage}"
_VOLUME = _STORAGE + "/content/{volume}"
_CHUNK = 1 << 20


@serves("GET", "/nodes/{node}/storage")
async def list_storages(lab: Lab, call: Call) -> object:
    """List the storages of a node with how full they are."""
    wanted = set(split_list(call.text("content")))
    return [
        _status(lab, storage)
        for storage in lab.cluster.storages.values()
        if views.sees_storage(lab, call.who, storage.name)
        and (storage.nodes is None or call.node in storage.nodes)
        and not (call.on("enabled") and storage.disabled)
        and call.params.get("storage") in (None, storage.name)
        and (not wanted or wanted & set(storage.content))
    ]


@serves("GET", _STORAGE)
async def storage_index(lab: Lab, call: Call) -> object:
    """List what can be asked of a storage."""
    return [{"subdir": name} for name in ("content", "download-url", "status", "upload")]


@serves("GET", _STORAGE + "/status")
async def storage_status(lab: Lab, call: Call) -> object:
    """Return how full a storage is."""
    storage = lab.cluster.storages.get(call.text("storage"))
    if storage is None or storage.disabled or (storage.nodes is not None and call.node not in storage.nodes):
        raise bad_parameters({"storage": "No such storage."})
    status = _status(lab, storage)
    del status["storage"]
    return status


@serves("GET", _STORAGE + "/content")
async def list_content(lab: Lab, call: Call) -> object:
    """List what lies on a storage and the caller may see."""
    storage = lab.cluster.storage(call.text("storage"))
    lab.storages.require_usable(storage, call.node)
    found = []
    for entry in lab.storages.content(storage):
        if call.params.get("content") not in (None, entry.content):
            continue
        if "vmid" in call.params and entry.vmid != call.vmid:
            continue
        if entry.content == "images" and not _sees_image(lab, call.who, storage.name, entry.vmid):
            continue
        found.append(_entry(entry))
    return found


@serves("POST", _STORAGE + "/content")
async def allocate(lab: Lab, call: Call) -> object:
    """Make an empty disk image for a VM."""
    storage = lab.cluster.storage(call.text("storage"))
    lab.storages.require_usable(storage, call.node)
    size = call.text("size")
    scale = {"M": 1024**2, "G": 1024**3}.get(size[-1], 1024)
    name = Path(call.text("filename")).stem if storage.type in FILE_TYPES else call.text("filename")
    if not name.startswith(f"vm-{call.vmid}-"):
        raise failed(f"illegal name '{call.text('filename')}' - should be 'vm-{call.vmid}-*'")
    volume = await lab.storages.allocate(
        storage,
        call.vmid,
        size_bytes=int(size.rstrip("MG")) * scale,
        image_format=call.text("format") or None,
        name=name,
    )
    return volume.volid


@serves("GET", _VOLUME)
async def read_volume(lab: Lab, call: Call) -> object:
    """Return facts about one volume."""
    volid = _volid(call)
    lab.rights.require_volume_access(call.who, None, volid)
    storage = lab.cluster.storage(volid.partition(":")[0])
    entry = next((entry for entry in lab.storages.content(storage) if entry.volid == volid), None)
    if entry is None:
        raise failed(f"volume_size_info on '{volid}' failed - no such file or directory")
    return {
        "path": str(lab.storages.path(volid)),
        "format": entry.format,
        "size": entry.size,
        "used": entry.used,
    }


@serves("DELETE", _VOLUME)
async def delete_volume(lab: Lab, call: Call) -> object:
    """Delete a volume in a task."""
    volid = _volid(call)
    name = lab.storages.named(volid)
    path = f"/storage/{name.storage}"
    lab.access.require(call.who, path, "Datastore.Allocate")

    async def work(task: Task) -> None:
        in_use = next(
            (
                g.vmid
                for g in lab.cluster.guests.values()
                if lab.is_running(g) and any(volid in v for v in g.config.values())
            ),
            None,
        )
        if name.content == "images" and in_use is not None:
            raise failed(f"volume '{volid}' is in use by VM {in_use}")
        lab.storages.free(volid)
        task.log(f"Removed volume '{volid}'")

    return lab.tasks.start(call.node, "imgdel", f"{name.vmid or ''}@{name.storage}", call.who, work)


@serves("POST", _STORAGE + "/upload")
async def upload(lab: Lab, call: Call) -> object:
    """Take an uploaded file over, replacing one of the same name."""
    storage = _file_storage(lab, call, "")
    if call.upload is None:
        raise failed("missing temporary file name")
    content, name = call.text("content"), checked_upload_name(call.text("content"), call.text("filename"))
    if content not in storage.content:
        raise failed(f"storage '{storage.name}' does not support '{content}' content")
    source = call.upload

    async def work(task: Task) -> None:
        try:
            task.log(f"starting file import from: {source}")
            _verify(task, source, call)
            target = lab.storages.folder_of(storage.name) / FOLDERS[content] / name
            replaced = target.stat().st_size if target.exists() else 0
            if source.stat().st_size > lab.storages.free_bytes(storage) + replaced:
                raise failed(f"unable to copy file: cp: error writing '{target.name}': No space left on device")
            target.parent.mkdir(parents=True, exist_ok=True)
            # A rename, so that a guest that has the old file open keeps it until its next cold start.
            shutil.move(source, target)
            task.log(f"finished file import successfully: {storage.name}:{content}/{name}")
        finally:
            source.unlink(missing_ok=True)

    return lab.tasks.start(call.node, "imgcopy", "", call.who, work, undo=lambda: source.unlink(missing_ok=True))


@serves("POST", _STORAGE + "/download-url")
async def download(lab: Lab, call: Call) -> object:
    """Fetch a file in a task, checking its sum."""
    storage = _file_storage(lab, call, ", not a file based storage!")
    content = call.text("content")
    if content not in storage.content:
        raise failed(f"storage '{storage.name}' is not configured for content-type '{content}'")
    name = checked_upload_name(content, call.text("filename"))
    target = lab.storages.folder_of(storage.name) / FOLDERS[content] / name

    async def work(task: Task) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        task.log(f"downloading {call.text('url')} to {target.name}")
        if target.exists():
            _keep_existing(task, target, call)
            return
        partial = target.with_name(f".{target.name}.tmp.{task.record.pid}")
        try:
            await _fetch(lab, storage, call, partial)
            _verify(task, partial, call)
            partial.rename(target)
            task.log("download successful")
        finally:
            partial.unlink(missing_ok=True)

    return lab.tasks.start(call.node, "download", name, call.who, work)


@serves("GET", "/nodes/{node}/query-url-metadata")
async def query_url(lab: Lab, call: Call) -> object:
    """Ask a web server what a URL is."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.head(call.text("url"), allow_redirects=True, ssl=_tls(call)) as answer,
        ):
            if answer.status >= 400:
                raise failed(f"invalid server response: '{answer.status} {answer.reason}'")
            name = answer.content_disposition.filename if answer.content_disposition else None
            return {
                "filename": name or answer.url.path.rpartition("/")[2],
                "size": answer.content_length or 0,
                "mimetype": answer.content_type,
            }
    except aiohttp.ClientError as error:
        raise failed(f"cannot query '{call.text('url')}': {error}") from None


def _file_storage(lab: Lab, call: Call, hint: str) -> Storage:
    storage = lab.cluster.storage(call.text("storage"))
    lab.storages.require_usable(storage, call.node)
    if storage.type not in FILE_TYPES:
        raise failed(f"can't upload to storage type '{storage.type}'{hint}")
    return storage


def _keep_existing(task: Task, target: Path, call: Call) -> None:
    algorithm = call.text("checksum-algorithm")
    if not algorithm:
        raise failed(f"refusing to override existing file '{target.name}'")
    if _sum(target, algorithm) != call.text("checksum").lower():
        raise failed(f"mismatching checksum of existing file '{target.name}' - refusing to override")
    task.log("OK, got correct file already, no need to download")


def _verify(task: Task, path: Path, call: Call) -> None:
    algorithm = call.text("checksum-algorithm")
    if not algorithm:
        return
    found, wanted = _sum(path, algorithm), call.text("checksum").lower()
    task.log(f"calculating checksum...got '{found}' expect '{wanted}'")
    if found != wanted:
        raise failed(f"checksum mismatch: got '{found}' != expect '{wanted}'")
    task.log("OK, checksum verified")


def _sum(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


async def _fetch(lab: Lab, storage: Storage, call: Call, path: Path) -> None:
    free = lab.storages.free_bytes(storage)
    try:
        async with aiohttp.ClientSession() as session, session.get(call.text("url"), ssl=_tls(call)) as answer:
            if answer.status >= 400:
                raise failed(
                    f"download failed: command '/usr/bin/wget' failed: exit code 8 ({answer.status} {answer.reason})"
                )
            with path.open("wb") as file:
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    free -= len(chunk)
                    if free < 0:
                        raise failed(f"download failed: {path.name}: No space left on device")
                    file.write(chunk)
    except aiohttp.ClientError as error:
        raise failed(f"download failed: command '/usr/bin/wget' failed: exit code 4 ({error})") from None


def _tls(call: Call) -> ssl.SSLContext | bool:
    return call.on("verify-certificates", default=True)


def _volid(call: Call) -> str:
    volume = call.text("volume")
    split = split_volume_id(volume)
    if split is None:
        return f"{call.text('storage')}:{volume}"
    if split[0] != call.text("storage"):
        raise bad_parameters({"volume": f"storage ID missmatch ({split[0]} != {call.text('storage')})"})
    return volume


def _sees_image(lab: Lab, who: str, storage: str, vmid: int | None) -> bool:
    if lab.access.may(who, f"/storage/{storage}", ("Datastore.Allocate",)):
        return True
    return vmid is not None and lab.access.may(who, f"/vms/{vmid}", ("VM.Config.Disk",))


def _entry(entry: ContentEntry) -> dict[str, object]:
    view: dict[str, object] = {
        "volid": entry.volid,
        "content": entry.content,
        "format": entry.format,
        "size": entry.size,
        "ctime": entry.created or int(time.time()),
    }
    if entry.vmid is not None:
        view |= {"vmid": entry.vmid, "used": entry.used}
    if entry.parent is not None:
        view["parent"] = entry.parent.partition(":")[2]
    return view


def _status(lab: Lab, storage: Storage) -> dict[str, object]:
    total, used = lab.storages.total_bytes(storage), lab.storages.used_bytes(storage)
    status: dict[str, object] = {
        "storage": storage.name,
        "type": storage.type,
        "content": ",".join(storage.content),
        "active": int(not storage.disabled),
        "enabled": int(not storage.disabled),
        "shared": int(lab.storages.is_shared(storage)),
        "total": total,
        "used": min(used, total),
        "avail": max(0, total - used),
    }
    if total:
        status["used_fraction"] = min(used, total) / total
    return status
