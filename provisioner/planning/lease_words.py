"""What the arbiter's page says of one node, in words that are shown as they are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.lease import GpuSlot, Hold, Lease, LeasePage, LeasePhase
from provisioner.domain.names import GpuName, Vmid
from provisioner.domain.quantities import duration_text
from provisioner.domain.snapshot import Power, VmSeen


def slots_of(node: NodeSpec) -> tuple[GpuSlot, ...]:
    """Return the GPU slots that a node has while it runs."""
    return tuple(GpuSlot(node.hypervisor, GpuName(gpu)) for gpu in node.gpus)


def held_words(holds: Iterable[Hold], now: float) -> str:
    """Say who holds a node, for how much longer and why; it is held by somebody."""
    each = (
        f"{hold.by} for another {duration_text(hold.until - now)}{f' ({hold.why})' if hold.why else ''}"
        for hold in holds
    )
    return f"it is held by {', '.join(each)}"


def page_words(page: LeasePage, node: NodeSpec, vms: Mapping[Vmid, VmSeen], now: float) -> str:
    """Say what the page has of a node: who holds it, whom it gives way to, who has its GPU; nothing for nothing.

    Args:
        page: the arbiter's.
        node: of whom.
        vms: as the cluster reports them; who is off has no GPU, whatever the page says.
        now: UNIX seconds.
    """
    words = []
    holds = page.holds_on(node.name, now)
    if holds:
        words.append(held_words(holds, now))
    for lease in page.leases_of(slots_of(node)):
        if lease.vmid == node.vmid:
            words += _own(lease)
        elif not _is_off(lease, vms):
            words.append(f"{lease.slot.gpu} is with {lease.name} (vm {lease.vmid})")
    if any(waiter.vmid == node.vmid for waiter in page.waiters):
        words.append("a wake waits for its GPU")
    return "; ".join(dict.fromkeys(words))


def _own(lease: Lease) -> list[str]:
    if lease.phase is LeasePhase.FREEING:
        return [f"it gives way to {lease.wanted_by}" if lease.wanted_by else "it is being shut down"]
    return ["it is being started"] if lease.phase is LeasePhase.TAKING and lease.owner else []


def _is_off(lease: Lease, vms: Mapping[Vmid, VmSeen]) -> bool:
    vm = vms.get(lease.vmid)
    return lease.phase is LeasePhase.HELD and (vm is None or vm.power is Power.STOPPED)
