"""The named formats of Proxmox: each says in Proxmox's words why a value does not fit.

A checker takes the text and returns nothing, or raises FormatProblem with the
message. ``x-list`` and ``x-opt`` are made from ``x`` as Proxmox makes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address, NetmaskValueError, ip_network

from provisioner.lab.schema import cpu_models, privileges
from provisioner.lab.schema.problem import FormatProblem

Checker = Callable[[str], None]


CONFIG_ID = r"[A-Za-z][A-Za-z0-9_-]+"
STORAGE_ID = r"[A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]"
USER = r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+"
TOKEN_NAME = r"[A-Za-z][A-Za-z0-9.\-_]+"  # noqa: S105 - a pattern
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?"
_DNS_NAME = rf"(?:{_LABEL}\.)*{_LABEL}"
_VOLUME_ID = re.compile(rf"{STORAGE_ID}:.+", re.ASCII)
_ENCODED = re.compile(r"[-%A-Za-z0-9_.!~*'()]*", re.ASCII)
_RETENTIONS = frozenset(f"keep-{span}" for span in ("all", "daily", "hourly", "last", "monthly", "weekly", "yearly"))
_CONTENTS = frozenset({"images", "rootdir", "vztmpl", "iso", "backup", "snippets", "none", "import"})


def split_list(value: str) -> list[str]:
    """Split a list as Proxmox does: NUL, comma, semicolon or white space."""
    return [part for part in re.split(r"[,;\s\0]+", value) if part]


def checker_for(name: str, major: int) -> Checker | None:
    """Return the checker of a named format, or None for formats without rules here."""
    if name == "pve-priv":
        known = privileges.names(major)
        return _member(known, "invalid privilege '{value}'")
    found = _CHECKERS.get(name)
    if found is not None:
        return found
    for suffix, wrap in (("-list", _each), ("-opt", _or_empty)):
        if name.endswith(suffix):
            inner = checker_for(name.removesuffix(suffix), major)
            return wrap(inner) if inner else None
    return None


def _each(inner: Checker) -> Checker:
    def check(value: str) -> None:
        for part in split_list(value):
            inner(part)

    return check


def _or_empty(inner: Checker) -> Checker:
    def check(value: str) -> None:
        if value:
            inner(value)

    return check


def _member(known: frozenset[str], message: str) -> Checker:
    def check(value: str) -> None:
        if value not in known:
            raise FormatProblem(message.format(value=value))

    return check


def _pattern(pattern: str, message: str) -> Checker:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> None:
        if compiled.fullmatch(value) is None:
            raise FormatProblem(message.format(value=value))

    return check


def _check_volume_id(value: str) -> None:
    if _VOLUME_ID.fullmatch(value) is None:
        raise FormatProblem(f"unable to parse volume ID '{value}'")


def _check_volume_or_path(value: str) -> None:
    if value not in ("none", "cdrom") and not value.startswith("/"):
        _check_volume_id(value)


def _check_volume_or_absolute_path(value: str) -> None:
    if not value.startswith("/"):
        _check_volume_id(value)


def _check_urlencoded(value: str) -> None:
    if _ENCODED.fullmatch(value) is None:
        raise FormatProblem(f"invalid urlencoded string: {value}")


def _check_ipv4(value: str) -> None:
    try:
        IPv4Address(value)
    except AddressValueError:
        raise FormatProblem("value does not look like a valid IPv4 address") from None


def _check_ipv6(value: str) -> None:
    try:
        IPv6Address(value)
    except AddressValueError:
        raise FormatProblem("value does not look like a valid IPv6 address") from None


def _network(version: int, words: tuple[str, ...], message: str) -> Checker:
    def check(value: str) -> None:
        if value in words:
            return
        address, slash, prefix = value.partition("/")
        try:
            if not slash or not prefix.isdigit() or ip_network(f"{address}/{prefix}", strict=False).version != version:
                raise FormatProblem(message)
        except (ValueError, NetmaskValueError):
            raise FormatProblem(message) from None

    return check


def _check_address(value: str) -> None:
    for check in (_check_ipv4, _check_ipv6, _pattern(_DNS_NAME, "")):
        try:
            return check(value)
        except FormatProblem:
            continue
    raise FormatProblem(f"value does not look like a valid address: {value}")


def _check_cpu(value: str) -> None:
    if value.startswith("custom-"):
        raise FormatProblem(f"Custom cputype '{value.removeprefix('custom-')}' not found")
    if value not in cpu_models.NAMES:
        raise FormatProblem(f"Built-in cputype '{value}' is not defined (missing 'custom-' prefix?)")


def _check_phys_bits(value: str) -> None:
    if value != "host" and not (value.isdigit() and 8 <= int(value) <= 64):
        raise FormatProblem("value must be an integer between 8 and 64 or 'host'")


def _check_hotplug(value: str) -> None:
    if value in ("0", "1"):
        return
    for feature in split_list(value):
        if feature not in ("network", "disk", "cpu", "memory", "usb", "cloudinit"):
            raise FormatProblem(f"invalid hotplug feature '{feature}'")


def _check_boot_device(value: str) -> None:
    if re.fullmatch(r"(?:ide|sata|scsi|virtio|net|hostpci|usb)\d+", value) is None:
        raise FormatProblem(f"invalid boot device '{value}'")


def _check_server(value: str) -> None:
    try:
        _check_address(value)
    except FormatProblem:
        raise FormatProblem("value does not look like a valid server name or IP address") from None


def _check_retention(value: str) -> None:
    kept = {}
    for part in value.split(","):
        name, _, count = part.partition("=")
        if name not in _RETENTIONS or not count.isdigit():
            raise FormatProblem(f"format error\n{name}: property is not defined in schema")
        kept[name] = int(count)
    if kept.pop("keep-all", 0) and any(kept.values()):
        raise FormatProblem("keep-all cannot be set together with other options.")


_CHECKERS: dict[str, Checker] = {
    "CIDR": _pattern(r"[0-9a-fA-F.:]+/\d+", "value does not look like a valid CIDR network"),
    "address": _check_address,
    "disk-size": _pattern(r"\d+(?:\.\d+)?[KMGT]?", "value does not look like a valid disk size: {value}"),
    "dns-name": _pattern(_DNS_NAME, "value does not look like a valid DNS name"),
    "email": _pattern(r"[\w+.~-]+@[\w.-]+", "value does not look like a valid email address"),
    "ipv4": _check_ipv4,
    "ipv6": _check_ipv6,
    "mac-addr": _pattern(r"[0-9a-fA-F][02468aceACE](?::[0-9a-fA-F]{2}){5}", "value is not a valid unicast MAC address"),
    "pve-bridge-id": _pattern(r"[-_.\w\d]+", "invalid bridge ID '{value}'"),
    "pve-configid": _pattern(CONFIG_ID, "invalid configuration ID '{value}'"),
    "pve-cpu-model": _check_cpu,
    "pve-cpu-type": _check_cpu,
    "pve-cpuset": _pattern(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*", "value does not look like a valid cpuset: {value}"),
    "pve-groupid": _pattern(r"[A-Za-z0-9.\-_]+", "group name '{value}' contains invalid characters"),
    "pve-hotplug-features": _check_hotplug,
    "pve-ipv4-config": _network(4, ("dhcp",), "value does not look like a valid ipv4 network configuration"),
    "pve-ipv6-config": _network(6, ("dhcp", "auto"), "value does not look like a valid ipv6 network configuration"),
    "pve-node": _pattern(_LABEL, "value does not look like a valid node name"),
    "pve-phys-bits": _check_phys_bits,
    "pve-poolid": _pattern(
        r"[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}", "pool name '{value}' contains invalid characters"
    ),
    "pve-qm-bootdev": _check_boot_device,
    "pve-qm-bootdisk": _pattern(r"(?:ide|sata|scsi|virtio)\d+", "invalid boot disk '{value}'"),
    "pve-realm": _pattern(r"[A-Za-z][A-Za-z0-9.\-_]+", "value does not look like a valid realm"),
    "pve-roleid": _pattern(r"[A-Za-z0-9.\-_]+", "role name '{value}' contains invalid characters"),
    "pve-storage-content": _member(_CONTENTS, "invalid content type '{value}'"),
    "pve-storage-id": _pattern(STORAGE_ID, "storage ID '{value}' contains illegal characters"),
    "pve-storage-options": _pattern(r"\S+", "invalid options '{value}'"),
    "pve-storage-path": _pattern(r"/[^;()]+.*", "value does not look like a valid absolute path"),
    "pve-storage-portal-dns": _pattern(
        rf"(?:{_DNS_NAME}|[0-9a-fA-F:]+|\[[0-9a-fA-F:]+\])(?::\d+)?", "value does not look like a valid portal address"
    ),
    "pve-storage-server": _check_server,
    "pve-tag": _pattern(r"(?i:[a-z0-9_][a-z0-9_\-+.]*)", "invalid characters in tag"),
    "pve-tokenid": _pattern(rf"{USER}!{TOKEN_NAME}", "value '{value}' does not look like a valid token ID"),
    "pve-userid": _pattern(USER, "value '{value}' does not look like a valid user name"),
    "pve-vmid": _pattern(r"[1-9][0-9]{2,8}", "value does not look like a valid VM ID"),
    "pve-volume-id": _check_volume_id,
    "pve-volume-id-or-absolute-path": _check_volume_or_absolute_path,
    "pve-volume-id-or-qm-path": _check_volume_or_path,
    "prune-backups": _check_retention,
    "urlencoded": _check_urlencoded,
}
