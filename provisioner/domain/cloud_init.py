"""The two ways in which a guest gets its name, address and login keys; and what Proxmox is told for the second."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface

SEARCH_DOMAIN = "internal"
"""What stands where Proxmox would otherwise put its server's own search domain, a change of which would be a new
first boot of the guest. Reserved for private use (ICANN board resolution 2024.07.29.06)."""


class CloudInit(Enum):
    """Who makes the drive that cloud-init reads: we, a seed ISO with the guest's host key; or Proxmox, without one."""

    SEED = "seed"
    PROXMOX = "proxmox"


@dataclass(frozen=True, slots=True)
class NativeDrive:
    """What Proxmox's own cloud-init drive says. `authorized_keys` are lines of public keys, for a new VM only."""

    user: str
    address: IPv4Interface
    gateway: IPv4Address | None
    nameservers: tuple[IPv4Address, ...]
    authorized_keys: tuple[str, ...] = ()
