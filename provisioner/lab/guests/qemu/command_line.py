"""Builds the command line of one guest. Pure: everything is told, nothing is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioner.lab.guests.acceleration import Acceleration
from provisioner.lab.guests.base import DataDisk, GuestHardware
from provisioner.lab.guests.qemu.network import GuestNetwork

FIRST_CARD_SLOT = 0x10
"""Where handed-over cards sit on the guest's bus, clear of the slots QEMU deals out from the bottom."""

DISK_NODE = "disk0"
"""What the monitor calls the boot disk."""

SCSI_BUS = "scsihw.0"
"""Where disks beside the boot disk are, also those that are plugged in while the guest runs."""


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """Where a running guest keeps its pid, its sockets and its logs."""

    pid: Path
    monitor: Path
    agent: Path
    serial: Path
    log: Path
    variables: Path


@dataclass(frozen=True, slots=True)
class Boot:
    """What to load at power on: a kernel directly, or firmware (UEFI when `uefi` has its code)."""

    kernel: Path | None = None
    cmdline: str = ""
    uefi: Path | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a guest gets here, whatever its configuration asks for."""

    cores: int
    memory_mib: int


def command_line(
    hardware: GuestHardware,
    *,
    files: GuestFiles,
    boot: Boot,
    network: GuestNetwork | None,
    acceleration: Acceleration,
    limits: Limits,
) -> list[str]:
    """Return the program and its arguments."""
    command = ["qemu-system-x86_64", "-name", f"{hardware.name},debug-threads=on", "-nodefaults", "-no-user-config"]
    command += ["-machine", "q35", *_processor(acceleration)]
    command += ["-smp", str(min(hardware.cores, limits.cores)), "-m", str(min(hardware.memory_mib, limits.memory_mib))]
    command += ["-display", "none", "-serial", f"file:{_escaped(files.serial)}"]
    command += ["-qmp", f"unix:{_escaped(files.monitor)},server=on,wait=off"]
    # QEMU leaves our session and returns once the guest runs, or says why not and fails;
    # the guest then outlives the lab.
    command += ["-pidfile", str(files.pid), "-daemonize"]
    command += _disks(hardware, direct_boot=boot.kernel is not None)
    command += _firmware(boot, files)
    netdev = network.netdev() if network is not None else "user,id=net0,restrict=on,ipv6=off"
    command += ["-netdev", netdev, "-device", f"virtio-net-pci,netdev=net0,mac={hardware.mac},romfile="]
    command += ["-device", "virtio-rng-pci"]
    if hardware.agent:
        command += ["-device", "virtio-serial-pci"]
        command += ["-chardev", f"socket,id=qga0,path={_escaped(files.agent)},server=on,wait=off"]
        command += ["-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"]
    for index, _card in enumerate(hardware.pci):
        # There is no graphics card to hand over; a test device stands in for each, so that the
        # guest finds as many devices on its bus as it was given. No driver binds to it.
        command += ["-device", f"pci-testdev,addr={FIRST_CARD_SLOT + index:#x}"]
    return command


def _processor(acceleration: Acceleration) -> list[str]:
    if acceleration is Acceleration.KVM:
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]


def _disks(hardware: GuestHardware, *, direct_boot: bool) -> list[str]:
    command: list[str] = []
    if hardware.disk is not None:
        # Unsafe caching drops flushes: a guest survives its own death, not the host's. It is a lab.
        drive = f"if=none,id={DISK_NODE},file={_escaped(hardware.disk)},format=qcow2,cache=unsafe,discard=unmap"
        # The kernel has NVMe built in and finds its root without an initrd; firmware and the
        # initrds of cloud images are surest with virtio.
        device = (
            f"nvme,drive={DISK_NODE},serial=root" if direct_boot else f"virtio-blk-pci,drive={DISK_NODE},bootindex=1"
        )
        command += ["-drive", drive, "-device", device]
    if hardware.seed is not None:
        command += ["-drive", f"if=none,id=seed,file={_escaped(hardware.seed)},format=raw,readonly=on"]
        command += ["-device", "virtio-blk-pci,drive=seed"]
    # There before any disk is: one that is plugged in needs a bus to be plugged into.
    command += ["-device", f"virtio-scsi-pci,id={SCSI_BUS.partition('.')[0]}"]
    for disk in hardware.more_disks:
        node = data_node(disk)
        command += ["-drive", f"if=none,id={node},file={_escaped(disk.path)},format=qcow2,cache=unsafe,discard=unmap"]
        told = "".join(f",{key}={value}" for key, value in data_device(disk).items() if key != "driver")
        command += ["-device", f"{data_device(disk)['driver']}{told}"]
    return command


def data_node(disk: DataDisk) -> str:
    """Return what the monitor calls a disk beside the boot disk."""
    return f"data-{disk.name}"


def data_device(disk: DataDisk) -> dict[str, str]:
    """Return the device of a disk beside the boot disk, as the monitor takes it too."""
    told = {"driver": "scsi-hd", "bus": SCSI_BUS, "drive": data_node(disk), "id": disk.name}
    return told | ({"serial": disk.serial} if disk.serial else {})


def _firmware(boot: Boot, files: GuestFiles) -> list[str]:
    if boot.kernel is not None:
        return ["-kernel", str(boot.kernel), "-append", boot.cmdline]
    if boot.uefi is not None:
        return [
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_escaped(boot.uefi)}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={_escaped(files.variables)}"),
        ]
    return []


def _escaped(path: Path) -> str:
    """Write a path inside a comma-separated option."""
    return str(path).replace(",", ",,")
