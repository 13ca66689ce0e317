"""What is known of a hypervisor's hardware and kernel, however it was learnt: from a saved dump, the API, or SSH.

Every fact is optional, and None means unknown: never fine, never broken. An
empty collection is knowledge ("there are none"), None is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

PciAddress = NewType("PciAddress", str)  # domain:bus:device.function, lower case, as in sysfs

VFIO_DRIVER = "vfio-pci"
INTEL_CPU, AMD_CPU = "GenuineIntel", "AuthenticAMD"

_HOST_BRIDGE, _PCI_BRIDGE = "0600", "0604"
_AUDIO_CLASSES = frozenset({"0401", "0403"})  # multimedia audio controller, HD audio device


class Source(Enum):
    """Where facts come from."""

    DUMP = "dump"
    API = "api"
    SSH = "ssh"


class BootLoader(Enum):
    """Who hands the kernel its command line; each reads a file of its own."""

    GRUB = "grub"
    SYSTEMD_BOOT = "systemd-boot"


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """A kernel or Proxmox VE version, as far as comparing needs it; `text` is what was found."""

    major: int
    minor: int
    text: str = ""

    def is_at_least(self, major: int, minor: int) -> bool:
        """It is that version or a newer one."""
        return (self.major, self.minor) >= (major, minor)


@dataclass(frozen=True, slots=True)
class PciFunction:
    """One function of a PCI device. A part is None where the listing does not show it."""

    address: PciAddress
    class_code: str | None
    name: str
    vendor_id: str | None = None
    device_id: str | None = None
    driver: str | None = None
    is_driver_known: bool = False
    subsystem_id: str | None = None
    """``vendor:device`` of the card's maker, as PCI mappings want it."""
    offers_mdev: bool | None = None
    """It can be cut into mediated devices (vGPU)."""

    @property
    def ids(self) -> str | None:
        """``vendor:device``; None while one of them is unknown."""
        return f"{self.vendor_id}:{self.device_id}" if self.vendor_id and self.device_id else None

    @property
    def slot(self) -> str:
        """The address without its function."""
        return slot_of(self.address)

    @property
    def is_display(self) -> bool:
        """Class 03xx: VGA, 3D controller, display controller."""
        return self.class_code is not None and self.class_code.startswith("03")

    @property
    def is_audio(self) -> bool:
        """It carries sound."""
        return self.class_code in _AUDIO_CLASSES

    @property
    def is_host_bridge(self) -> bool:
        """Class 0600."""
        return self.class_code == _HOST_BRIDGE

    @property
    def is_bridge(self) -> bool | None:
        """A PCI or host bridge, which belongs to the way and not to the devices; None when its class is unknown."""
        return None if self.class_code is None else self.class_code in (_HOST_BRIDGE, _PCI_BRIDGE)

    @property
    def is_bound_to_vfio(self) -> bool | None:
        """`vfio-pci` drives it; None when nobody knows its driver."""
        return self.driver == VFIO_DRIVER if self.is_driver_known else None


@dataclass(frozen=True, slots=True)
class MemoryRange:
    """A stretch of physical addresses with its owner's name; `parents` are the names of the ranges around it."""

    start: int
    end: int
    name: str
    parents: tuple[str, ...] = ()

    def contains(self, other: MemoryRange) -> bool:
        """The other lies inside. Without root the kernel shows zeros, which say nothing."""
        return self.end > 0 and other.end > 0 and self.start <= other.start and other.end <= self.end


@dataclass(frozen=True, slots=True)
class ConfigLine:
    """A line of a configuration file and the file it stands in."""

    file: str
    text: str


@dataclass(frozen=True, slots=True)
class KernelLog:
    """What the kernel log says; a text is the message itself, and None that there is none of that kind.

    `is_whole` is False where the log is known to be cut: what it lacks may have been in the rest.
    """

    adds_to_group: str | None = None
    vfio_opens: str | None = None
    groups: Mapping[PciAddress, int] | None = None
    remapping_hardware: str | None = None
    remapping_on: str | None = None
    remapping_off: str | None = None
    interrupt_remapping_on: str | None = None
    interrupt_remapping_off: str | None = None
    is_intel: bool = False
    is_amd: bool = False
    acs_override: str | None = None
    cannot_reserve: Mapping[PciAddress, str] | None = None
    framebuffer_on: Mapping[PciAddress, str] | None = None
    framebuffers: tuple[MemoryRange, ...] = ()
    bars: tuple[MemoryRange, ...] = ()
    boot_vga: PciAddress | None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class HugePages:
    """Memory set aside for guests that ask for huge pages."""

    total: int
    free: int | None
    page_kib: int | None


@dataclass(frozen=True, slots=True)
class HostMemory:
    """A hypervisor's memory in bytes.

    `available` is what could be had by giving up caches too; Proxmox VE 8
    tells only what is `free`.
    """

    total: int
    free: int | None = None
    available: int | None = None

    @property
    def obtainable(self) -> int | None:
        """What a VM that starts now could get, as far as it is told."""
        return self.free if self.available is None else self.available


@dataclass(frozen=True, slots=True, eq=False)
class HostFacts:
    """Everything that may be known of one hypervisor's readiness for passthrough.

    `functions` is what the PCI listing shows; `group_listing` holds devices that
    only the listing of groups describes. `groups_are_whole` is False where the
    listing of groups is known to be cut: mates may be missing. `command_line` is what the kernel was
    started with, `boot_file` what a boot loader's file says (comments removed).
    `cut_sections` names what was too long to be read whole. `withheld` names, by
    section of a dump, the privilege without which the API did not tell it.
    `reset_methods` says of display devices by what the kernel can reset them, if
    by anything. Two gatherings are never equal, which lets what is derived from
    one be remembered beside it.
    """

    functions: Mapping[PciAddress, PciFunction] | None = None
    groups: Mapping[PciAddress, int] | None = None
    group_listing: Mapping[PciAddress, PciFunction] | None = None
    groups_are_whole: bool = True
    cpu_vendor: str | None = None
    cpu_model: str | None = None
    command_line: str | None = None
    kernel: Release | None = None
    pve: Release | None = None
    loaded_modules: frozenset[str] | None = None
    boot_modules: tuple[ConfigLine, ...] | None = None
    modprobe: tuple[ConfigLine, ...] | None = None
    log: KernelLog | None = None
    memory_map: tuple[MemoryRange, ...] | None = None
    boot_loader: BootLoader | None = None
    boot_file: tuple[str, ...] | None = None
    is_secure_boot: bool | None = None
    huge_pages: HugePages | None = None
    cut_sections: tuple[str, ...] = ()
    cpu_flags: frozenset[str] | None = None
    threads: int | None = None
    memory: HostMemory | None = None
    boot_mode: str | None = None
    reset_methods: Mapping[PciAddress, tuple[str, ...]] | None = None
    boot_vga: frozenset[PciAddress] | None = None
    sources: tuple[Source, ...] = (Source.DUMP,)
    withheld: Mapping[str, str] = field(default_factory=dict)


def slot_of(address: str) -> str:
    """Return `0000:01:00` for `0000:01:00.1`."""
    return address.rpartition(".")[0]


def bus_of(address: str) -> str:
    """Return `0000:01` for `0000:01:00.1`."""
    return address.rpartition(":")[0]


def address_order(address: str) -> tuple[int, ...]:
    """Return a sort key: by domain, bus, device, function, as numbers."""
    return tuple(int(part, 16) for part in re.split(r"[:.]", address))
