"""Which bridge a fleet's nodes hang on, which network that is, and which addresses are theirs to have; pure.

The product's numbering puts llm-gpu-01 at 10.10.90.1/16. Elsewhere the same
numbers are kept as far as the network has room for them. Who holds an address
is known of hypervisors and of guests whose configuration fixes one; a DHCP
range or a guest's own setting is not seen, so a proposal is to be checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import chain

from provisioner.domain.conventions import conventional_address
from provisioner.domain.discovery import Discovery, HypervisorFound, Interface
from provisioner.domain.name_rules import WORD, fits
from provisioner.domain.names import NodeName
from provisioner.domain.proposal import Choice, Network

_USUAL_BRIDGE = "vmbr0"
# Low parts for networks that have no 90.1: above most DHCP pools, below most routers. llm-cpu-01 comes behind 20 GPUs.
_FIRST_LOW_PART = {"gpu": 200, "cpu": 220}


def bridge_choice(hypervisors: Sequence[HypervisorFound]) -> Choice:
    """Return the bridge that most of the hypervisors have, one with an address and a gateway before others."""
    found: dict[str, list[Interface]] = {}
    where: dict[str, list[str]] = {}
    for hypervisor in hypervisors:
        for interface in hypervisor.interfaces or ():
            if interface.is_bridge and fits(WORD, interface.name):
                found.setdefault(interface.name, []).append(interface)
                where.setdefault(interface.name, []).append(hypervisor.name)
    if not found:
        return Choice(
            _USUAL_BRIDGE,
            notes=(f"no bridge was seen; {_USUAL_BRIDGE} is what Proxmox's installer makes",),
        )

    def rank(name: str) -> tuple[object, ...]:
        seen = found[name]
        return (
            -len(where[name]),
            not any(each.gateway for each in seen),
            not any(each.address for each in seen),
            name != _USUAL_BRIDGE,
            name,
        )

    names = sorted(found, key=rank)
    address = next((each.address for each in found[names[0]] if each.address), None)
    missing = [hypervisor.name for hypervisor in hypervisors if hypervisor.name not in where[names[0]]]
    notes = (f"{names[0]} was not seen on {', '.join(missing)}",) if missing else ()
    return Choice(names[0], f"on {address.network}" if address else "", tuple(names[1:]), notes)


def network_of(discovery: Discovery, bridge: str, hypervisors: Sequence[HypervisorFound]) -> Network | None:
    """Return the network that a bridge's hypervisors have on it, or None when none was seen."""
    for hypervisor in hypervisors:
        for interface in hypervisor.interfaces or ():
            if interface.name == bridge and interface.address is not None and interface.address.network.prefixlen < 31:
                network = interface.address.network
                return Network(bridge, interface.address, _gateway(hypervisor, network), _taken(discovery))
    return None


def _gateway(hypervisor: HypervisorFound, network: IPv4Network) -> IPv4Address | None:
    gateways = (interface.gateway for interface in hypervisor.interfaces or ())
    return next((gateway for gateway in gateways if gateway is not None and gateway in network), None)


def _taken(discovery: Discovery) -> frozenset[IPv4Address]:
    taken: set[IPv4Address] = set()
    for hypervisor in discovery.hypervisors:
        taken.update(each for each in (hypervisor.address, *hypervisor.nameservers) if each is not None)
        for interface in hypervisor.interfaces or ():
            if interface.address is not None:
                taken.add(interface.address.ip)
            if interface.gateway is not None:
                taken.add(interface.gateway)
    for guest in discovery.guests:
        taken.update(address.ip for address in guest.addresses)
    return frozenset(taken)


def free_address(kind: str, number: int, network: Network, given: frozenset[IPv4Address]) -> IPv4Interface | None:
    """Return an address for node ``llm-KIND-NUMBER``, or None when the network has none left.

    Args:
        kind: ``gpu`` or ``cpu``.
        number: from 1.
        network: where.
        given: addresses that other nodes of the proposal got.
    """
    wanted = network.network_of.network
    taken = network.taken | given
    usual = conventional_address(NodeName(f"llm-{kind}-{number:02d}"))
    candidates: list[IPv4Address | None] = []
    if usual is not None:
        if usual.ip in wanted:
            candidates.append(usual.ip)
        candidates.append(_at(wanted, int(usual.ip) & 0xFFFF))
    low_part = _FIRST_LOW_PART[kind] + number
    # Then upwards, then downwards. Every address passed over is somebody's, so both ways are short.
    upwards = (_at(wanted, offset) for offset in range(low_part, wanted.num_addresses - 1))
    downwards = (_at(wanted, offset) for offset in range(min(low_part, wanted.num_addresses - 1) - 1, 0, -1))
    for candidate in chain(candidates, upwards, downwards):
        if candidate is not None and candidate not in taken:
            return IPv4Interface(f"{candidate}/{wanted.prefixlen}")
    return None


def _at(network: IPv4Network, offset: int) -> IPv4Address | None:
    return network[offset] if 0 < offset < network.num_addresses - 1 else None
