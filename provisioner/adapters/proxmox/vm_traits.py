"""The traits of a VM in Proxmox's options: read into values that compare, written without touching the rest. Pure.

Options are text, written by many hands: numbers come as strings, tags in any
order, sub-keys in any order and with or without the name of the first. So a
trait is never compared as written. Of an option with sub-keys only ours are
read and replaced; a VLAN tag on the card or a cache mode on the disk is a
person's, and stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from provisioner.adapters.proxmox.native_drive import READ_NATIVE, WRITE_NATIVE
from provisioner.adapters.proxmox.property_strings import is_on, joined, network_parts, parts_of
from provisioner.domain.names import MappingId
from provisioner.domain.quantities import MIB, size_text
from provisioner.domain.vm_traits import (
    NO,
    NONE,
    PassedDevice,
    Trait,
    VmShape,
    listed,
    said,
    wanted_traits,
)

if TYPE_CHECKING:
    from provisioner.domain.actions import VmChange

BOOT_DISK: Final = "scsi0"
MODEL_DISK: Final = "scsi1"
Options = Mapping[str, object]
Settings = dict[str, str | int]

# What an option is when it is not set (qemu-server's own defaults).
_DEFAULTS: Final = {
    "ostype": "other", "cores": 1, "sockets": 1, "memory": 512, "cpu": "kvm64", "machine": "i440fx",
    "bios": "seabios", "scsihw": "lsi", "vga": "std", "serial0": NONE, "hugepages": NONE,
}  # fmt: skip
_HUGEPAGES: Final = {"2": "2MiB", "1024": "1GiB"}
_DISK_OPTIONS: Final = ("discard", "iothread", "ssd")
_NO_VARIABLES: Final = "no disk for it"


def tags_of(value: object) -> frozenset[str]:
    """Read tags; every separator that Proxmox accepts is read, and capitals do not count."""
    return frozenset(re.split(r"[;, ]+", str(value or "").lower())) - {""}


def passed_devices(options: Options) -> tuple[PassedDevice, ...]:
    """Read the devices passed through, in order."""
    found = []
    for key in options:
        match = re.fullmatch(r"hostpci(\d+)", key)
        if match is not None:
            parts = parts_of(options[key], "host")
            mapping = MappingId(parts["mapping"]) if "mapping" in parts else None
            found.append(PassedDevice(int(match[1]), mapping, parts.get("host", ""), is_on(parts.get("pcie", "0"))))
    return tuple(sorted(found, key=lambda device: device.index))


def traits_of(options: Options) -> dict[Trait, str]:
    """Read every trait but notes and GPUs, which need to know whose they are."""
    return {trait: read(options) for trait, read in _READ.items()}


def change_settings(options: Options, change: VmChange) -> tuple[Settings, tuple[str, ...]]:
    """Return what to set and what to delete so that the named traits become those of the shape.

    Args:
        options: the configuration as it is, pending changes applied.
        change: which traits, and the shape.
    """
    settings: Settings = {}
    for trait in sorted(change.traits, key=lambda trait: trait.name):
        if trait in _WRITE:
            settings |= _WRITE[trait](options, change.shape)
    if Trait.NOTES in change.traits and change.notes is not None:
        settings["description"] = change.notes
    if Trait.GPUS not in change.traits:
        return settings, ()
    gpus, deleted = _gpus(options, change)
    return settings | gpus, deleted


def is_as_asked(options: Options, change: VmChange) -> bool:
    """Say whether a change has been made."""
    seen, wanted = traits_of(options), wanted_traits(change.shape)
    seen[Trait.GPUS] = listed(device for device in passed_devices(options) if device.mapping in change.known_gpus)
    if Trait.NOTES in change.traits and change.notes is not None:
        # Proxmox keeps no newline at the end.
        seen[Trait.NOTES], wanted[Trait.NOTES] = str(options.get("description", "")).strip(), change.notes.strip()
    if not change.shape.tags <= tags_of(options.get("tags")):
        return False
    return all(seen[trait] == wanted[trait] for trait in change.traits - {Trait.TAGS} if trait in wanted)


def _gpus(options: Options, change: VmChange) -> tuple[Settings, tuple[str, ...]]:
    """Put our GPUs where they were, or where nothing of others is; what else is passed through stays."""
    devices = passed_devices(options)
    ours = {device.index: device for device in devices if device.mapping in change.known_gpus}
    others = {device.index for device in devices} - set(ours)
    free = (index for index in range(16) if index not in others)
    settings: Settings = {}
    for mapping, index in zip(change.shape.gpu_mappings, free, strict=False):
        key = f"hostpci{index}"
        keep = parts_of(options[key], "host") if index in ours and ours[index].mapping == mapping else {}
        settings[key] = joined({"mapping": mapping, **keep, "pcie": "1"})
    return settings, tuple(f"hostpci{index}" for index in sorted(ours) if f"hostpci{index}" not in settings)


def _value(options: Options, key: str) -> str:
    return str(options.get(key, _DEFAULTS.get(key, "")))


def _cores(options: Options) -> str:
    cores, sockets = _value(options, "cores"), _value(options, "sockets")
    return cores if sockets == "1" else f"{sockets} sockets of {cores}"


def _memory(options: Options) -> str:
    return size_text(int(parts_of(_value(options, "memory"), "current")["current"]) * MIB)


def _machine(options: Options) -> str:
    # A machine pinned to a version of QEMU by a person is still the same machine.
    kind = parts_of(_value(options, "machine"), "type").get("type", "")
    return "q35" if "q35" in kind else kind


def _secure_boot(options: Options) -> str:
    if "efidisk0" not in options:
        return _NO_VARIABLES
    parts = parts_of(options["efidisk0"], "file")
    size = parts.get("efitype", "2m")
    return said(is_on(parts.get("pre-enrolled-keys", "0"))) + ("" if size == "4m" else f" (in {size} variables)")


def _network(options: Options) -> str:
    if "net0" not in options:
        return NONE
    parts = network_parts(options["net0"])
    return f"{parts.get('model', '')} {parts.get('macaddr', '').upper()} on {parts.get('bridge', 'no bridge')}"


def _disk_options(options: Options) -> str:
    parts = parts_of(options.get(BOOT_DISK), "file")
    return listed(name for name in _DISK_OPTIONS if is_on(parts.get(name, "0")))


def _boot_order(options: Options) -> list[str]:
    return [name for name in parts_of(options.get("boot"), "legacy").get("order", "").split(";") if name]


def _display(options: Options) -> str:
    # The text console alone is no display.
    kind = parts_of(_value(options, "vga"), "type").get("type", "std")
    return NONE if kind.startswith("serial") else kind


_READ: Final[Mapping[Trait, Callable[[Options], str]]] = {
    Trait.NAME: lambda options: _value(options, "name"),
    Trait.TAGS: lambda options: listed(sorted(tags_of(options.get("tags")))),
    Trait.START_AT_BOOT: lambda options: said(is_on(options.get("onboot"))),
    Trait.PROTECTION: lambda options: said(is_on(options.get("protection"))),
    Trait.OS_TYPE: lambda options: _value(options, "ostype"),
    Trait.CORES: _cores,
    Trait.MEMORY: _memory,
    # Not set means: a balloon as large as the memory.
    Trait.BALLOONING: lambda options: (
        NO if str(options.get("balloon")) == "0" else f"to {options.get('balloon', 'all')}"
    ),
    Trait.NUMA: lambda options: said(is_on(options.get("numa"))),
    Trait.HUGEPAGES: lambda options: _HUGEPAGES.get(_value(options, "hugepages"), _value(options, "hugepages")),
    Trait.CPU: lambda options: parts_of(_value(options, "cpu"), "cputype").get("cputype", "kvm64"),
    Trait.MACHINE: _machine,
    Trait.FIRMWARE: lambda options: _value(options, "bios"),
    Trait.SECURE_BOOT: _secure_boot,
    Trait.NETWORK: _network,
    Trait.DISK_CONTROLLER: lambda options: _value(options, "scsihw"),
    Trait.DISK_OPTIONS: _disk_options,
    Trait.BOOT_DEVICE: lambda options: next(iter(_boot_order(options)), NONE),
    Trait.AGENT: lambda options: said(is_on(parts_of(options.get("agent"), "enabled").get("enabled", "0"))),
    Trait.SERIAL: lambda options: _value(options, "serial0"),
    Trait.DISPLAY: _display,
    **READ_NATIVE,
}


def _network_setting(options: Options, shape: VmShape) -> Settings:
    parts = network_parts(options.get("net0"))
    parts |= {"model": "virtio", "macaddr": shape.mac, "bridge": shape.bridge}
    card = {parts.pop("model"): parts.pop("macaddr"), **parts}
    return {"net0": joined(card)}


def _disk_setting(options: Options, shape: VmShape) -> Settings:
    parts = parts_of(options.get(BOOT_DISK), "file")
    return {BOOT_DISK: joined({**parts, "discard": "on", "iothread": "1", "ssd": "1"}, "file")}


def efi_disk(shape: VmShape) -> str:
    """Return the option that makes a disk for the firmware's variables; Proxmox ignores the size."""
    return f"{shape.disk_storage}:1,efitype=4m,pre-enrolled-keys={int(shape.secure_boot)}"


_WRITE: Final[Mapping[Trait, Callable[[Options, VmShape], Settings]]] = {
    Trait.NAME: lambda options, shape: {"name": shape.name},
    Trait.TAGS: lambda options, shape: {"tags": ";".join(sorted(tags_of(options.get("tags")) | shape.tags))},
    Trait.START_AT_BOOT: lambda options, shape: {"onboot": 0},
    Trait.PROTECTION: lambda options, shape: {"protection": int(shape.protection)},
    Trait.OS_TYPE: lambda options, shape: {"ostype": "l26"},
    Trait.CORES: lambda options, shape: {"cores": shape.cores, "sockets": 1},
    Trait.MEMORY: lambda options, shape: {"memory": shape.memory_bytes // MIB},
    Trait.BALLOONING: lambda options, shape: {"balloon": 0},
    Trait.NUMA: lambda options, shape: {"numa": int(shape.numa)},
    Trait.CPU: lambda options, shape: {
        "cpu": joined({**parts_of(options.get("cpu"), "cputype"), "cputype": "host"}, "cputype")
    },
    Trait.MACHINE: lambda options, shape: {
        "machine": joined({**parts_of(options.get("machine"), "type"), "type": "q35"}, "type")
    },
    Trait.FIRMWARE: lambda options, shape: {"bios": "ovmf"},
    Trait.SECURE_BOOT: lambda options, shape: {"efidisk0": efi_disk(shape)},
    Trait.NETWORK: _network_setting,
    Trait.DISK_CONTROLLER: lambda options, shape: {"scsihw": "virtio-scsi-single"},
    Trait.DISK_OPTIONS: _disk_setting,
    Trait.BOOT_DEVICE: lambda options, shape: {
        "boot": "order=" + ";".join([BOOT_DISK, *(name for name in _boot_order(options) if name != BOOT_DISK)])
    },
    Trait.AGENT: lambda options, shape: {
        "agent": joined({**parts_of(options.get("agent"), "enabled"), "enabled": "1"})
    },
    Trait.SERIAL: lambda options, shape: {"serial0": "socket"},
    Trait.DISPLAY: lambda options, shape: {"vga": "serial0"},
    **WRITE_NATIVE,
}
