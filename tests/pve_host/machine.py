"""The stand-in's hardware and what a boot makes of it; pure.

It decides as a Linux kernel does, as far as passthrough is concerned: which
command line counts, whether the IOMMU comes on, who drives which device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

INTEL, AMD = "GenuineIntel", "AuthenticAMD"
VFIO = "vfio-pci"

_SLOT = re.compile(r"^(?:([0-9a-f]{4}):)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7]) ")
_IDS = re.compile(r"\[([0-9a-f]{4}):([0-9a-f]{4})\](?!.*\[[0-9a-f]{4}:[0-9a-f]{4}\])")
_CLASS = re.compile(r"\[([0-9a-f]{4})\]:")
_BRIDGES = ("0600", "0604")
# Modules that lspci names for a GPU though they never take it by themselves.
_SHY = frozenset({"nvidiafb", "nvidia_drm"})


@dataclass(frozen=True)
class Device:
    """One PCI function. `driver` is the host's own choice, `shown` is false where the dump hides the drivers."""

    address: str
    head: str
    details: tuple[str, ...] = ()
    pci_class: str = "0000"
    vendor: str = "ffff"
    device: str = "ffff"
    modules: tuple[str, ...] = ()
    driver: str | None = None
    shown: bool = True

    @property
    def ids(self) -> str:
        """`10de:2204`."""
        return f"{self.vendor}:{self.device}"


@dataclass(frozen=True)
class Hardware:
    """What a reboot does not change. `groups` are those that appear once the IOMMU is on."""

    cpu: str
    devices: tuple[Device, ...]
    groups: Mapping[str, int]
    has_vtd: bool = True


@dataclass(frozen=True)
class Booted:
    """What a boot left behind."""

    command_line: str
    kernel: str
    iommu_is_on: bool
    drivers: Mapping[str, str | None] = field(default_factory=dict)
    modules: tuple[str, ...] = ()


def devices_from(lspci: str) -> tuple[Device, ...]:
    """Read the devices off `lspci -Dnnk`, `lspci -nn` and the like."""
    blocks: list[list[str]] = []
    for line in lspci.splitlines():
        if _SLOT.match(line):
            blocks.append([line])
        elif line[:1].isspace() and blocks:
            blocks[-1].append(line)
    return tuple(_device(head, details) for head, *details in blocks)


def _device(head: str, details: list[str]) -> Device:
    match = _SLOT.match(head)
    assert match is not None
    ids, code = _IDS.search(head), _CLASS.search(head)
    values = dict(line.strip().split(": ", 1) for line in details if ": " in line)
    modules = tuple(values["Kernel modules"].split(", ")) if "Kernel modules" in values else ()
    driver = values.get("Kernel driver in use")
    if driver == VFIO or driver is None:
        # The dump shows it taken or free; without vfio-pci the first module that wants it would have it.
        driver = next((module for module in modules if module not in _SHY), None)
    return Device(
        address=f"{match[1] or '0000'}:{match[2]}",
        head=head[match.end() :],
        details=tuple(line for line in details if not line.strip().startswith("Kernel driver")),
        pci_class=code[1] if code else "0000",
        vendor=ids[1] if ids else "ffff",
        device=ids[2] if ids else "ffff",
        modules=modules,
        driver=driver,
        shown=bool(details),
    )


def groups_for(devices: Iterable[Device], known: Mapping[str, int]) -> dict[str, int]:
    """Return a group for every device: the known ones, and for the rest one per slot."""
    groups = dict(known)
    fresh = max(groups.values(), default=-1) + 1
    of_slot: dict[str, int] = {}
    for device in devices:
        if device.address in groups:
            continue
        slot = device.address.rpartition(".")[0]
        if slot not in of_slot:
            of_slot[slot] = fresh
            fresh += 1
        groups[device.address] = of_slot[slot]
    return groups


def kernel_release(text: str) -> tuple[int, int]:
    """Return `(6, 8)` of `6.8.12-4-pve`."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def iommu_comes_on(hardware: Hardware, kernel: str, words: Iterable[str]) -> bool:
    """Tell whether the kernel turns the IOMMU on: AMD's by itself, Intel's by itself from 6.8."""
    words = set(words)
    if not hardware.has_vtd or "iommu=off" in words:
        return False
    if hardware.cpu == AMD:
        return "amd_iommu=off" not in words
    return "intel_iommu=off" not in words and ("intel_iommu=on" in words or kernel_release(kernel) >= (6, 8))


def boot(hardware: Hardware, kernel: str, command_line: str, initrd: str, boot_modules: Iterable[str]) -> Booted:
    """Boot.

    Args:
        hardware: the machine.
        kernel: its release.
        command_line: as the boot loader's own entry has it.
        initrd: the configuration that was packed into it, as lines `FILE: LINE`.
        boot_modules: names in /etc/modules and /etc/modules-load.d.
    """
    words = command_line.split()
    is_on = iommu_comes_on(hardware, kernel, words)
    rules = _rules(initrd, words)
    late = {name.replace("_", "-") for name in boot_modules}
    # A softdep loads vfio-pci only when some device asks for the driver that it precedes.
    wanted = {module for device in hardware.devices for module in (*device.modules, *filter(None, [device.driver]))}
    is_loaded = VFIO in rules.early or VFIO in late or bool(rules.softdeps & wanted) or bool(rules.overrides)
    drivers: dict[str, str | None] = {}
    for device in hardware.devices:
        host = _host_driver(device, rules.blacklist)
        is_claimed = device.address in rules.overrides or device.ids in rules.ids
        # /etc/modules is read late: a driver that nobody holds back has the card by then.
        is_first = device.address in rules.overrides or host is None or VFIO in rules.early or host in rules.softdeps
        if not (is_claimed and is_loaded and is_first):
            drivers[device.address] = host
        else:
            drivers[device.address] = VFIO if is_on else None  # vfio-pci refuses a device without a group
    modules = {driver.replace("-", "_") for driver in drivers.values() if driver}
    if is_loaded:
        modules |= {"vfio", "vfio_iommu_type1", "vfio_pci"}
    return Booted(f"{command_line}", kernel, is_on, drivers, tuple(sorted(modules)))


@dataclass(frozen=True)
class _Rules:
    ids: frozenset[str]
    softdeps: frozenset[str]
    blacklist: frozenset[str]
    early: frozenset[str]
    overrides: frozenset[str]


def _rules(initrd: str, words: list[str]) -> _Rules:
    ids: set[str] = set()
    softdeps: set[str] = set()
    blacklist: set[str] = set()
    early: set[str] = set()
    overrides: set[str] = set()
    for line in initrd.splitlines():
        file, _, text = line.partition(": ")
        if file.startswith("/etc/initramfs-tools/scripts/"):
            if "driver_override" in initrd:
                overrides.update(re.findall(r"\b[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\b", text))
            continue
        text = text.partition("#")[0].strip()
        parts = text.split()
        if file == "/etc/initramfs-tools/modules":
            early.update(part.replace("_", "-") for part in parts[:1])
        elif parts[:1] == ["options"] and len(parts) > 1 and parts[1].replace("_", "-") == VFIO:
            ids.update(_claimed(parts[2:], "ids="))
        elif parts[:1] == ["softdep"] and VFIO in text.replace("_", "-").partition("pre:")[2].split():
            softdeps.add(parts[1])
        elif parts[:1] == ["blacklist"]:
            blacklist.update(parts[1:2])
    for word in words:
        if word.startswith("modprobe.blacklist="):
            blacklist.update(word.partition("=")[2].split(","))
    ids.update(_claimed([word.replace("vfio_pci", VFIO) for word in words], f"{VFIO}.ids="))
    return _Rules(*(frozenset(found) for found in (ids, softdeps, blacklist, early, overrides)))


def _claimed(words: Iterable[str], key: str) -> list[str]:
    values = [word.removeprefix(key) for word in words if word.startswith(key)]
    return [":".join(part.split(":")[:2]).lower() for value in values for part in value.split(",")]


def _host_driver(device: Device, blacklist: frozenset[str]) -> str | None:
    if device.driver is None:
        return None
    candidates = dict.fromkeys([device.driver, *device.modules])
    return next((name for name in candidates if name not in blacklist and name not in _SHY), None)


def listing(devices: Iterable[Device], drivers: Mapping[str, str | None]) -> str:
    """Return what `lspci -Dnnk` prints."""
    lines = []
    for device in devices:
        lines.append(f"{device.address} {device.head}")
        before = [line for line in device.details if not line.strip().startswith("Kernel modules")]
        lines += before
        if driver := drivers.get(device.address):
            lines.append(f"\tKernel driver in use: {driver}")
        lines += [line for line in device.details if line not in before]
    return "".join(f"{line}\n" for line in lines)


def kernel_log(hardware: Hardware, booted: Booted) -> str:
    """Return what `dmesg` prints of a boot."""
    words = booted.command_line.split()
    lines = [f"Linux version {booted.kernel} (build@proxmox)", f"Command line: {booted.command_line}"]
    if hardware.cpu == INTEL and hardware.has_vtd:
        lines += ["ACPI: DMAR 0x000000007A1F1000 000070 (v01 INTEL  EDK2     00000002      01000013)"]
        lines += ["DMAR: IOMMU enabled"] * ("intel_iommu=on" in words)
        lines += ["DMAR: Host address width 39", "DMAR: DRHD base: 0x000000fed91000 flags: 0x1"]
        lines += ["DMAR-IR: Enabled IRQ remapping in x2apic mode"]
    if booted.iommu_is_on:
        kind = "Passthrough" if "iommu=pt" in words else "Translated"
        lines += [f"iommu: Default domain type: {kind}"]
        groups = sorted(hardware.groups.items(), key=lambda pair: (pair[1], pair[0]))
        lines += [f"pci {address}: Adding to iommu group {group}" for address, group in groups]
        if hardware.cpu == INTEL:
            lines += ["DMAR: Intel(R) Virtualization Technology for Directed I/O"]
        else:
            lines += ["pci 0000:00:00.2: AMD-Vi: Found IOMMU cap 0x40", "AMD-Vi: Interrupt remapping enabled"]
    lines += ["VFIO - User Level meta-driver version: 0.3"] * ("vfio_pci" in booted.modules)
    return "".join(f"[{index / 100:12.6f}] {line}\n" for index, line in enumerate(lines))
