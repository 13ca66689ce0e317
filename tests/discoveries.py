"""Discovered clusters for tests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from provisioner.adapters.files.fleet_writer import FleetFileWriter
from provisioner.domain.discovery import (
    Discovery,
    GuestFound,
    HypervisorFound,
    Interface,
    MappingEntry,
    MappingFound,
    PassedThrough,
    PciDevice,
    StorageFound,
)
from provisioner.domain.fleet import FleetSpec, SecretReference, SecretSource, TlsTrust
from provisioner.domain.host import PciAddress
from provisioner.domain.proposal import FleetProposal, TokenChoice
from provisioner.domain.quantities import GIB
from provisioner.engines.registry import ENGINE_TRAITS
from provisioner.planning.proposal import propose_fleet

EVERYTHING = {
    "/": dict.fromkeys(("Sys.Audit", "VM.Audit", "Datastore.Audit", "SDN.Audit", "Mapping.Audit"), 1),
}
TOKEN = TokenChoice("provisioner@pve!fleet", SecretReference(SecretSource.ENV, "PROXMOX_TOKEN_SECRET"))
WRITER = FleetFileWriter(ENGINE_TRAITS)


def card(
    bus: int,
    device: str = "2204",
    name: str = "NVIDIA Corporation GA102 [GeForce RTX 3090]",
    *,
    group: int | None = 15,
    vendor: str = "10de",
    functions: int = 2,
) -> tuple[PciDevice, ...]:
    """A graphics card with its audio function."""
    kinds = (("0300", device, name), ("0403", "1aef", "NVIDIA Corporation GA102 High Definition Audio Controller"))
    return tuple(
        PciDevice(PciAddress(f"0000:{bus:02x}:00.{at}"), code, vendor, id_, title, group)
        for at, (code, id_, title) in enumerate(kinds[:functions])
    )


def server(
    name: str = "pve1",
    devices: tuple[PciDevice, ...] | None = (),
    *,
    cidr: str | None = "10.10.0.2/16",
    gateway: str | None = "10.10.0.1",
    is_online: bool = True,
) -> HypervisorFound:
    """A server with one bridge."""
    address = IPv4Interface(cidr) if cidr else None
    bridge = Interface("vmbr0", True, True, address, IPv4Address(gateway) if gateway else None)
    return HypervisorFound(
        name=name,
        is_online=is_online,
        address=address.ip if address else None,
        threads=32,
        memory_bytes=128 * GIB,
        devices=devices if is_online else None,
        interfaces=(bridge,) if is_online else None,
        nameservers=(IPv4Address("10.10.0.1"),),
    )


def storages(server_name: str = "pve1") -> tuple[StorageFound, ...]:
    """What the installer of Proxmox VE 9 makes."""
    return (
        StorageFound("local", server_name, "dir", frozenset({"iso", "vztmpl", "backup", "import"}), True, 90 * GIB),
        StorageFound("local-lvm", server_name, "lvmthin", frozenset({"images", "rootdir"}), True, 800 * GIB),
    )


def mapping(name: str, *entries: str, server_name: str = "pve1", problem: str | None = None) -> MappingFound:
    """A mapping with one entry for each text; ``;`` joins devices that go together."""
    return MappingFound(
        name,
        tuple(MappingEntry(server_name, tuple(entry.split(";"))) for entry in entries),
        {server_name: (problem,)} if problem else {},
    )


def vm(vmid: int, name: str = "", *devices: str, **more: object) -> GuestFound:
    """A VM that names devices: a mapping's name, or an address."""
    passed = tuple(PassedThrough(paths=(each,)) if ":" in each else PassedThrough(mapping=each) for each in devices)
    return GuestFound(vmid, name or f"vm{vmid}", "pve1", devices=passed, **more)  # type: ignore[arg-type]


def cluster(*servers: HypervisorFound, **more: object) -> Discovery:
    """A cluster that shows everything."""
    fields: dict[str, object] = {
        "storages": tuple(storage for each in servers for storage in storages(each.name)),
        "permissions": EVERYTHING,
        **more,
    }
    return Discovery("https://10.10.0.2:8006", "9.1.1", hypervisors=servers, **fields)  # type: ignore[arg-type]


def proposed(discovery: Discovery) -> FleetProposal:
    """The proposal for a cluster, certificate trusted by the system."""
    return propose_fleet(discovery, TOKEN, TlsTrust())


def text_of(discovery: Discovery) -> str:
    """The fleet file for a cluster."""
    return WRITER.text(proposed(discovery))


def loaded(text: str) -> FleetSpec:
    """A fleet file as the loader reads it."""
    return WRITER.check(text, Path("fleet.yml"))


def with_offers(text: str) -> FleetSpec:
    """A fleet file with every offer taken, placeholders filled in."""
    lines = []
    is_offer = False
    for line in text.splitlines():
        # Offers stand in blocks that begin with the name of a section.
        is_offer = (is_offer and line.startswith("#   ")) or line in ("# engines:", "# models:", "# modes:", "# nodes:")
        lines.append(line[2:] if is_offer else line)
    filled = "\n".join(lines).replace("64 DIGITS", "0" * 64)
    number = 0
    while "ADDRESS/PREFIX" in filled:
        number += 1
        filled = filled.replace("ADDRESS/PREFIX", f"10.10.200.{number}/16", 1)
    return loaded(filled + "\n")
