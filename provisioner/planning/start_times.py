"""How long Proxmox gives a VM to start. Pure."""

from __future__ import annotations

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.quantities import GIB

# qemu-server, PVE/QemuServer/Helpers.pm, config_aware_timeout; the same in 8.4 and 9.
_LEAST_SECONDS = 30.0
_PASSTHROUGH_FACTOR = 4.0
_LEAST_WITH_HUGEPAGES = 150.0
_SECONDS_PER_CARD = 5.0


def start_seconds(node: NodeSpec) -> float:
    """Return the seconds after which Proxmox gives up a start.

    With a GPU all memory is pinned before the guest's first instruction, which
    takes minutes where there is much of it. Proxmox reckons this itself from
    the VM it has, so it is not told; whoever waits must wait as long.
    """
    seconds = max(_LEAST_SECONDS, node.memory_bytes / GIB)
    if node.gpus:
        seconds *= _PASSTHROUGH_FACTOR
    if node.options.hugepages is not None:
        seconds = max(seconds, _LEAST_WITH_HUGEPAGES)
    return seconds + _SECONDS_PER_CARD
