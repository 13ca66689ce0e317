"""Reads PCI listings: `lspci` with or without `-D`, `-k`, ids, and the many ways people list IOMMU groups.

The shape of a line decides, not its words: class, ids and addresses look the
same in every language.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from provisioner.domain.host import VFIO_DRIVER, PciAddress, PciFunction

ADDRESS = r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
_ADDRESS = re.compile(rf"(?<![\w:.]){ADDRESS}(?![\w:])", re.IGNORECASE)

# 01:00.0 VGA compatible controller [0300]: NVIDIA ... [10de:1b06] (rev a1), also after words of a groups script.
_SLOT_LINE = re.compile(rf"(?:^|\s)({ADDRESS})\s+(.*)$", re.IGNORECASE)
_CLASS_CODE = re.compile(r"\[([0-9a-f]{4})\](?::|$)", re.IGNORECASE)
_NUMERIC = re.compile(r'^"?(?:Class )?([0-9a-f]{4})"?: ([0-9a-f]{4}):([0-9a-f]{4})\b', re.IGNORECASE)
_IDS = re.compile(r"\[([0-9a-f]{4}):([0-9a-f]{4})\]", re.IGNORECASE)
_IDS_LAST = re.compile(r"\[[0-9a-f]{4}:[0-9a-f]{4}\]\s*$", re.IGNORECASE)
_CUT_IDS = re.compile(r"\[([0-9a-f]{4}):[0-9a-f]{0,4}$", re.IGNORECASE)
_CLASS_WORDS = {
    "vga compatible controller": "0300",
    "xga compatible controller": "0301",
    "3d controller": "0302",
    "display controller": "0380",
    "audio device": "0403",
    "multimedia audio controller": "0401",
    "pci bridge": "0604",
    "host bridge": "0600",
}
_VENDOR_WORDS = {
    "nvidia corporation": "10de",
    "advanced micro devices, inc. [amd/ati]": "1002",
    "advanced micro devices, inc. [amd]": "1022",
    "intel corporation": "8086",
    "aspeed technology": "1a03",
    "matrox electronics": "102b",
}

# A server with eight GPUs and all their virtual functions stays below a thousand.
MAX_FUNCTIONS = 4096

_KEY_LINE = re.compile(r"^\s+([^:]{2,60}?)\s*:\s*(.*)$")
_DRIVER_KEY = "kernel driver in use"
# Keys that an English listing may show below a device, apart from its driver.
_PLAIN_KEYS = (
    "subsystem", "devicename", "kernel modules", "flags", "capabilities", "control", "status", "latency",
    "interrupt", "region", "numa node", "iommu group", "physical slot", "expansion rom", "bus", "physical",
    "i/o behind", "memory behind", "prefetchable", "memory at", "i/o ports", "kernel module", "secondary", "bridgectl",
    "[virtual]", "!!!", "bist",
)  # fmt: skip
# What a copy that lost its tabs shows at the left edge.
_LOST_INDENT = ("Subsystem: ", "DeviceName: ", "Kernel driver in use: ", "Kernel modules: ")
# "driver" and "module" as translated listings write them; modules come first, for their words may hold both.
_MODULE_STEMS = ("modul", "módul", "модул", "moduł", "模块", "模組", "モジュール", "모듈")
_DRIVER_STEMS = (
    "driver", "treiber", "pilote", "controlador", "драйвер", "ovladač", "sterownik", "stuurprogramma",
    "drivrutin", "sürücü", "ajuri", "驱动", "驅動", "ドライバ", "드라이버",
)  # fmt: skip

_GROUP_PATH = re.compile(r"iommu_groups/(\d{1,6})\b")
_GROUP_WORDS = re.compile(r"(?:group|gruppe|groupe|grupo|gruppo|groep|группа|组|グループ)\W{0,8}(\d{1,6})\b", re.I)
_GROUP_STEMS = ("gr", "Gr", "GR", "гр", "ГР", "Гр", "组", "グ")
_GROUP_DETAIL = re.compile(r"\bIOMMU group:?\s*(\d{1,6})\s*$", re.IGNORECASE)  # below a device, in `lspci -v`
_GROUP_FIRST = re.compile(rf"^\s*(\d{{1,6}})(?:\s*[|:])?\s+(?={ADDRESS})", re.IGNORECASE)
_NOTHING_THERE = re.compile(
    r"no such file|cannot access|can't open|not found|no iommu|no groups?\b|^\s*0\s*$|/sys/(?:kernel|class)/iommu", re.I
)


@dataclass(slots=True)
class _Block:
    """A device's line and the indented lines below it."""

    head: str
    address: PciAddress
    details: list[str] = field(default_factory=list)


def full_address(text: str) -> PciAddress:
    """Return an address as sysfs writes it: lower case, with its domain."""
    text = text.lower()
    return PciAddress(text if text.count(":") == 2 else f"0000:{text}")


def functions_from(lines: Iterable[str], *, is_last_line_whole: bool = True) -> Mapping[PciAddress, PciFunction] | None:
    """Return the functions that a listing shows, or None when not one line of it can be read."""
    blocks = _blocks(lines)
    last = len(blocks) - 1
    functions: dict[PciAddress, PciFunction] = {}
    for index, block in enumerate(blocks):
        function = _function(block, is_cut=index == last and not is_last_line_whole)
        known = functions.get(function.address)
        # A device listed twice (once plainly, once with its driver) is described by the fuller listing.
        if known is None or (function.is_driver_known and not known.is_driver_known):
            functions[function.address] = function
    return functions or None


def groups_from(lines: tuple[str, ...]) -> Mapping[PciAddress, int] | None:
    """Return which device is in which IOMMU group.

    Empty means that the listing was made and shows none; None that it cannot be read.
    """
    groups: dict[PciAddress, int] = {}
    group: int | None = None
    last: PciAddress | None = None
    for line in lines:
        # Most of a listing that is none (30 MB of noise) is told by a look at its characters.
        if not (":" in line and "." in line) and not any(stem in line for stem in _GROUP_STEMS):
            continue
        detail = _GROUP_DETAIL.search(line) if line[:1].isspace() and group is None else None
        if detail is not None and last is not None:
            groups[last] = int(detail[1])
            continue
        # What follows the arrow of a link is the path through all bridges above the device.
        before, arrow, target = line.partition("->")
        named = _GROUP_PATH.search(before) or _GROUP_WORDS.search(before) or _GROUP_FIRST.search(before)
        if named is None and arrow:
            named = _GROUP_PATH.search(target)
        if named is not None:
            group = int(named[1])
        addresses = _ADDRESS.findall(before)
        if not addresses:
            continue
        last = full_address(addresses[0])
        if group is None:
            continue
        is_bare = not _ADDRESS.sub("", before).strip()
        for address in addresses if is_bare else addresses[:1]:
            groups[full_address(address)] = group
        if len(groups) >= MAX_FUNCTIONS:
            break
    if groups or all(_NOTHING_THERE.search(line) for line in lines):
        return groups
    return None


def _blocks(lines: Iterable[str]) -> list[_Block]:
    blocks: list[_Block] = []
    for line in lines:
        match = _SLOT_LINE.search(line)
        if match is not None and _is_head(line[: match.start()], match[2]):
            if len(blocks) == MAX_FUNCTIONS:
                break
            blocks.append(_Block(match[2].strip(), full_address(match[1])))
        elif blocks and len(blocks[-1].details) < 200 and (line[:1].isspace() or line.startswith(_LOST_INDENT)):
            blocks[-1].details.append(line if line[:1].isspace() else f"\t{line}")
    return blocks


def _is_head(before: str, rest: str) -> bool:
    """Tell a device's line from a detail that mentions an address."""
    if _CLASS_CODE.search(rest) or _NUMERIC.search(rest):
        return True
    return not before.strip() and rest.partition(":")[0].strip().lower() in _CLASS_WORDS


def _function(block: _Block, *, is_cut: bool) -> PciFunction:
    head = block.head
    vendor: str | None
    device: str | None
    if numeric := _NUMERIC.match(head):
        code, vendor, device = (part.lower() for part in numeric.groups())
        name = ""
    else:
        match = _CLASS_CODE.search(head)
        words, _, name = head.partition(":")
        if match is not None:
            words, name = head[: match.start()], head[match.end() :]
        code = match[1].lower() if match else _CLASS_WORDS.get(words.strip().lower())
        vendor, device = _ids(name)
        name = _IDS.sub("", re.sub(r"\s*\((?:rev|prog-if) [^)]*\)", "", name)).strip()
    driver, is_known = _driver(block.details, is_cut=is_cut)
    return PciFunction(block.address, code, name, vendor, device, driver, is_known, _subsystem(block.details))


def _subsystem(details: list[str]) -> str | None:
    for line in details:
        if line.lstrip().startswith("Subsystem:") and (pairs := _IDS.findall(line)):
            return f"{pairs[-1][0]}:{pairs[-1][1]}".lower()
    return None


def _ids(name: str) -> tuple[str | None, str | None]:
    # The last pair is the device's; its name may hold brackets too.
    if pairs := _IDS.findall(name):
        return pairs[-1][0].lower(), pairs[-1][1].lower()
    if cut := _CUT_IDS.search(name):
        return cut[1].lower(), None
    low = name.strip().lower()
    return next((vendor for words, vendor in _VENDOR_WORDS.items() if low.startswith(words)), None), None


def _driver(details: list[str], *, is_cut: bool) -> tuple[str | None, bool]:
    """Return the driver, and whether anything is known of it at all."""
    if not details:
        return None, False
    is_all_understood = True
    for line in details:
        match = _KEY_LINE.match(line)
        key, value = (match[1].strip().lower(), match[2].strip()) if match else (line.strip().lower(), "")
        if _is_driver_key(key):
            # A name that a terminal cut in the middle ("vfio-p") names no driver.
            if match is None or not value or " " in value or (value != VFIO_DRIVER and VFIO_DRIVER.startswith(value)):
                return None, False
            return value, True
        # In every language ids end the subsystem's line, and deeper lines belong to the one above.
        is_plain = key.startswith(_PLAIN_KEYS) or line.startswith("\t\t") or _IDS_LAST.search(line) is not None
        is_plain = is_plain or any(stem in key for stem in _MODULE_STEMS)
        is_all_understood = is_all_understood and is_plain
    return None, is_all_understood and not is_cut


def _is_driver_key(key: str) -> bool:
    if key == _DRIVER_KEY or (len(key) > len("kernel d") and _DRIVER_KEY.startswith(key)):
        return True
    if key.startswith(_PLAIN_KEYS) or any(stem in key for stem in _MODULE_STEMS):
        return False
    return any(stem in key for stem in _DRIVER_STEMS)
