"""What a node's name says about it when the fleet file says nothing.

``llm-gpu-01`` is VM 5001 at 10.10.90.1/16, ``llm-cpu-01`` is VM 5101 at
10.10.90.101/16: the numbering that the product's documents use throughout.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Interface

from provisioner.domain.names import NodeName, Vmid

_CONVENTIONAL = re.compile(r"llm-(gpu|cpu)-(\d{2})")
_FIRST_VMID = {"gpu": 5000, "cpu": 5100}
_FIRST_HOST = {"gpu": 0, "cpu": 100}

TAG = "provisioner"
"""Every VM we made carries this tag; nothing without it is changed, stopped or deleted."""


def conventional_vmid(name: NodeName) -> Vmid | None:
    """Return the VMID that the name implies, or None when the name implies none."""
    match = _CONVENTIONAL.fullmatch(name)
    if match is None or int(match[2]) == 0:
        return None
    return Vmid(_FIRST_VMID[match[1]] + int(match[2]))


def conventional_address(name: NodeName) -> IPv4Interface | None:
    """Return the address that the name implies, or None when the name implies none."""
    match = _CONVENTIONAL.fullmatch(name)
    if match is None or int(match[2]) == 0:
        return None
    return IPv4Interface(f"10.10.90.{_FIRST_HOST[match[1]] + int(match[2])}/16")


def mac_address(vmid: Vmid) -> str:
    """Return the MAC address of a node's first card: Proxmox's own prefix, then the VMID.

    Fixed by the VMID so that the seed, written before the VM exists, can name
    the card, and so that a rebuilt node keeps its DHCP and switch entries.
    """
    low = vmid % (1 << 24)
    return f"BC:24:11:{low >> 16:02X}:{low >> 8 & 0xFF:02X}:{low & 0xFF:02X}"
