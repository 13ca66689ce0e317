"""Reads a NoCloud seed ISO, the way a guest's cloud-init would.

The lab needs two facts out of it: which address the guest will take, and, for
simulated guests, who the guest believes it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pycdlib
import yaml
from pycdlib.pycdlibexception import PyCdlibException


class SeedUnreadable(Exception):
    """The ISO is no NoCloud seed."""


@dataclass(frozen=True, slots=True)
class Seed:
    """The three documents of a NoCloud seed, parsed."""

    user_data: Mapping[str, object]
    meta_data: Mapping[str, object]
    network: Mapping[str, object]

    @property
    def address(self) -> IPv4Interface | None:
        """The first static IPv4 address with its prefix, from network config version 1 or 2."""
        return next(_addresses(self.network), None)

    @property
    def instance_id(self) -> str:
        """cloud-init's name for this first boot."""
        return str(self.meta_data.get("instance-id", ""))

    @property
    def host_key(self) -> str | None:
        """The public SSH host key that the guest gets, if it gets one."""
        keys = self.user_data.get("ssh_keys")
        return str(keys["ed25519_public"]) if isinstance(keys, dict) and "ed25519_public" in keys else None

    @property
    def gateway(self) -> IPv4Address | None:
        """The default gateway next to that address."""
        return next(_gateways(self.network), None)


def read_seed(path: Path) -> Seed:
    """Read a seed ISO. Raises SeedUnreadable."""
    iso = pycdlib.PyCdlib()
    try:
        iso.open(str(path))
    except (PyCdlibException, OSError) as error:
        raise SeedUnreadable(f"{path.name}: {error}") from error
    try:
        return Seed(
            user_data=_document(iso, "user-data", path),
            meta_data=_document(iso, "meta-data", path),
            network=_document(iso, "network-config", path, optional=True),
        )
    finally:
        iso.close()


def outside_address(inside: IPv4Address) -> str:
    """Return where the lab's host reaches a guest: 10.10.90.1 inside is 127.10.90.1 outside.

    The whole of 127.0.0.0/8 is local on Linux, so this needs no privilege and touches no interface.
    """
    return "127." + str(inside).split(".", 1)[1]


def _document(iso: pycdlib.PyCdlib, name: str, path: Path, *, optional: bool = False) -> Mapping[str, object]:
    buffer = io.BytesIO()
    try:
        iso.get_file_from_iso_fp(buffer, rr_path=f"/{name}")
    except PyCdlibException as error:
        if optional:
            return {}
        raise SeedUnreadable(f"{path.name} has no {name}") from error
    try:
        found = yaml.safe_load(buffer.getvalue())
    except yaml.YAMLError as error:
        raise SeedUnreadable(f"{path.name}: {name} is not YAML: {error}") from error
    return found if isinstance(found, dict) else {}


def _addresses(network: Mapping[str, object]) -> Iterator[IPv4Interface]:
    for entry in _entries(network):
        for text in entry["addresses"]:
            if ":" not in text:
                yield IPv4Interface(text)


def _gateways(network: Mapping[str, object]) -> Iterator[IPv4Address]:
    for entry in _entries(network):
        for text in entry["gateways"]:
            if ":" not in text:
                yield IPv4Address(text)


def _entries(network: Mapping[str, object]) -> Iterator[dict[str, list[str]]]:
    """Flatten versions 1 and 2 (with or without the outer ``network:`` key) into addresses and gateways."""
    inner = network.get("network")
    document = inner if isinstance(inner, dict) else network
    ethernets = document.get("ethernets")
    if isinstance(ethernets, dict):
        for card in ethernets.values():
            routes = [route for route in card.get("routes", []) if route.get("to") in ("default", "0.0.0.0/0")]
            gateways = [str(route["via"]) for route in routes] + [
                str(card[key]) for key in ("gateway4",) if key in card
            ]
            yield {"addresses": [str(a) for a in card.get("addresses", [])], "gateways": gateways}
    config = document.get("config")
    if isinstance(config, list):
        for card in config:
            for subnet in card.get("subnets", []):
                if "address" in subnet:
                    text = str(subnet["address"])
                    if "/" not in text and "netmask" in subnet:
                        text = f"{text}/{subnet['netmask']}"
                    yield {"addresses": [text], "gateways": [str(subnet["gateway"])] if "gateway" in subnet else []}
