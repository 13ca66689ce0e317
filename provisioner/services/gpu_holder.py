"""Says by name who holds a GPU that was wanted. Proxmox knows a VMID; the fleet knows the node, and what to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import Vmid
from provisioner.errors import GpuTakenError, HypervisorError
from provisioner.ports.hypervisors import Hypervisors


@contextmanager
def naming_gpu_holder(fleet: FleetSpec, node: NodeSpec, api: Hypervisors) -> Iterator[None]:
    """Turn "in use by VMID 200" into the holder's name and the next thing to type.

    Args:
        fleet: whose nodes may be the holder.
        node: who wanted the GPU.
        api: its cluster, to ask for the name of a VM that is no node.
    """
    try:
        yield
    except GpuTakenError as taken:
        if taken.holder is None:
            raise
        holder, next_step = _holder(fleet, node, api, Vmid(taken.holder))
        named = GpuTakenError(
            f"{taken.summary.partition(chr(10))[0]}; it is {holder}",
            subject=node.subject,
            next_step=next_step,
            retryable=taken.retryable,
        )
        named.holder = taken.holder
        raise named from taken


def _holder(fleet: FleetSpec, node: NodeSpec, api: Hypervisors, vmid: Vmid) -> tuple[str, str]:
    other = next(
        (each for each in fleet.nodes.values() if each.vmid == vmid and each.hypervisor == node.hypervisor), None
    )
    if other is not None:
        return f'node "{other.name}"', f"provisioner sleep {other.name}, or give {node.name} another gpu"
    try:
        seen = api.vm(node.hypervisor, vmid)
    except HypervisorError:
        # Its name would be nice to have; the VMID says enough.
        seen = None
    name = f' "{seen.name}"' if seen is not None else ""
    return (
        f"VM {vmid}{name}, no node of this fleet",
        f"shut down VM {vmid} in Proxmox, or give {node.name} another gpu; then run the same command again",
    )
