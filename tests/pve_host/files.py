"""The stand-in's files: written once from a dump's sections, and anew at every boot what the kernel shows."""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.pve_host.machine import Booted, Device, Hardware, kernel_log, listing

HARDWARE = ".hardware"
ESP_UUID = "AB12-CD34"
ESP = f"{HARDWARE}/esp/{ESP_UUID}"
GRUB, SYSTEMD_BOOT = "grub", "systemd-boot"

_EFI_VARIABLE = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_FLAGS = {"GenuineIntel": "vmx ept ept_ad", "AuthenticAMD": "svm npt avic"}


def write(path: Path, text: str) -> None:
    """Write a file, with the folders above it; in place, so that what is mounted from it shows the change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_running(root: Path, sections: Mapping[str, str], devices: tuple[Device, ...], *, cpu: str) -> None:
    """Show what a dump shows: in /proc, in /sys, and in what commands print.

    A section that is absent is shown by nobody: its file is empty, its command is not installed or fails.
    """
    hardware = root / HARDWARE
    for name in ("lspci", "lsmod", "uname", "pveversion", "dmesg"):
        if name in sections:
            write(hardware / "show" / name, sections[name])
    write(hardware / "proc" / "cmdline", sections.get("cmdline", ""))
    write(hardware / "proc" / "iomem", sections.get("iomem", ""))
    write(hardware / "proc" / "cpuinfo", _cpuinfo(sections["cpu"]) if "cpu" in sections else "")
    write(hardware / "proc" / "meminfo", _meminfo(sections.get("hugepages", "")))
    write(hardware / "proc" / "boot_id", f"{uuid.uuid4()}\n")
    groups = groups_in(sections["iommu_groups"]) if "iommu_groups" in sections else None
    shown = {device.address: _driver_in(device, sections.get("lspci", "")) for device in devices}
    write_sys(root, devices, shown, groups, cpu=cpu, uefi=(root / HARDWARE / "uefi").exists())


def show_booted(root: Path, hardware: Hardware, booted: Booted) -> None:
    """Show what a boot left behind."""
    place = root / HARDWARE
    write(place / "proc" / "cmdline", booted.command_line + "\n")
    write(place / "proc" / "boot_id", f"{uuid.uuid4()}\n")
    write(place / "show" / "uname", booted.kernel + "\n")
    write(place / "show" / "lspci", listing(hardware.devices, booted.drivers))
    write(place / "show" / "dmesg", kernel_log(hardware, booted))
    modules = "".join(f"{name:<20} 16384  0\n" for name in booted.modules)
    write(place / "show" / "lsmod", "Module                  Size  Used by\n" + modules)
    if (place / "show" / "pveversion").exists():
        first = (place / "show" / "pveversion").read_text().split(" (running")[0].strip()
        write(place / "show" / "pveversion", f"{first} (running kernel: {booted.kernel})\n")
    groups = hardware.groups if booted.iommu_is_on else {}
    uefi = (place / "uefi").exists()
    write_sys(root, hardware.devices, booted.drivers, groups, cpu=hardware.cpu, uefi=uefi)


def write_sys(
    root: Path,
    devices: tuple[Device, ...],
    drivers: Mapping[str, str | None],
    groups: Mapping[str, int] | None,
    *,
    cpu: str,
    uefi: bool,
) -> None:
    """Write the excerpt of /sys. Without any knowledge of groups (None) their folder is not there."""
    sys = root / "sys"
    sys.mkdir(exist_ok=True)
    for entry in sys.iterdir():
        shutil.rmtree(entry)
    bus = sys / "bus" / "pci"
    (bus / "devices").mkdir(parents=True)
    (sys / "class" / "iommu").mkdir(parents=True)
    if uefi:
        variable = (root / HARDWARE / "secure_boot").read_text().strip() == "1"
        efivars = sys / "firmware" / "efi" / "efivars"
        efivars.mkdir(parents=True)
        (efivars / _EFI_VARIABLE).write_bytes(bytes([6, 0, 0, 0, int(variable)]))
    boots = next((device.address for device in devices if device.pci_class == "0300"), None)
    for device in devices:
        _write_device(sys, device, drivers.get(device.address), is_boot_vga=device.address == boots)
    if groups is None:
        return
    (sys / "kernel" / "iommu_groups").mkdir(parents=True)
    if groups:
        (sys / "class" / "iommu" / ("ivhd0" if cpu == "AuthenticAMD" else "dmar0")).mkdir()
    for address, number in groups.items():
        group = sys / "kernel" / "iommu_groups" / str(number)
        (group / "devices").mkdir(parents=True, exist_ok=True)
        (group / "devices" / address).symlink_to(f"../../../../devices/pci0000:00/{address}")
        folder = sys / "devices" / "pci0000:00" / address
        if folder.exists():
            (folder / "iommu_group").symlink_to(f"../../../kernel/iommu_groups/{number}")


def _write_device(sys: Path, device: Device, driver: str | None, *, is_boot_vga: bool) -> None:
    folder = sys / "devices" / "pci0000:00" / device.address
    folder.mkdir(parents=True)
    (sys / "bus" / "pci" / "devices" / device.address).symlink_to(f"../../../devices/pci0000:00/{device.address}")
    (folder / "vendor").write_text(f"0x{device.vendor}\n")
    (folder / "device").write_text(f"0x{device.device}\n")
    (folder / "class").write_text(f"0x{device.pci_class}00\n")
    (folder / "numa_node").write_text("-1\n")
    (folder / "driver_override").write_text("(null)\n")
    if device.pci_class.startswith("03"):
        (folder / "reset").write_text("")
        (folder / "reset_method").write_text("bus\n")
        if device.pci_class == "0300":
            (folder / "boot_vga").write_text(f"{int(is_boot_vga)}\n")
    if driver:
        place = sys / "bus" / "pci" / "drivers" / driver
        place.mkdir(parents=True, exist_ok=True)
        (folder / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")


def write_machine(root: Path, hardware: Hardware, **more: object) -> None:
    """Keep what a reboot does not change."""
    write(root / HARDWARE / "machine.json", json.dumps({"hardware": dataclasses.asdict(hardware), **more}))


def read_machine(root: Path) -> tuple[Hardware, dict[str, Any]]:
    """Return the hardware and the rest of what `write_machine` kept."""
    data = json.loads((root / HARDWARE / "machine.json").read_text())
    hardware = data.pop("hardware")
    devices = tuple(
        Device(**{**device, "details": tuple(device["details"]), "modules": tuple(device["modules"])})
        for device in hardware.pop("devices")
    )
    return Hardware(devices=devices, **hardware), data


def _driver_in(device: Device, lspci: str) -> str | None:
    inside = False
    for line in lspci.splitlines():
        if not line[:1].isspace():
            inside = device.head in line and line.split()[0] in (device.address, device.address.removeprefix("0000:"))
        elif inside and "Kernel driver in use: " in line:
            return line.partition("use: ")[2].strip()
    return None


def groups_in(listing: str) -> dict[str, int]:
    """Return the groups by address that a section `iommu_groups` lists."""
    paths = (line.split("/") for line in listing.splitlines() if "iommu_groups/" in line)
    return {parts[-1].strip(): int(parts[-3]) for parts in paths}


def _cpuinfo(section: str) -> str:
    values = dict(line.split(": ", 1) for line in section.splitlines() if ": " in line)
    vendor, model = values.get("vendor_id", "").strip(), values.get("model name", "").strip()
    return "".join(
        f"processor\t: {number}\n"
        + (f"vendor_id\t: {vendor}\n" if vendor else "")
        + (f"model name\t: {model}\n" if model else "")
        + f"flags\t\t: fpu vme de pse tsc msr pae mce cx8 apic {_FLAGS.get(vendor, '')}\n\n"
        for number in range(4)
    )


def _meminfo(huge_pages: str) -> str:
    base = "MemTotal:       65693484 kB\nMemFree:        41212124 kB\nMemAvailable:   52428800 kB\n"
    return base + "SwapTotal:       8388604 kB\n" + huge_pages
