"""What a live hypervisor tells beyond a host dump's sections: memory, CPU flags, how its GPUs reset; values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.domain.host import PciAddress


@dataclass(frozen=True, slots=True)
class HostExtras:
    """Facts that only a look at the machine itself gives; None means unknown, an empty collection means none.

    `reset_methods` holds, for every display device, what the kernel can reset it
    by (``bus``, ``flr``, ``pm``, ...; ``unnamed`` where an old kernel only says
    that it can), and an empty tuple where it cannot. `numa_nodes` leaves out
    devices whose node the firmware does not tell. `node` is what the cluster calls
    this server.
    """

    mem_total_kib: int | None = None
    mem_available_kib: int | None = None
    cpu_flags: frozenset[str] | None = None
    reset_methods: Mapping[PciAddress, tuple[str, ...]] | None = None
    boot_vga: frozenset[PciAddress] | None = None
    numa_nodes: Mapping[PciAddress, int] | None = None
    node: str | None = None
