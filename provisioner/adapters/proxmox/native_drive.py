"""Proxmox's own cloud-init drive in its options: read into values that compare, and written. Pure.

The drive is made anew at every cold start, and its instance-id is a checksum of
user-data and network-data: whatever is left to the server, its resolvers above
all, would change that id one day. So everything is written down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from provisioner.adapters.proxmox.property_strings import is_on, joined, parts_of
from provisioner.domain.cloud_init import SEARCH_DOMAIN, NativeDrive
from provisioner.domain.vm_traits import (
    NATIVE_DRIVE,
    NONE,
    SEED_ISO,
    Trait,
    VmShape,
    address_text,
    dns_text,
    said,
)

SEED_DRIVE: Final = "ide2"
Options = Mapping[str, object]
Settings = dict[str, str | int]
_NATIVE: Final = re.compile(r"[^:]+:(?:.*/)?(?:cloudinit|vm-\d+-cloudinit(?:\.\w+)?)")


def native_drive_settings(shape: VmShape) -> Settings:
    """Return the options of a new VM whose cloud-init drive Proxmox makes.

    `sshkeys` must itself be percent-encoded, ``/`` and ``+`` included, before
    the request is (pve-common, ``urlencoded``).
    """
    drive = _of(shape)
    settings = {name: value for write in WRITE_NATIVE.values() for name, value in write({}, shape).items()}
    return settings | {"sshkeys": quote("\n".join(drive.authorized_keys), safe="")}


def _of(shape: VmShape) -> NativeDrive:
    assert shape.cloud_init is not None  # noqa: S101 - asked for by shapes that have one
    return shape.cloud_init


def _drive(options: Options) -> str:
    file = parts_of(options.get(SEED_DRIVE), "file").get("file", "")
    if _NATIVE.fullmatch(file):
        return NATIVE_DRIVE
    return SEED_ISO if ":iso/" in file else NONE


def _address(options: Options) -> str:
    parts = parts_of(options.get("ipconfig0"), "ip")
    return address_text(parts.get("ip", NONE), parts.get("gw", ""))


def _dns(options: Options) -> str:
    servers = re.split(r"[\s,;]+", str(options.get("nameserver") or "").strip())
    return dns_text([each for each in servers if each], str(options.get("searchdomain") or ""))


READ_NATIVE: Final[Mapping[Trait, Callable[[Options], str]]] = {
    Trait.CLOUD_INIT: _drive,
    Trait.CLOUD_INIT_USER: lambda options: str(options.get("ciuser") or NONE),
    Trait.CLOUD_INIT_ADDRESS: _address,
    Trait.CLOUD_INIT_DNS: _dns,
    # Not set means: upgrade.
    Trait.CLOUD_INIT_UPGRADE: lambda options: said(is_on(options.get("ciupgrade", "1"))),
}


def _drive_setting(shape: VmShape) -> Settings:
    return {SEED_DRIVE: f"{shape.disk_storage}:cloudinit"}


def _address_setting(drive: NativeDrive) -> Settings:
    gateway = {"gw": str(drive.gateway)} if drive.gateway is not None else {}
    return {"ipconfig0": joined({"ip": str(drive.address), **gateway})}


def _dns_setting(drive: NativeDrive) -> Settings:
    return {"nameserver": " ".join(map(str, drive.nameservers)), "searchdomain": SEARCH_DOMAIN}


def _where_native(write: Callable[[VmShape], Settings]) -> Callable[[Options, VmShape], Settings]:
    return lambda options, shape: write(shape) if shape.cloud_init is not None else {}


WRITE_NATIVE: Final[Mapping[Trait, Callable[[Options, VmShape], Settings]]] = {
    Trait.CLOUD_INIT: _where_native(_drive_setting),
    Trait.CLOUD_INIT_USER: _where_native(lambda shape: {"ciuser": _of(shape).user}),
    Trait.CLOUD_INIT_ADDRESS: _where_native(lambda shape: _address_setting(_of(shape))),
    Trait.CLOUD_INIT_DNS: _where_native(lambda shape: _dns_setting(_of(shape))),
    # An upgrade at the first boot is slow, and may take the kernel from under a GPU driver.
    Trait.CLOUD_INIT_UPGRADE: _where_native(lambda shape: {"ciupgrade": 0}),
}
