"""Changing a VM's configuration: what applies at once, what waits for the next cold start."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from provisioner.lab.access import ROOT
from provisioner.lab.model import Guest
from provisioner.lab.refusals import bad_parameters, failed
from provisioner.lab.schema.formats import split_list
from provisioner.lab.schema.validate import Value
from provisioner.lab.tasks import Task
from provisioner.lab.vm.config import digest, drives, is_cdrom, is_cloudinit, is_drive, normal_tags, with_mac
from provisioner.lab.vm.create import settings_of
from provisioner.lab.vm.lifecycle import CHECKSUM_MISMATCH, require_unprotected
from provisioner.lab.vm.power import data_disk, is_data_disk, require_unlocked
from provisioner.lab.vm.rights import check_drives, check_ssh_keys

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

_NOT_CONFIG = frozenset(
    ["node", "vmid", "delete", "digest", "force", "revert", "skiplock", "background_delay", "import-working-storage"]
)
_AT_ONCE = frozenset(
    [
        "name",
        "onboot",
        "shares",
        "startup",
        "description",
        "protection",
        "vmstatestorage",
        "hookscript",
        "tags",
        "lock",
        "migrate_downtime",
        "migrate_speed",
        "template",
    ]
)
"""Options that take effect on a running VM as they are written."""
_HOT = re.compile(r"(?:net|usb|scsi|virtio|unused)\d+")
"""Devices that are plugged into a running VM, with the default of ``hotplug``."""


def update(lab: Lab, who: str, params: Mapping[str, Value]) -> Callable[[Task | None], Awaitable[None]]:
    """Check an update; return what carries it out, in a task or in the call itself. Raises Refusal."""
    node, vmid = str(params["node"]), int(str(params["vmid"]))
    settings = settings_of(params, _NOT_CONFIG)
    if params.get("skiplock") and who != ROOT:
        raise bad_parameters({"skiplock": "Only root may use this option."})
    if "sshkeys" in settings:
        check_ssh_keys(settings["sshkeys"])
    deletions = [_plain(key) for key in split_list(str(params.get("delete", "")))]
    reverts = [_plain(key) for key in split_list(str(params.get("revert", "")))]
    if not settings and not deletions and not reverts:
        raise failed("no options specified")
    _check_names(lab, settings, deletions, reverts)
    check_drives(settings, lab.vm_options)
    if "hookscript" in settings:
        _check_hookscript(lab, settings["hookscript"])
    lab.rights.require_options(who, vmid, None, deletions)
    lab.rights.require_options(who, vmid, None, settings)
    lab.rights.require_drives(who, vmid, settings)
    lab.rights.require_bridges(who, settings)
    guest = lab.cluster.vm(node, vmid)
    if "digest" in params and params["digest"] != digest(guest):
        raise failed(CHECKSUM_MISMATCH)
    if not params.get("skiplock"):
        require_unlocked(guest)
    _check_balloon(lab, guest, settings)

    async def work(task: Task | None) -> None:
        async with lab.vm_lock(vmid):
            lab.require_writable(lab.cluster.vm(node, vmid))
            change = _Change(lab, who, lab.cluster.vm(node, vmid), task or _Quiet())
            for key in reverts:
                change.guest.pending.pop(key, None)
            for key in deletions:
                change.delete(key, force=bool(params.get("force")))
            change.require_devices(settings)
            change.require_boot_devices(settings, deletions)
            await change.apply(settings)
            lab.cluster.save_guest(change.guest)

    return work


class _Quiet(Task):
    """Stands in for the task when an update is carried out in the call."""

    def __init__(self) -> None:
        self.warnings = 0

    def log(self, line: str) -> None:
        """Drop the line; a call has no log."""


class _Change:
    """One update of one VM, under its lock."""

    def __init__(self, lab: Lab, who: str, guest: Guest, task: Task) -> None:
        self.lab = lab
        self.who = who
        self.guest = guest
        self.task = task
        self.running = lab.is_running(guest)

    def delete(self, key: str, *, force: bool) -> None:
        """Remove an option; disks are detached first and destroyed when they are removed again."""
        guest = self.guest
        value = guest.config.get(key) or guest.pending.get(key)
        if value is None:
            self.task.log(f"cannot delete '{key}' - not set in current configuration!")
            guest.pending.pop(key, None)
            return
        if key.startswith("unused"):
            require_unprotected(guest, f"can't remove unused disk '{value.split(',')[0]}'")
            self.lab.access.require_vm(self.who, guest.vmid, None, "VM.Config.Disk")
            self.lab.storages.free(value.split(",")[0])
            guest.config.pop(key, None)
            return
        if is_drive(key):
            require_unprotected(guest, f"can't remove drive '{key}'")
            self._require_drive_rights(self.lab.vm_options.parts(key, value))
        elif re.fullmatch(r"hostpci\d+", key):
            self.lab.rights.require_pci(self.who, guest.vmid, None, key, value)
        elif re.fullmatch(r"serial\d+", key) and value != "socket" and self.who != ROOT:
            raise failed(f"only root can delete '{key}' config for real devices")
        elif re.fullmatch(r"(?:serial|usb)\d+", key):
            self.lab.rights.require_devices(self.who, guest.vmid, None, {key: value})
        elif re.fullmatch(r"net\d+", key):
            self.lab.rights.require_bridges(self.who, {key: value})
        elif key == "tags":
            self.lab.access.require(self.who, f"/vms/{guest.vmid}", "VM.Config.Options")
        if self.running and key in guest.config and not self._at_once(key):
            guest.pending[key] = None
            return
        guest.pending.pop(key, None)
        guest.config.pop(key, None)
        if is_drive(key):
            self._detach(value, key, force=force)

    def require_devices(self, settings: Mapping[str, str]) -> None:
        """Check the devices that go as well as those that come."""
        for key, value in settings.items():
            old = self.guest.config.get(key)
            if re.fullmatch(r"serial\d+", key) and {old or "socket", value} != {"socket"} and self.who != ROOT:
                raise failed(f"only root can modify '{key}' config for real devices")
            if old is not None and re.fullmatch(r"(?:usb|hostpci)\d+", key):
                self.lab.rights.require_devices(self.who, self.guest.vmid, None, {key: old})
        self.lab.rights.require_devices(self.who, self.guest.vmid, None, settings)

    def require_boot_devices(self, settings: Mapping[str, str], deletions: list[str]) -> None:
        """Refuse a boot order that names what is not there."""
        if "boot" not in settings:
            return
        for device in split_list(self.lab.vm_options.parts("boot", settings["boot"]).get("order", "")):
            there = device in settings or device in self.guest.config or self.guest.pending.get(device) is not None
            if not there or device in deletions:
                raise failed(f"invalid bootorder: device '{device}' does not exist'")

    async def apply(self, settings: Mapping[str, str]) -> None:
        """Write new values, making the disks they ask for."""
        guest = self.guest
        for key, parts in drives(settings, self.lab.vm_options):
            if key in guest.config:
                self._require_drive_rights(self.lab.vm_options.parts(key, guest.config[key]))
            self._require_drive(key, parts)
        if "tags" in settings:
            self.lab.access.require(self.who, f"/vms/{guest.vmid}", "VM.Config.Options")
        made: list[str] = []
        try:
            volumes = await self.lab.disks.make(self.task, guest.node, guest.vmid, settings, made)
        except BaseException:
            self.lab.disks.undo(made)
            raise
        for key, value in settings.items():
            is_new = key not in guest.config
            self._write(key, volumes.get(key, value))
            if is_new and self.running and is_drive(key) and key in guest.config:
                parts = self.lab.vm_options.parts(key, guest.config[key])
                if is_data_disk(key, parts):
                    await self.lab.backend.plug_disk(guest.vmid, data_disk(self.lab, key, parts))

    def _write(self, key: str, value: str) -> None:
        guest = self.guest
        if key == "tags":
            value = normal_tags(value)
        elif re.fullmatch(r"net\d+", key):
            value = with_mac(value, self.lab.vm_options, key)
        old = guest.config.get(key)
        guest.pending.pop(key, None)
        if self.running and not self._at_once(key, value) and old != value:
            guest.pending[key] = value
            return
        guest.config[key] = value
        if is_drive(key) and old is not None:
            was = self.lab.vm_options.parts(key, old)["file"]
            if was != self.lab.vm_options.parts(key, value)["file"]:
                self._detach(old, key, force=False)

    def _at_once(self, key: str, value: str | None = None) -> bool:
        if key in _AT_ONCE or _HOT.fullmatch(key):
            return True
        # A medium in a drive that is there already is changed at once; a new drive has to wait.
        new = value if value is not None else ""
        return is_drive(key) and key in self.guest.config and "media=cdrom" in new

    def _require_drive(self, key: str, parts: Mapping[str, str]) -> None:
        self._require_drive_rights(parts)
        if is_cloudinit(parts):
            for other, drive in drives(self.guest.config, self.lab.vm_options):
                if other != key and is_cloudinit(drive):
                    raise failed(f"{key} - cloud-init drive is already attached at '{other}'")

    def _require_drive_rights(self, parts: Mapping[str, str]) -> None:
        vmid = self.guest.vmid
        if is_cloudinit(parts):
            self.lab.access.require_vm(self.who, vmid, None, "VM.Config.Cloudinit")
            self.lab.access.require_vm(self.who, vmid, None, "VM.Config.CDROM")
        elif is_cdrom(parts):
            self.lab.access.require_vm(self.who, vmid, None, "VM.Config.CDROM")
        else:
            self.lab.access.require_vm(self.who, vmid, None, "VM.Config.Disk")

    def _detach(self, value: str, key: str, *, force: bool) -> None:
        parts = self.lab.vm_options.parts(key, value)
        volume = self.lab.cluster.volumes.get(parts["file"])
        if volume is None or volume.vmid != self.guest.vmid:
            return
        if force or is_cloudinit(parts):
            self.lab.storages.free(volume.volid)
            return
        number = next(index for index in range(256) if f"unused{index}" not in self.guest.config)
        self.guest.config[f"unused{number}"] = volume.volid


def _plain(key: str) -> str:
    return "ide2" if key == "cdrom" else key


def _check_names(lab: Lab, settings: Mapping[str, str], deletions: list[str], reverts: list[str]) -> None:
    for key in reverts:
        if not lab.vm_options.exists(key):
            raise bad_parameters({"revert": f"unknown option '{key}'"})
        if key in settings:
            raise bad_parameters({"delete": f"you can't use '-{key}' and -revert {key}' at the same time"})
    for key in deletions:
        if key in settings:
            raise bad_parameters({"delete": f"you can't use '-{key}' and -delete {key}' at the same time"})
        if key in reverts:
            raise bad_parameters({"revert": f"you can't use '-delete {key}' and '-revert {key}' at the same time"})
        if not lab.vm_options.exists(key):
            raise bad_parameters({"delete": f"unknown option '{key}'"})


def _check_hookscript(lab: Lab, volid: str) -> None:
    name = lab.storages.named(volid)
    if name.content != "snippets":
        raise bad_parameters({"hookscript": f"'{volid}' is not in the snippets directory"})
    if not lab.storages.exists(volid):
        raise bad_parameters({"hookscript": f"script '{volid}' does not exist"})


def _check_balloon(lab: Lab, guest: Guest, settings: Mapping[str, str]) -> None:
    if "memory" not in settings and "balloon" not in settings:
        return
    merged = {**guest.config, **settings}
    memory = int(lab.vm_options.parts("memory", merged.get("memory", "512"))["current"])
    if int(merged.get("balloon", "0")) > memory:
        raise failed("balloon value too large (must be smaller than assigned memory)")
