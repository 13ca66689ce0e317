"""Making a VM: the checks and the claim of the id at once, the disks in a task."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from provisioner.lab.model import Guest
from provisioner.lab.refusals import Refusal, denied, failed
from provisioner.lab.schema.validate import Value
from provisioner.lab.tasks import Task
from provisioner.lab.vm import power
from provisioner.lab.vm.config import boot_order, is_drive, normal_tags, with_mac
from provisioner.lab.vm.rights import check_drives, check_ssh_keys

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_NOT_CONFIG = frozenset(
    [
        "node",
        "vmid",
        "archive",
        "bwlimit",
        "force",
        "ha-managed",
        "import-working-storage",
        "live-restore",
        "pool",
        "start",
        "storage",
        "unique",
    ]
)


def settings_of(params: Mapping[str, Value], not_config: frozenset[str] = _NOT_CONFIG) -> dict[str, str]:
    """Return the parameters that are options of the VM, as configuration text."""
    settings = {}
    for key, value in params.items():
        if key not in not_config:
            settings["ide2" if key == "cdrom" else key] = config_text(value)
    return settings


def config_text(value: Value) -> str:
    """Return a decoded value as a configuration writes it."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def create(lab: Lab, who: str, params: Mapping[str, Value]) -> str:
    """Check, claim the id, start the task; return its UPID. Raises Refusal."""
    node, vmid = str(params["node"]), int(str(params["vmid"]))
    pool = str(params["pool"]) if "pool" in params else None
    default_storage = str(params["storage"]) if "storage" in params else None
    settings = settings_of(params)
    if "archive" in params:
        raise failed("cannot restore: this lab keeps no backups")
    if "sshkeys" in settings:
        check_ssh_keys(settings["sshkeys"])
    if pool is not None:
        lab.rights.require_pool(pool)
    if default_storage is not None:
        lab.access.require(who, f"/storage/{default_storage}", "Datastore.AllocateSpace")
    _require_allocate(lab, who, vmid, pool)
    if params.get("ha-managed"):
        lab.access.require(who, "/", "Sys.Console")
    lab.rights.require_drives(who, vmid, settings, default_storage)
    lab.rights.require_options(who, vmid, pool, settings)
    if params.get("start"):
        lab.access.require_vm(who, vmid, pool, "VM.PowerMgmt")
    lab.rights.require_devices(who, vmid, pool, settings)
    lab.rights.require_bridges(who, settings)
    check_drives(settings, lab.vm_options)
    lab.require_quorum()
    claim(lab, node, vmid, f"unable to create VM {vmid} - ")

    async def work(task: Task) -> None:
        async with lab.vm_lock(vmid):
            await _build(lab, task, who, node, vmid, settings, default_storage)
        if pool is not None:
            entry = lab.cluster.pools[pool]
            entry.vms = sorted({*entry.vms, vmid})
            lab.cluster.pools.save(pool, entry)
            lab.access.changed()
        if params.get("start"):
            # Proxmox does the same: the VM exists, so a failed start is a warning in the log of a task that went well.
            try:
                await power.start(lab, task, node, vmid)
            except Refusal as refusal:
                task.log(f"starting VM {vmid} failed: {refusal.message}")

    return lab.tasks.start(node, "qmcreate", str(vmid), who, work, undo=lambda: _undo(lab, vmid, []))


def claim(lab: Lab, node: str, vmid: int, prefix: str) -> None:
    """Write the locked, empty configuration that makes the id ours. Raises Refusal when it is taken."""
    taken = lab.cluster.guests.get(str(vmid))
    if taken is not None:
        what = "VM" if taken.kind == "qemu" else "CT"
        raise failed(f"{prefix}{what} {vmid} already exists on node '{taken.node}'")
    lab.cluster.save_guest(Guest(vmid, node, config={"lock": "create"}))


def _require_allocate(lab: Lab, who: str, vmid: int, pool: str | None) -> None:
    if lab.access.may(who, f"/vms/{vmid}", ("VM.Allocate",)):
        return
    if pool is not None and lab.access.may(who, f"/pool/{pool}", ("VM.Allocate",)):
        return
    raise denied()


async def _build(
    lab: Lab, task: Task, who: str, node: str, vmid: int, settings: dict[str, str], default_storage: str | None
) -> None:
    made: list[str] = []
    try:
        if "tags" in settings:
            lab.access.require(who, f"/vms/{vmid}", "VM.Config.Options")
        volumes = await lab.disks.make(task, node, vmid, settings, made, default_storage)
    except asyncio.CancelledError as cancelled:
        if "closing" not in cancelled.args:
            _undo(lab, vmid, made)
        raise
    except Exception as error:
        _undo(lab, vmid, made)
        text = error.message if isinstance(error, Refusal) else str(error)
        raise failed(f"unable to create VM {vmid} - {text}") from error
    config = {key: value for key, value in settings.items() if not is_drive(key)} | volumes
    for key, value in config.items():
        if key.startswith("net"):
            config[key] = with_mac(value, lab.vm_options, key)
    if "tags" in config:
        config["tags"] = normal_tags(config["tags"])
    if config.get("vmgenid", "1") == "1":
        config["vmgenid"] = str(uuid.uuid4())
    config.setdefault("smbios1", f"uuid={uuid.uuid4()}")
    if "boot" not in config and (devices := boot_order(config, lab.vm_options)):
        # Of a VM with nothing to boot from, none is written (qemu-server, print_bootorder).
        config["boot"] = f"order={';'.join(devices)}"
    config["meta"] = f"creation-qemu=10.1.2,ctime={int(time.time())}"
    guest = lab.cluster.vm(node, vmid)
    guest.config = config
    lab.cluster.save_guest(guest)


def _undo(lab: Lab, vmid: int, made: list[str]) -> None:
    lab.disks.undo(made)
    lab.cluster.guests.remove(str(vmid))
