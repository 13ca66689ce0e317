"""Reads the short sections: versions, CPU, command lines, module lists, memory map, switches."""

from __future__ import annotations

import re
from collections.abc import Iterable

from provisioner.adapters.files.host_dump.kernel_log import IS_FRAMEBUFFER
from provisioner.adapters.files.host_dump.pci import ADDRESS
from provisioner.domain.host import (
    AMD_CPU,
    INTEL_CPU,
    BootLoader,
    ConfigLine,
    HugePages,
    MemoryRange,
    Release,
)

Lines = tuple[str, ...]

_KERNEL = re.compile(r"(?<![\w.])(\d{1,2})\.(\d{1,3})(?:\.\d+)?(?:[-+~.]\S*)?")
_KERNEL_IN_COMMAND_LINE = re.compile(r"(?:vmlinu[zx]|initrd\.img)-((\d{1,2})\.(\d{1,3})[^\s/\\]*)", re.I)
_KERNEL_IN_TEXT = re.compile(r"(?:running kernel: |Linux version )((\d{1,2})\.(\d{1,3})[^\s)]*)", re.I)
_PVE = re.compile(r"pve-manager(?:/|: )((\d{1,2})\.(\d{1,3})[^\s/]*)")
_PVE_PACKAGE = re.compile(r"proxmox-ve: ((\d{1,2})\.(\d{1,3})\S*)")
_PATH_PREFIX = re.compile(r"^((?:/|etc/|\./)[^\s:]*|[\w.-]+\.conf|modules):\s*(.*)$")
_RANGE = re.compile(r"^(\s*)([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)$", re.IGNORECASE)
_LOGGED_COMMAND_LINE = re.compile(r"ommand line: (.*)$")


def cpu_vendor(lines: Lines) -> str | None:
    """Return the vendor's id as CPUID gives it."""
    named: str | None = None
    for line in lines:
        if match := re.search(r"\b(GenuineIntel|AuthenticAMD|HygonGenuine|CentaurHauls)\b", line):
            return match[1]
        if named is None and re.match(r"\s*(?:model name|model|modell\w*)\b.*:", line, re.IGNORECASE):
            named = INTEL_CPU if "Intel" in line else AMD_CPU if "AMD" in line else None
    return named


def cpu_model(lines: Lines) -> str | None:
    """Return the processor's name."""
    return next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")), None)


def command_line(lines: Lines) -> str | None:
    """Return `/proc/cmdline`."""
    return " ".join(line.strip() for line in lines) or None


def logged_command_line(messages: Iterable[str]) -> str | None:
    """Return the command line that the kernel logs at its start."""
    return next((match[1] for text in messages if (match := _LOGGED_COMMAND_LINE.search(text))), None)


def kernel_release(uname: Lines | None, others: Iterable[str]) -> Release | None:
    """Return the running kernel's release: `uname -r` first, then what other sections tell."""
    for line in uname or ():
        # `uname -a` puts the host's name first, which may look like a version; `uname -sr` leaves it out.
        words = line.split()
        texts = [*words[2:3], *words[1:2]] if words[:1] == ["Linux"] else words[:2]
        if match := next((match for text in texts if (match := _KERNEL.match(text))), None):
            return Release(int(match[1]), int(match[2]), match[0])
    for text in others:
        if "ernel" not in text and "vmlinu" not in text and "initrd" not in text and "Linux version" not in text:
            continue
        if found := _KERNEL_IN_TEXT.search(text) or _KERNEL_IN_COMMAND_LINE.search(text):
            return Release(int(found[2]), int(found[3]), found[1].removesuffix(".efi"))
    return None


def pve_release(lines: Lines) -> Release | None:
    """Return the version of Proxmox VE, from `pveversion` or `pveversion -v`."""
    for pattern in (_PVE, _PVE_PACKAGE):
        for line in lines:
            if match := pattern.search(line):
                return Release(int(match[2]), int(match[3]), match[1])
    return None


def loaded_modules(lines: Lines) -> frozenset[str]:
    """Return the modules that `lsmod` lists."""
    words = (line.split() for line in lines)
    return frozenset(parts[0] for parts in words if len(parts) >= 2 and parts[1].isdigit())


def config_lines(lines: Lines) -> tuple[ConfigLine, ...]:
    """Return lines of configuration, each with its file; comments and blank ones left out."""
    kept = []
    for line in lines:
        match = _PATH_PREFIX.match(line.strip())
        file, text = (match[1], match[2]) if match else ("", line.strip())
        text = text.partition("#")[0].strip()
        if text:
            kept.append(ConfigLine(file, text))
    return tuple(kept)


def boot_file(lines: Lines) -> tuple[str, ...]:
    """Return what a boot loader's file says, without comments and the file's own name."""
    texts = (match[2] if (match := _PATH_PREFIX.match(line.strip())) else line.strip() for line in lines)
    return tuple(text for text in texts if text and not text.startswith("#"))


def boot_loader(lines: Lines) -> BootLoader | None:
    """Return who boots this machine, by name or in the words of proxmox-boot-tool or efibootmgr."""
    text = "\n".join(lines).lower()
    is_systemd = bool(re.search(r"systemd-?boot|\buefi\b.*\(versions|gummiboot", text))
    is_grub = bool(re.search(r"\bgrub|shim(?:x64)?\.efi", text))
    if is_systemd == is_grub:
        return None
    return BootLoader.GRUB if is_grub else BootLoader.SYSTEMD_BOOT


def memory_map(lines: Lines) -> tuple[MemoryRange, ...]:
    """Return the ranges of `/proc/iomem` that are devices or framebuffers; deeper indentation means inside."""
    ranges = []
    around: list[tuple[int, str]] = []
    is_device = re.compile(rf"^{ADDRESS}$", re.IGNORECASE)
    for line in lines:
        match = _RANGE.match(line.expandtabs(2))
        if match is None:
            continue
        indent, name = len(match[1]), match[4].strip()
        while around and around[-1][0] >= indent:
            around.pop()
        if is_device.match(name) or IS_FRAMEBUFFER.search(name):
            parents = tuple(parent for _, parent in around)
            ranges.append(MemoryRange(int(match[2], 16), int(match[3], 16), name, parents))
        if len(around) < 16:
            around.append((indent, name))
    return tuple(ranges)


def secure_boot(lines: Lines) -> bool | None:
    """Return whether Secure Boot is on, as `mokutil --sb-state` or `bootctl` say."""
    text = "\n".join(lines).lower()
    if re.search(r"secure ?boot:? *(?:is )?(?:enabled|yes|on|1)\b", text):
        return True
    if re.search(r"secure ?boot:? *(?:is )?(?:disabled|no|off|0)\b|not supported|n't support", text):
        return False  # firmware without EFI variables cannot do it either
    return None


def huge_pages(lines: Lines) -> HugePages | None:
    """Return the huge pages that `/proc/meminfo` counts."""
    numbers: dict[str, int] = {}
    for line in lines:
        if match := re.match(r"\s*(Huge[pP]ages?_?\w*|nr_hugepages)\s*[:=]\s*(\d+)", line):
            numbers[match[1].lower()] = int(match[2])
        elif len(lines) == 1 and line.strip().isdigit():
            numbers["nr_hugepages"] = int(line)
    total = numbers.get("hugepages_total", numbers.get("nr_hugepages"))
    if total is None:
        return None
    return HugePages(total, numbers.get("hugepages_free"), numbers.get("hugepagesize"))
