"""Plans a guest's network: QEMU's own user-mode stack, closed to the outside unless asked for.

The guest sees the address, the prefix and the gateway that its seed promises.
The lab's host reaches a few of its ports on a loopback address of the guest's
own (10.10.90.7 inside is 127.10.90.7 outside), so no privilege is needed and
nothing is reachable from another machine.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import islice
from pathlib import Path

from provisioner.lab.guests.base import GuestFailure
from provisioner.lab.guests.seed import SeedUnreadable, outside_address, read_seed

FORWARDED_PORTS = {2222: 22, 8080: 8080, 8000: 8000, 11434: 11434, 3000: 3000}
"""Port outside -> port inside: SSH (22 outside would need privilege) and what the engines listen on."""

_SMALLEST_NETWORK = 28
"""User-mode networking needs room for a gateway, a name server and a lease beside the guest."""


@dataclass(frozen=True, slots=True)
class GuestNetwork:
    """What QEMU's user-mode network is told: the net, its own addresses in it, and what to forward."""

    net: IPv4Network
    gateway: IPv4Address
    name_server: IPv4Address
    first_lease: IPv4Address
    guest: IPv4Address
    is_closed: bool = True
    """Without a way out; a distribution's own image needs one to install the guest agent."""

    @property
    def outside(self) -> str:
        """The loopback address at which the host reaches this guest."""
        return outside_address(self.guest)

    def netdev(self) -> str:
        """Return the value of QEMU's -netdev option."""
        parts = [
            f"user,id=net0,restrict={'on' if self.is_closed else 'off'},ipv6=off",
            f"net={self.net}",
            f"host={self.gateway}",
            f"dns={self.name_server}",
            f"dhcpstart={self.first_lease}",
        ]
        parts += [f"hostfwd=tcp:{self.outside}:{out}-{self.guest}:{port}" for out, port in FORWARDED_PORTS.items()]
        return ",".join(parts)


def plan_network(address: IPv4Interface, gateway: IPv4Address | None) -> GuestNetwork:
    """Lay out the network around a guest's static address."""
    net = address.network
    if net.prefixlen > _SMALLEST_NETWORK:
        net = IPv4Interface(f"{address.ip}/24").network
    taken = {address.ip}
    if gateway is not None and gateway in net and gateway != address.ip:
        taken.add(gateway)
        free = _free(net, taken, 2)
        return GuestNetwork(net, gateway, free[0], free[1], address.ip)
    free = _free(net, taken, 3)
    return GuestNetwork(net, free[0], free[1], free[2], address.ip)


def network_of_seed(seed: Path | None) -> GuestNetwork | None:
    """Read the static address out of a seed; None when there is no seed or no static address in it."""
    if seed is None:
        return None
    try:
        found = read_seed(seed)
        address, gateway = found.address, found.gateway
    except (SeedUnreadable, ValueError):
        # A guest may carry any ISO; a real one would boot with it just the same.
        return None
    return None if address is None else plan_network(address, gateway)


def refuse_taken_ports(network: GuestNetwork) -> None:
    """Raise GuestFailure naming the ports that someone else listens on already."""
    taken = [port for port in FORWARDED_PORTS if not _is_free(network.outside, port)]
    if taken:
        ports = ", ".join(str(port) for port in taken)
        raise GuestFailure(f"cannot forward {network.outside} port {ports} to the guest: taken by another process")


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As QEMU does it: connections of an earlier guest that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _free(net: IPv4Network, taken: set[IPv4Address], count: int) -> list[IPv4Address]:
    """Return unused addresses from the top of a network, where people seldom put machines."""
    top = int(net.broadcast_address)
    candidates = (IPv4Address(top - step) for step in range(1, net.num_addresses - 1))
    return list(islice((address for address in candidates if address not in taken), count))
