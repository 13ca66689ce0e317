"""Destroying, cloning, resizing, and turning VMs into templates."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from provisioner.lab.model import Guest
from provisioner.lab.refusals import Refusal, failed
from provisioner.lab.schema.validate import Value
from provisioner.lab.tasks import Task
from provisioner.lab.vm.config import (
    bytes_of,
    digest,
    drives,
    is_cdrom,
    is_cloudinit,
    printed,
    printed_net,
    size_text,
    with_mac,
)
from provisioner.lab.vm.power import require_unlocked
from provisioner.lab.volume_names import split_volume_id

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

CHECKSUM_MISMATCH = "checksum mismatch (file change by other user?)"


def destroy(lab: Lab, who: str, node: str, vmid: int, *, skip_lock: bool, purge: bool, unreferenced: bool) -> str:
    """Check what can be checked at once, start the task; return its UPID. Raises Refusal."""
    guest = lab.cluster.vm(node, vmid)
    require_unprotected(guest, f"can't remove VM {vmid}")
    if lab.is_running(guest):
        raise failed(f"VM {vmid} is running - destroy failed")

    async def work(task: Task) -> None:
        async with lab.vm_lock(vmid):
            found = lab.cluster.vm(node, vmid)
            lab.require_writable(found)
            if not skip_lock:
                require_unlocked(found, but="suspended")
            require_unprotected(found, f"can't remove VM {vmid}")
            if lab.is_running(found):
                raise failed(f"VM {vmid} is running - destroy failed")
            for volid in _owned_volumes(lab, found, unreferenced=unreferenced):
                task.log(f"  removing volume '{volid}'")
                lab.storages.free(volid)
            await lab.backend.discard(vmid)
            lab.cluster.guests.remove(str(vmid))
            for pool in lab.cluster.pools.values():
                if vmid in pool.vms:
                    pool.vms.remove(vmid)
                    lab.cluster.pools.save(pool.name, pool)
            if purge:
                _forget_rules(lab, vmid)
            lab.access.changed()

    return lab.tasks.start(node, "qmdestroy", str(vmid), who, work)


def resize(lab: Lab, who: str, params: Mapping[str, Value]) -> str:
    """Start the task that grows a disk; return its UPID."""
    node, vmid, key, wanted = str(params["node"]), int(str(params["vmid"])), str(params["disk"]), str(params["size"])

    async def work(task: Task) -> None:
        async with lab.vm_lock(vmid):
            guest = lab.cluster.vm(node, vmid)
            if "digest" in params and params["digest"] != digest(guest):
                raise failed(CHECKSUM_MISMATCH)
            if not params.get("skiplock"):
                require_unlocked(guest)
            lab.require_writable(guest)
            if key not in guest.config:
                raise failed(f"disk '{key}' does not exist")
            parts = lab.vm_options.parts(key, guest.config[key])
            volume = lab.cluster.volumes.get(parts["file"])
            if is_cdrom(parts):
                raise failed("you can't resize a cdrom")
            if volume is None:
                raise failed(f"disk '{key}' has no associated volume")
            lab.access.require(who, f"/storage/{volume.storage}", "Datastore.AllocateSpace")
            size = volume.size + bytes_of(wanted[1:]) if wanted.startswith("+") else bytes_of(wanted)
            if size < volume.size:
                raise failed("shrinking disks is not supported")
            if size > volume.size:
                await lab.storages.resize(volume, size)
            guest.config[key] = printed({**parts, "size": size_text(size)})
            lab.cluster.save_guest(guest)
            task.log(f"{key}: resized to {size_text(size)}")

    return lab.tasks.start(node, "resize", str(vmid), who, work)


def to_template(lab: Lab, who: str, node: str, vmid: int) -> str:
    """Start the task that turns a stopped VM into a template; return its UPID. Raises Refusal."""
    guest = lab.cluster.vm(node, vmid)
    require_unlocked(guest)
    if guest.config.get("template") == "1":
        raise failed("you can't convert a template to a template")
    if lab.is_running(guest):
        raise failed("you can't convert a VM to template if VM is running")

    async def work(task: Task) -> None:
        async with lab.vm_lock(vmid):
            found = lab.cluster.vm(node, vmid)
            for key, parts in drives(found.config, lab.vm_options):
                volume = lab.cluster.volumes.get(parts["file"])
                if volume is None or is_cdrom(parts):
                    continue
                base = lab.storages.rename_to_base(volume)
                found.config[key] = printed({**parts, "file": base.volid})
                task.log(f"{key}: '{volume.volid}' becomes '{base.volid}'")
            found.config["template"] = "1"
            lab.cluster.save_guest(found)

    return lab.tasks.start(node, "qmtemplate", str(vmid), who, work)


def clone(lab: Lab, who: str, params: Mapping[str, Value]) -> str:
    """Check, claim the new id, start the task; return its UPID, which names the source. Raises Refusal."""
    node, vmid, new_id = str(params["node"]), int(str(params["vmid"])), int(str(params["newid"]))
    target = str(params.get("target", node))
    pool = str(params["pool"]) if "pool" in params else None
    storage = str(params["storage"]) if "storage" in params else None
    lab.cluster.existing_vm(node, vmid)
    if pool is not None:
        lab.rights.require_pool(pool)
    if target not in lab.cluster.nodes:
        raise failed(f"no such cluster node '{target}'")
    if storage is not None:
        _require_target_storage(lab, node, target, storage)
    source = lab.cluster.vm(node, vmid)
    require_unlocked(source)
    if "snapname" in params:
        raise failed(f"snapshot '{params['snapname']}' does not exist")
    is_template = source.config.get("template") == "1"
    full = bool(params.get("full", not is_template))
    for key in ("storage", "format"):
        if key in params and not full:
            raise failed(f"parameter '{key}' not allowed for linked clones")
    is_shared = _require_clone_access(lab, who, source, storage)
    for key in sorted(source.config):
        if re.fullmatch(r"hostpci\d+", key):
            lab.rights.require_pci_use(who, key, lab.vm_options.parts(key, source.config[key]))
    lab.rights.require_bridges(who, source.config)
    lab.require_quorum()
    if target != node and not is_shared:
        raise failed(f"can't clone VM to node '{target}' (VM uses local storage)")
    if str(new_id) in lab.cluster.guests:
        raise failed(f"unable to create VM {new_id}: config file already exists")
    if not full and not is_template:
        drive = next((key for key, parts in drives(source.config, lab.vm_options) if not is_cdrom(parts)), "scsi0")
        raise failed(f"Linked clone feature is not supported for drive '{drive}'")
    lab.cluster.save_guest(Guest(new_id, target, config={"lock": "clone"}))

    async def work(task: Task) -> None:
        made: list[str] = []
        async with lab.vm_lock(new_id):
            try:
                config = await _cloned_config(lab, task, source, new_id, storage, made, full=full)
            except asyncio.CancelledError as cancelled:
                if "closing" not in cancelled.args:
                    _undo_clone(lab, new_id, made)
                raise
            except Exception as error:
                _undo_clone(lab, new_id, made)
                text = error.message if isinstance(error, Refusal) else str(error)
                raise failed(f"clone failed: {text}") from error
            config["name"] = str(params.get("name", f"Copy-of-VM-{source.config.get('name', vmid)}"))
            if "description" in params:
                config["description"] = str(params["description"])
            guest = lab.cluster.guests[str(new_id)]
            guest.config = config
            lab.cluster.save_guest(guest)
        if pool is not None:
            entry = lab.cluster.pools[pool]
            entry.vms = sorted({*entry.vms, new_id})
            lab.cluster.pools.save(pool, entry)
            lab.access.changed()

    return lab.tasks.start(node, "qmclone", str(vmid), who, work, undo=lambda: _undo_clone(lab, new_id, []))


def require_unprotected(guest: Guest, what: str) -> None:
    """Raise the refusal for protected VMs."""
    if guest.config.get("protection") == "1":
        raise failed(f"{what} - protection mode enabled")


def _owned_volumes(lab: Lab, guest: Guest, *, unreferenced: bool) -> list[str]:
    named = {parts["file"] for _, parts in drives(guest.config, lab.vm_options)}
    named |= {value.split(",")[0] for key, value in guest.config.items() if key.startswith("unused")}
    return [
        v.volid for v in lab.cluster.volumes.values() if v.vmid == guest.vmid and (unreferenced or v.volid in named)
    ]


def _forget_rules(lab: Lab, vmid: int) -> None:
    for key, entry in lab.cluster.acl.items():
        if entry.path == f"/vms/{vmid}":
            lab.cluster.acl.remove(key)


def _require_target_storage(lab: Lab, node: str, target: str, name: str) -> None:
    storage = lab.cluster.storage(name)
    lab.storages.require_usable(storage, node)
    if target != node:
        lab.storages.require_usable(storage, target)
        if not lab.storages.is_shared(storage):
            raise failed(f"can't clone to non-shared storage '{name}'")


def _require_clone_access(lab: Lab, who: str, source: Guest, storage: str | None) -> bool:
    """Check the storages a clone would land on; return whether every disk is on shared storage."""
    is_shared = True
    for _, parts in drives(source.config, lab.vm_options):
        split = split_volume_id(parts["file"])
        if split is None:
            continue
        own = lab.cluster.storage(split[0])
        is_shared = is_shared and lab.storages.is_shared(own)
        if not is_cdrom(parts):
            lab.access.require(who, f"/storage/{storage or split[0]}", "Datastore.AllocateSpace")
    return is_shared


async def _cloned_config(
    lab: Lab, task: Task, source: Guest, new_id: int, storage: str | None, made: list[str], *, full: bool
) -> dict[str, str]:
    config = {key: value for key, value in source.config.items() if key not in ("template", "lock", "protection")}
    for key in [key for key in config if key.startswith("unused")]:
        del config[key]
    for key, parts in drives(config, lab.vm_options):
        split = split_volume_id(parts["file"])
        if split is None:
            continue
        if is_cloudinit(parts):
            volume = await lab.storages.allocate_plain(
                lab.cluster.storage(storage or split[0]), new_id, size_bytes=4 * 1024**2, name=f"vm-{new_id}-cloudinit"
            )
        elif is_cdrom(parts):
            continue
        else:
            original = lab.cluster.volumes[parts["file"]]
            home = lab.cluster.storage(storage or split[0])
            task.log(f"create {'full' if full else 'linked'} clone of drive {key} ({parts['file']})")
            volume = await lab.storages.copy(original, home, new_id, linked=not full)
        made.append(volume.volid)
        config[key] = printed({**parts, "file": volume.volid})
    for key in [key for key in config if re.fullmatch(r"net\d+", key)]:
        parts = lab.vm_options.parts(key, config[key])
        parts.pop("macaddr", None)
        config[key] = with_mac(printed_net(parts), lab.vm_options, key)
    if "smbios1" in config:
        smbios = lab.vm_options.parts("smbios1", config["smbios1"])
        config["smbios1"] = printed({**smbios, "uuid": str(uuid.uuid4())}, first="")
    if "vmgenid" in config:
        config["vmgenid"] = str(uuid.uuid4())
    return config


def _undo_clone(lab: Lab, new_id: int, made: list[str]) -> None:
    lab.disks.undo(made)
    lab.cluster.guests.remove(str(new_id))
