"""A VM's configuration as text: taking options apart, printing them, the digest."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping

from provisioner.lab.model import Guest
from provisioner.lab.schema.formats import split_list
from provisioner.lab.schema.language import Param, ParamTable, for_major
from provisioner.lab.schema.qemu_options import ALL_DRIVE_KEYS, OPTIONS
from provisioner.lab.schema.validate import Parts, Schema

NEW_DISK = re.compile(r"(?:([^/:\s]+):)?(\d+(?:\.\d+)?)")
MAC_PREFIX = "BC:24:11"
_DRIVES = frozenset(ALL_DRIVE_KEYS)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


class ConfigOptions:
    """What a major version knows about configuration options."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._table = ParamTable(for_major(OPTIONS, schema.major))

    def find(self, key: str) -> Param | None:
        """Return the declaration of an option."""
        return self._table.find(key)

    def exists(self, key: str) -> bool:
        """Say whether an option of that name exists."""
        return self._table.find(key) is not None

    def parts(self, key: str, value: str) -> Parts:
        """Take an option apart. Raises Refusal when it is malformed."""
        param = self._table.find(key)
        return self._schema.parts(param, value, key) if param is not None else {}

    def shown(self, key: str, value: str) -> str | int | float:
        """Return a stored value as the API shows it."""
        if key == "cipassword":
            return "**********"
        param = self._table.find(key)
        if param is not None and param.type in ("integer", "boolean", "number"):
            try:
                return int(value)
            except ValueError:
                return value
        return value


def is_drive(key: str) -> bool:
    """Say whether an option is a drive, firmware variables and TPM state included."""
    return key in _DRIVES


def is_cdrom(parts: Mapping[str, str]) -> bool:
    """Say whether a drive is an optical one."""
    return parts.get("media") == "cdrom"


def is_cloudinit(parts: Mapping[str, str]) -> bool:
    """Say whether a drive is (to become) the one that Proxmox writes cloud-init data to."""
    name = parts.get("file", "").rpartition(":")[2].rpartition("/")[2]
    return name == "cloudinit" or re.fullmatch(r"vm-\d+-cloudinit(\.\w+)?", name) is not None


def drives(config: Mapping[str, str], options: ConfigOptions) -> Iterator[tuple[str, Parts]]:
    """Yield every drive of a configuration, taken apart."""
    for key in sorted(config):
        if is_drive(key):
            yield key, options.parts(key, config[key])


def printed(parts: Mapping[str, str], first: str = "file") -> str:
    """Return a property string, the main sub-key first and the others in order."""
    rest = [f"{key}={parts[key]}" for key in sorted(parts) if key != first]
    return ",".join([parts[first], *rest]) if first in parts else ",".join(rest)


def printed_net(parts: Mapping[str, str]) -> str:
    """Return a network option, the address written behind the model."""
    rest = [f"{key}={parts[key]}" for key in sorted(parts) if key not in ("model", "macaddr")]
    head = f"{parts['model']}={parts['macaddr']}" if "macaddr" in parts else parts["model"]
    return ",".join([head, *rest])


def with_mac(value: str, options: ConfigOptions, key: str) -> str:
    """Return a network option that has an address."""
    parts = options.parts(key, value)
    if "macaddr" not in parts:
        parts["macaddr"] = ":".join([MAC_PREFIX, *(f"{byte:02X}" for byte in secrets.token_bytes(3))])
    return printed_net(parts)


def normal_tags(value: str) -> str:
    """Return tags lower-cased, sorted, each once."""
    return ";".join(sorted({tag.lower() for tag in split_list(value)}))


def bytes_of(size: str) -> int:
    """Return a size with a unit as a number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", size)
    if found is None:
        raise ValueError(size)
    return int(float(found[1]) * _UNITS[found[2]])


def size_text(size_bytes: int) -> str:
    """Return a size the way configurations write it: the largest unit that divides it."""
    for unit in ("T", "G", "M", "K"):
        if size_bytes and size_bytes % _UNITS[unit] == 0:
            return f"{size_bytes // _UNITS[unit]}{unit}"
    return str(size_bytes)


def digest(guest: Guest) -> str:
    """Return the digest that guards updates."""
    lines = [f"{key}: {guest.config[key]}" for key in sorted(guest.config)]
    lines += ["[PENDING]", *(f"{key}: {guest.pending[key]}" for key in sorted(guest.pending))]
    return hashlib.sha1("\n".join(lines).encode(), usedforsecurity=False).hexdigest()


def with_pending(guest: Guest) -> dict[str, str]:
    """Return the configuration that the next cold start will have."""
    config = dict(guest.config)
    for key, value in guest.pending.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    return config


def boot_order(config: Mapping[str, str], options: ConfigOptions) -> list[str]:
    """Return the devices to boot from: as told, else first disk, first optical drive, first network card."""
    if "boot" in config:
        order = options.parts("boot", config["boot"]).get("order")
        if order is not None:
            return split_list(order)
    disks = [key for key, parts in drives(config, options) if not is_cdrom(parts) and key[0] not in "et"]
    optical = [key for key, parts in drives(config, options) if is_cdrom(parts)]
    cards = sorted(key for key in config if re.fullmatch(r"net\d+", key))
    return [*disks[:1], *optical[:1], *cards[:1]]
