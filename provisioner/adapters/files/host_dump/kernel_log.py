"""Reads what the kernel log says of IOMMU, interrupt remapping, vfio and the boot framebuffer.

Wordings differ between Intel and AMD and have changed over ten years of
kernels, so each pattern is as loose as its neighbours allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from provisioner.adapters.files.host_dump.pci import ADDRESS, full_address
from provisioner.domain.host import KernelLog, MemoryRange, PciAddress

_FRAMEBUFFER = r"(?:efifb|vesafb|bootfb|simplefb|simple-framebuffer|simpledrm)"
IS_FRAMEBUFFER = re.compile(_FRAMEBUFFER, re.IGNORECASE)

# One cheap look at every line of a log that may hold hundreds of thousands; lower case.
_RELEVANT = (
    "iommu", "dmar", "amd-vi", "vfio", "remapping", "ivrs", "acs override", "command line:", "linux version",
    "bar ", "reg 0x", "vgaarb", "efifb", "vesafb", "bootfb", "simplefb", "simple-framebuffer", "simpledrm",
)  # fmt: skip
MAX_MESSAGES = 20_000
# The kernel's own limit is a little below 1024; only its command line is longer.
MAX_MESSAGE_LENGTH, MAX_COMMAND_LINE_LENGTH = 1024, 4096

_STAMPED = ("[", "<")
_STAMP = re.compile(
    r"^\s*(?:<\d+>)?(?:\[[^\]]{0,40}\d[^\]]{0,40}\]\s*)+|^\w{3} +\d+ [\d:]{8} \S+ kernel: (?:\[ *[\d.]+\] )?"
)

# Intel kernels say these two as well, so they tell nothing of AMD.
_NO_EVIDENCE = re.compile(r"IOMMUv2 (?:functionality not available|driver by)", re.IGNORECASE)

_ADDS = re.compile(r"(?:Adding to iommu group|Adding device \S+ to (?:iommu )?group) (\d+)", re.IGNORECASE)
_ADDED_DEVICE = re.compile(rf"({ADDRESS})", re.IGNORECASE)
# Lines of DMAR-IR are left out: interrupts are remapped without the IOMMU too, and `dmesg | grep IOMMU` shows
# little else on kernels that turn the IOMMU on by themselves.
_HARDWARE = re.compile(
    r"DMAR: (?:Host address width|DRHD base|RMRR base|ATSR flags|dmar\d+: reg_base|IOMMU \d+:? reg_base)"
    r"|ACPI: (?:Reserving )?(?:DMAR|IVRS)\b",
    re.IGNORECASE,
)
_ON = re.compile(
    r"IOMMU:? enabled|DMAR: IOMMU feature|Virtualization Technology for Directed I/O|DMAR: No (?:RMRR|ATSR|SATC) found"
    r"|DMAR: (?:dmar\d+|IOMMU \d+.*): using (?:queued|register)|IOMMU \d+ 0x\w+: using (?:queued|register)"
    r"|(?:hardware|software)? ?identity map(?:ping)? for device|AMD-Vi: (?!.*(?:AMD IOMMU|IOMMU) disabled)",
    re.IGNORECASE,
)
_OFF = re.compile(
    r"\bIOMMU:? (?:is )?disabled|No DMAR devices found|DMAR: Initialization failed|DMAR table (?:not|is missing)"
    r"|DMAR: Failed to map dmar|DMAR reported at address 0|AMD-Vi: .*IVRS.*not found|AMD-Vi: AMD-Vi disabled",
    re.IGNORECASE,
)

_REMAPPING = r"(?:interrupt|IRQ|intr)[- ]remapping"
_INTERRUPTS_OFF = re.compile(
    rf"(?:disabling|disabled|\bno|without|failed to enable|not enabling|unable to enable) {_REMAPPING}"
    rf"|{_REMAPPING} (?:\S+ ){{0,3}}?(?:disabled|not enabled|not supported|not available|not found|broken)\b"
    # An erratum's message, of which every line may have a time stamp of its own and so be a message of its own.
    rf"|enable {_REMAPPING} failed|{_REMAPPING} is being$|BIOS has enabled {_REMAPPING}$",
    re.IGNORECASE,
)
_INTERRUPTS_ON = re.compile(rf"enabled {_REMAPPING}|{_REMAPPING} enabled", re.IGNORECASE)
_INTEL = re.compile(r"DMAR(?:-IR)?:|ACPI: DMAR|Intel-IOMMU:|(?:^|\s)dmar:")
_AMD = re.compile(r"AMD-Vi:|ACPI: IVRS")

_ACS = re.compile(r"PCIe ACS overrides? enabled", re.IGNORECASE)
# What vfio-pci says only once somebody opened the device, which takes a group; its probe speaks without one too.
_OPENED = re.compile(
    rf"vfio-pci {ADDRESS}: (?!.*noiommu).*(?:can.?t reserve|enabling device|vfio_\w+: )", re.IGNORECASE
)
_RESERVE = re.compile(rf"vfio-pci ({ADDRESS}): .*BAR \d.*can.?t reserve", re.IGNORECASE)
_BAR = re.compile(rf"({ADDRESS}): .*(?:reg 0x\w+|BAR \d)\b.*\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)", re.IGNORECASE)
_ASSIGNED = re.compile(rf"({ADDRESS}): BAR \d+: assigned to {_FRAMEBUFFER}", re.IGNORECASE)
_AT = re.compile(
    rf"{_FRAMEBUFFER}.*?(?:framebuffer at|\[mem) 0x([0-9a-f]{{1,16}})(?:-0x([0-9a-f]{{1,16}}))?", re.IGNORECASE
)
_BOOT_VGA = re.compile(
    rf"({ADDRESS}): vgaarb: (?:setting as boot|boot VGA)|vgaarb: setting as boot device: PCI:({ADDRESS})", re.IGNORECASE
)


class Sieve:
    """Keeps what `messages` needs of a log that may hold hundreds of thousands of lines.

    A dropped line leaves a blank behind where a line that goes on would
    otherwise join the wrong message.
    """

    def __init__(self) -> None:
        self._base: int | None = None
        self._is_after_dropped = False

    def __call__(self, line: str) -> str | None:
        """Return what to keep of a line."""
        text = line.lstrip()
        if not text:
            return None
        indent = len(line) - len(text)
        goes_on = self._base is not None and indent > self._base and not text.startswith(_STAMPED)
        self._base = indent if self._base is None else self._base
        if goes_on or is_relevant(line.lower()):
            self._is_after_dropped = False
            return line
        if self._is_after_dropped:
            return None
        self._is_after_dropped = True
        return line[:indent]


def is_relevant(low: str) -> bool:
    """Say whether a message, in lower case, holds a word that any of our patterns looks for."""
    for stem in _RELEVANT:  # noqa: SIM110 - any() takes twice as long, and this looks at every line
        if stem in low:
            return True
    return False


def messages(lines: Iterable[str]) -> Iterator[str]:
    """Yield the messages worth reading, without their time stamps, each on one line.

    A line that is indented further than the first one and has no time stamp
    goes on with the message above it.
    """
    base: int | None = None
    parts: list[str] = []
    count = 0
    for line in lines:
        text = line.lstrip()
        indent = len(line) - len(text)
        base = indent if base is None else base
        if indent > base and parts and not text.startswith(_STAMPED):
            if len(parts) < 16:
                parts.append(text)
            continue
        if (message := _message(parts)) is not None:
            yield message
            count += 1
            if count == MAX_MESSAGES:
                return
        parts = [text]
    if (message := _message(parts)) is not None:
        yield message


def _message(parts: list[str]) -> str | None:
    text = parts[0] if len(parts) == 1 else " ".join(parts)
    low = text.lower()
    if not is_relevant(low):
        return None
    is_command_line = "command line:" in low
    return _STAMP.sub("", text)[: MAX_COMMAND_LINE_LENGTH if is_command_line else MAX_MESSAGE_LENGTH]


def log_from(texts: Iterable[str]) -> KernelLog:
    """Return what a log's messages say; the first message of a kind speaks for it."""
    seen: dict[str, str] = {}
    groups: dict[PciAddress, int] = {}
    cannot_reserve: dict[PciAddress, str] = {}
    framebuffer_on: dict[PciAddress, str] = {}
    framebuffers: list[MemoryRange] = []
    bars: list[MemoryRange] = []
    boot_vga: PciAddress | None = None
    for text in texts:
        low = text.lower()
        if "iommuv2" in low and _NO_EVIDENCE.search(text):
            continue
        if "command line:" in low:
            # Words on the command line are wishes, not events.
            if "pcie_acs_override" in low:
                seen.setdefault("acs", text)
            continue
        for name, stems, pattern in _FIRST_OF_ITS_KIND:
            if name not in seen and any(stem in low for stem in stems) and pattern.search(text):
                seen[name] = text
        if "adding" in low and (added := _ADDS.search(text)):
            if device := _ADDED_DEVICE.search(text):
                groups[full_address(device[1])] = int(added[1])
        elif "reserve" in low and (refused := _RESERVE.search(text)):
            cannot_reserve.setdefault(full_address(refused[1]), text)
        elif "assigned" in low and (assigned := _ASSIGNED.search(text)):
            framebuffer_on.setdefault(full_address(assigned[1]), text)
        elif ("fb" in low or "simple" in low) and (at := _AT.search(text)):
            start = int(at[1], 16)
            framebuffers.append(MemoryRange(start, int(at[2], 16) if at[2] else start, text))
        elif "vgaarb" in low and (boot := _BOOT_VGA.search(text)):
            boot_vga = boot_vga or full_address(boot[1] or boot[2])
        if "[mem " in low and (bar := _BAR.search(text)):
            bars.append(MemoryRange(int(bar[2], 16), int(bar[3], 16), full_address(bar[1])))
    return KernelLog(
        is_intel="intel" in seen,
        is_amd="amd" in seen,
        adds_to_group=seen.get("adds"),
        vfio_opens=seen.get("opens"),
        groups=groups,
        remapping_hardware=seen.get("hardware"),
        remapping_on=seen.get("on"),
        remapping_off=seen.get("off"),
        interrupt_remapping_on=seen.get("interrupts_on"),
        interrupt_remapping_off=seen.get("interrupts_off"),
        acs_override=seen.get("acs"),
        cannot_reserve=cannot_reserve,
        framebuffer_on=framebuffer_on,
        framebuffers=tuple(framebuffers),
        bars=tuple(bars),
        boot_vga=boot_vga,
    )


# Each kind with words that its messages cannot do without, which are quicker to look for than the pattern.
_FIRST_OF_ITS_KIND = (
    ("adds", (" group ",), _ADDS),
    ("opens", ("vfio-pci",), _OPENED),
    ("hardware", ("dmar", "ivrs"), _HARDWARE),
    ("on", ("enabled", "directed", "dmar", "identity", "amd-vi", "queued", "register"), _ON),
    ("off", ("disabled", "no dmar", "failed", "not ", "missing", "address 0"), _OFF),
    ("interrupts_on", ("enabled",), _INTERRUPTS_ON),
    ("interrupts_off", ("disab", "no", "unable", "fail", "without", "broken", "being", "bios"), _INTERRUPTS_OFF),
    ("acs", ("acs override",), _ACS),
    ("intel", ("dmar", "intel-iommu"), _INTEL),
    ("amd", ("amd-vi", "ivrs"), _AMD),
)
