"""Power: start, stop, shutdown, reboot, reset, pause, and what each needs to be so."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from provisioner.lab.guests.base import DataDisk, GuestFailure, GuestHardware
from provisioner.lab.model import Guest
from provisioner.lab.refusals import Refusal, failed
from provisioner.lab.tasks import Task
from provisioner.lab.vm import cloudinit
from provisioner.lab.vm.config import boot_order, drives, is_cdrom, is_cloudinit, with_pending
from provisioner.lab.volume_names import split_volume_id

if TYPE_CHECKING:
    from provisioner.lab.core import Lab

DEFAULT_SHUTDOWN_SECONDS = 60
_MIB = 1024**2


def require_unlocked(guest: Guest, *, but: str = "") -> None:
    """Raise the refusal for a configuration that some operation has locked."""
    lock = guest.config.get("lock")
    if lock is not None and lock != but:
        raise failed(f"VM is locked ({lock})")


class _CardLost(Refusal):
    """A device that cannot be reset: Proxmox tries all the same, and QEMU gives up on it."""

    def __init__(self, address: str) -> None:
        super().__init__(500, "start failed: QEMU exited with code 1")
        self.log = (
            f"error writing '1' to '/sys/bus/pci/devices/{address}/reset': Inappropriate ioctl for device",
            f"failed to reset PCI device '{address}', but trying to continue as not all devices need a reset",
            f"kvm: -device vfio-pci,host={address},id=hostpci0.0: vfio {address}: error getting device from group 15: "
            "Invalid argument",
        )


async def start(lab: Lab, task: Task, node: str, vmid: int, *, skip_lock: bool = False) -> None:
    """Do the work of a start task."""
    async with lab.vm_lock(vmid):
        guest = lab.cluster.vm(node, vmid)
        if guest.config.get("template") == "1":
            raise failed("you can't start a vm if it's a template")
        if not skip_lock:
            require_unlocked(guest, but="suspended")
        if lab.is_running(guest):
            raise failed(f"VM {vmid} already running")
        guest.config = with_pending(guest)
        guest.pending = {}
        if guest.config.get("lock") == "suspended":
            del guest.config["lock"]
        lab.cluster.save_guest(guest)
        try:
            await power_on(lab, guest)
        except _CardLost as lost:
            for line in lost.log:
                task.log(line)
            raise
        task.log(f"VM {vmid} started")


async def power_on(lab: Lab, guest: Guest) -> None:
    """Give a stopped VM its devices and power. Raises Refusal or GuestFailure, holding nothing then."""
    node = lab.cluster.node(guest.node)
    config = guest.config
    options = lab.vm_options
    machine = options.parts("machine", config["machine"]).get("type", "") if "machine" in config else ""
    wanted = {key: options.parts(key, config[key]) for key in sorted(config) if re.fullmatch(r"hostpci\d+", key)}
    _require_machine(lab, guest, machine, wanted)
    cores = int(config.get("cores", "1")) * int(config.get("sockets", "1"))
    if cores > node.threads:
        raise failed(f"MAX {node.threads} vcpus allowed per VM on this node")
    _require_volumes(lab, guest)
    memory_mib = int(options.parts("memory", config.get("memory", "512"))["current"])
    if wanted:
        _require_pinned_memory(lab, guest, memory_mib)
    held = lab.pci.reserve(guest.node, guest.vmid, wanted)
    addresses = tuple(address for passthrough in held for address in passthrough.addresses)
    stuck = next((address for address in addresses if (guest.node, address) in lab.pci.stuck), None)
    if stuck is not None:
        lab.pci.release(guest.vmid)
        raise _CardLost(stuck)
    try:
        hardware = _hardware(lab, guest, cores, memory_mib, addresses)
        await lab.backend.start(hardware)
    except GuestFailure as failure:
        lab.pci.release(guest.vmid)
        raise failed(f"start failed: {failure}") from failure
    except BaseException:
        lab.pci.release(guest.vmid)
        raise
    guest.run = {"config": dict(config), "pci": list(addresses), "since": time.time(), "memory": memory_mib}
    guest.paused = False
    lab.powered_on(guest.vmid)
    lab.cluster.save_guest(guest)


async def stop(lab: Lab, task: Task, node: str, vmid: int, *, skip_lock: bool = False) -> None:
    """Do the work of a stop task: cut the power."""
    async with lab.vm_lock(vmid):
        guest = lab.cluster.vm(node, vmid)
        if not skip_lock:
            require_unlocked(guest)
        if lab.is_running(guest):
            await lab.backend.kill(vmid)
            task.log(f"VM {vmid} stopped")


async def shutdown(
    lab: Lab,
    task: Task,
    node: str,
    vmid: int,
    *,
    timeout: int | None = None,
    force: bool = False,
    skip_lock: bool = False,
) -> None:
    """Do the work of a shutdown task: ask, wait, and cut the power only when told to."""
    async with lab.vm_lock(vmid):
        guest = lab.cluster.vm(node, vmid)
        if not skip_lock:
            require_unlocked(guest)
        await _shut_down(lab, task, guest, timeout, force=force)


async def reboot(lab: Lab, task: Task, node: str, vmid: int, *, timeout: int | None = None) -> None:
    """Do the work of a reboot task: a shutdown and a cold start, which applies pending settings."""
    async with lab.vm_lock(vmid):
        guest = lab.cluster.vm(node, vmid)
        require_unlocked(guest)
        await _shut_down(lab, task, guest, timeout, force=False)
        guest.config = with_pending(guest)
        guest.pending = {}
        await power_on(lab, guest)


async def reset(lab: Lab, task: Task, node: str, vmid: int) -> None:
    """Do the work of a reset: off and on again without giving anything back."""
    async with lab.vm_lock(vmid):
        guest = lab.cluster.vm(node, vmid)
        run = guest.run
        if run is None:
            raise failed(f"VM {vmid} not running")
        lab.restarting.add(vmid)
        try:
            await lab.backend.kill(vmid)
            lab.pci.release(vmid)
            await power_on(lab, guest)
        except BaseException:
            lab.cleaned_up(guest)
            raise
        finally:
            lab.restarting.discard(vmid)
        task.log(f"VM {vmid} reset")


async def suspend_to_disk(lab: Lab, task: Task, node: str, vmid: int) -> None:
    """Do the work of hibernation: off, with a lock that the next start takes away."""
    async with lab.vm_lock(vmid):
        guest = lab.cluster.vm(node, vmid)
        await lab.backend.kill(vmid)
        guest.config["lock"] = "suspended"
        lab.cluster.save_guest(guest)
        task.log(f"VM {vmid} suspended")


async def _shut_down(lab: Lab, task: Task, guest: Guest, timeout: int | None, *, force: bool) -> None:
    vmid = guest.vmid
    if not lab.is_running(guest):
        return
    seconds = timeout if timeout is not None else _startup_down(lab, guest)
    try:
        await lab.backend.powerdown(vmid)
    except GuestFailure:
        # Neither its agent nor QEMU takes orders.
        if not force:
            raise failed("VM quit/powerdown failed") from None
        task.log("VM quit/powerdown failed - terminating now with SIGTERM")
    else:
        if await lab.wait_off(vmid, seconds):
            return
        if not force:
            raise failed("VM quit/powerdown failed - got timeout")
        task.log("VM still running - terminating now with SIGTERM")
    await lab.backend.kill(vmid)


def _startup_down(lab: Lab, guest: Guest) -> int:
    if "startup" in guest.config:
        down = lab.vm_options.parts("startup", guest.config["startup"]).get("down")
        if down is not None:
            return int(down)
    return DEFAULT_SHUTDOWN_SECONDS


def _require_machine(lab: Lab, guest: Guest, machine: str, wanted: Mapping[str, Mapping[str, str]]) -> None:
    from provisioner.lab.core import QEMU_VERSIONS

    pinned = re.search(r"-(\d+)\.(\d+)", machine)
    installed = QEMU_VERSIONS[lab.major]
    if pinned is not None and (int(pinned[1]), int(pinned[2])) > tuple(map(int, installed.split(".")[:2])):
        raise failed(
            f"Installed QEMU version '{installed}' is too old to run machine type '{machine}', "
            f"please upgrade node '{guest.node}'"
        )
    for parts in wanted.values():
        if "host" not in parts and "mapping" not in parts:
            raise failed("either 'host' or 'mapping' must be set")
        if parts.get("pcie") == "1" and "q35" not in machine:
            raise failed("q35 machine model is not enabled")


def _require_volumes(lab: Lab, guest: Guest) -> None:
    for _, parts in drives(guest.config, lab.vm_options):
        split = split_volume_id(parts["file"])
        if split is None:
            continue
        lab.storages.require_usable(lab.cluster.storage(split[0]), guest.node)
        if not lab.storages.exists(parts["file"]):
            raise failed(f"volume '{parts['file']}' does not exist")
    custom = guest.config.get("cicustom")
    if custom is not None:
        for volid in lab.vm_options.parts("cicustom", custom).values():
            if not lab.storages.exists(volid):
                raise failed(f"volume '{volid}' does not exist")


def _require_pinned_memory(lab: Lab, guest: Guest, memory_mib: int) -> None:
    """A VM with a passed-through device needs all its memory at once, and so do its neighbours of the same kind."""
    pinned = sum(
        int(str((other.run or {}).get("memory", 0)))
        for other in lab.cluster.guests.values()
        if other.node == guest.node and other.vmid != guest.vmid and (other.run or {}).get("pci")
    )
    if (pinned + memory_mib) * _MIB > lab.cluster.nodes[guest.node].memory_bytes:
        raise failed("start failed: QEMU exited with code 1")


def _hardware(lab: Lab, guest: Guest, cores: int, memory_mib: int, pci: tuple[str, ...]) -> GuestHardware:
    config = guest.config
    options = lab.vm_options
    found = dict(drives(config, options))
    disk = next(
        (found[key]["file"] for key in boot_order(config, options) if key in found and not is_cdrom(found[key])), None
    )
    seed = next(
        (parts for parts in found.values() if is_cdrom(parts) and split_volume_id(parts["file"]) is not None), None
    )
    if seed is not None and is_cloudinit(seed):
        cloudinit.write_seed(lab, guest, lab.storages.path(seed["file"]))
    net = options.parts("net0", config["net0"]) if "net0" in config else {}
    agent = options.parts("agent", config["agent"]) if "agent" in config else {}
    return GuestHardware(
        vmid=guest.vmid,
        name=config.get("name", f"VM {guest.vmid}"),
        cores=cores,
        memory_mib=memory_mib,
        mac=net.get("macaddr", ""),
        disk=lab.storages.path(disk) if disk is not None and split_volume_id(disk) is not None else None,
        seed=lab.storages.path(seed["file"]) if seed is not None else None,
        pci=pci,
        agent=agent.get("enabled") == "1",
        config=dict(config),
        more_disks=tuple(
            data_disk(lab, key, parts)
            for key, parts in found.items()
            if is_data_disk(key, parts) and parts["file"] != disk
        ),
    )


def is_data_disk(key: str, parts: Mapping[str, str]) -> bool:
    """Say whether a drive is a disk that a guest sees, be it the boot disk."""
    is_disk = re.fullmatch(r"(?:ide|sata|scsi|virtio)\d+", key) is not None and not is_cdrom(parts)
    return is_disk and split_volume_id(parts["file"]) is not None


def data_disk(lab: Lab, key: str, parts: Mapping[str, str]) -> DataDisk:
    """Return what a backend must know of a disk beside the boot disk."""
    return DataDisk(key, lab.storages.path(parts["file"]), parts.get("serial", ""))
