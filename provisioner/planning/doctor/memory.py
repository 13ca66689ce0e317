"""Checks on memory and cores: can every node have what it wants, alone and beside the others? Pure."""

from __future__ import annotations

from collections.abc import Sequence

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.quantities import GIB, KIB
from provisioner.planning.doctor.facts import DoctorFacts
from provisioner.planning.doctor.mappings import mapped_addresses
from provisioner.planning.doctor.words import about
from provisioner.planning.graphics_memory import graphics_memory_bytes
from provisioner.planning.host.steps import missing, ok
from provisioner.planning.readiness import Check, CheckStatus

# What Proxmox VE's own system requirements ask for itself, guests aside.
HOST_RESERVE_BYTES = 2 * GIB
_DEFAULT_PAGE_KIB = 2048
# Beyond this many nodes that compete for the same GPUs the exact answer is not worth its time.
_MOST_COMPETITORS = 16

_PINNED = "a GPU reaches all of its guest's memory at any time, so a VM with one takes all of it at its start"
_SHARED = "a VM that finds no memory does not start, and under pressure the kernel ends the largest one"


def memory_is_enough(facts: DoctorFacts) -> list[Check]:
    """Memory that a GPU's guest gets is taken at once and never given back."""
    memory = facts.host.memory
    if memory is None:
        return [missing(facts.host, "memory", "memory", _PINNED, "free -h")] if facts.nodes else []
    usable = usable_bytes(facts)
    return [
        *(_node(facts, node, memory.total, usable) for node in facts.nodes),
        *_together(facts, usable),
    ]


def usable_bytes(facts: DoctorFacts) -> int:
    """Return the memory that guests may have; what was set aside as huge pages is for those that ask for it."""
    total = facts.host.memory.total if facts.host.memory is not None else 0
    return max(0, total - HOST_RESERVE_BYTES - _aside(facts))


def _aside(facts: DoctorFacts) -> int:
    pages = facts.host.huge_pages
    return pages.total * (pages.page_kib or _DEFAULT_PAGE_KIB) * KIB if pages is not None else 0


def _node(facts: DoctorFacts, node: NodeSpec, total: int, usable: int) -> Check:
    id_, wants = f"memory_{node.name}", about(node.memory_bytes)
    why = _PINNED if node.gpus else _SHARED
    aside = _aside(facts) if node.options.hugepages is not None else 0
    if aside >= node.memory_bytes:
        return ok(id_, f"{node.name} wants {wants} of the {about(aside)} set aside as huge pages", why)
    # Proxmox makes the huge pages that are missing when the VM starts, out of ordinary memory.
    usable += aside
    if node.memory_bytes > usable:
        found = f"{node.name} wants {wants}; the server has {about(total)}, of which guests may have {about(usable)}"
        return Check(id_, CheckStatus.FAIL, found, why, f"lower memory of {node.name} to {_largest(usable)} or less")
    if facts.is_running(node):
        return ok(id_, f"{node.name} runs with its {wants}", why)
    if node.options.hugepages is not None and facts.host.huge_pages is not None:
        found = f"{node.name} wants {wants} in huge pages; {about(aside)} are set aside"
        why = "Proxmox makes missing huge pages at a VM's start, which fails once memory is in pieces"
        step = f"set {wants} aside at boot: hugepagesz=1G hugepages={-(-node.memory_bytes // GIB)} for pages of 1 GiB, "
        step += "on the kernel command line"
        return Check(id_, CheckStatus.WARN, found, why, step)
    obtainable = facts.host.memory.obtainable if facts.host.memory is not None else None
    if obtainable is None:
        return ok(id_, f"{node.name} wants {wants} of {about(total)}", why)
    # Nodes that share a GPU run one at a time: what one has now is there for the next.
    rivals = [other for other in facts.nodes if facts.is_running(other) and set(other.gpus) & set(node.gpus)]
    obtainable += sum(rival.memory_bytes for rival in rivals)
    there = f"{about(obtainable)} can be had now"
    if rivals:
        there += f", counting what {' and '.join(rival.name for rival in rivals)} gives back"
    if node.gpus and node.memory_bytes > obtainable:
        step = "put other nodes to sleep or shut other VMs down before this one starts, or lower its memory"
        step += "; a ZFS cache counts as used: options zfs zfs_arc_max=BYTES in /etc/modprobe.d keeps it small"
        return Check(id_, CheckStatus.WARN, f"{node.name} wants {wants} at once; {there}", why, step)
    return ok(id_, f"{node.name} wants {wants}; {there}", why)


def _together(facts: DoctorFacts, usable: int) -> list[Check]:
    has_pages = facts.host.huge_pages is not None
    # Those in huge pages have memory of their own, and a finding of their own where it is not enough.
    nodes = heaviest_together([node for node in facts.nodes if not (has_pages and node.options.hugepages)])
    if len(nodes) < 2:
        return []
    total = sum(node.memory_bytes for node in nodes)
    names = ", ".join(node.name for node in nodes)
    if total <= usable:
        return [ok("memory_together", f"{names} may run at once: {about(total)} of {about(usable)}", _SHARED)]
    found = f"{names} may run at once and want {about(total)}; guests may have {about(usable)}"
    step = "lower their memory, or see to it that they do not run at once: the last one to start fails"
    return [Check("memory_together", CheckStatus.WARN, found, _SHARED, step)]


def heaviest_together(nodes: Sequence[NodeSpec]) -> tuple[NodeSpec, ...]:
    """Return the nodes that take the most memory while no two of them need the same GPU, in the order given."""
    free = [node for node in nodes if not node.gpus]
    chosen = [node for group in _competitors([node for node in nodes if node.gpus]) for node in _heaviest(group)]
    names = {node.name for node in (*free, *chosen)}
    return tuple(node for node in nodes if node.name in names)


def _competitors(nodes: Sequence[NodeSpec]) -> list[list[NodeSpec]]:
    """Return groups of nodes such that none needs a GPU of another group."""
    groups: list[list[NodeSpec]] = []
    for node in nodes:
        met = [group for group in groups if any(set(node.gpus) & set(other.gpus) for other in group)]
        groups = [group for group in groups if group not in met] + [[node, *(one for group in met for one in group)]]
    return groups


def _heaviest(nodes: Sequence[NodeSpec]) -> list[NodeSpec]:
    ordered = sorted(nodes, key=lambda node: -node.memory_bytes)
    if len(ordered) > _MOST_COMPETITORS:
        taken: list[NodeSpec] = []
        for node in ordered:
            if not any(set(node.gpus) & set(other.gpus) for other in taken):
                taken.append(node)
        return taken
    if not ordered:
        return []
    first, rest = ordered[0], ordered[1:]
    with_first = [first, *_heaviest([node for node in rest if not set(node.gpus) & set(first.gpus)])]
    if len(with_first) == len(ordered):
        return with_first
    return max(with_first, _heaviest(rest), key=lambda chosen: sum(node.memory_bytes for node in chosen))


def models_fit_through_memory(facts: DoctorFacts) -> list[Check]:
    """A model comes to its GPU through the guest's memory."""
    return [check for node in facts.nodes if node.gpus for check in _passage(facts, node)]


def _passage(facts: DoctorFacts, node: NodeSpec) -> list[Check]:
    id_ = f"vram_{node.name}"
    why = (
        "an engine reads a model into the guest's memory on its way to the GPU: with less memory than that it reads "
        "it from disk at every start, and some engines fail to load it"
    )
    silent = [gpu.name for gpu in facts.gpus_of(node) if gpu.vram_bytes is None]
    if silent:
        found = f"the fleet file does not say how much memory {', '.join(silent)} has"
        sizes = ", ".join(f"vram: {_known_size(facts, name)} for {name}" for name in silent)
        step = f"write {sizes} under hypervisors.{facts.hypervisor.name}.gpus"
        return [Check(id_, CheckStatus.UNKNOWN, found, why, step)]
    vram = sum(gpu.vram_bytes or 0 for gpu in facts.gpus_of(node))
    found = f"{node.name} has {about(node.memory_bytes)} memory for {about(vram)} on its GPUs"
    if node.memory_bytes >= vram:
        return [ok(id_, found, why)]
    usable = usable_bytes(facts) if facts.host.memory is not None else vram
    step = f"raise memory of {node.name} to {about(vram)} or more"
    if vram > usable:
        step = f"the server can give {_largest(usable)} at most: keep models on {node.name} smaller than its memory"
    return [Check(id_, CheckStatus.WARN, found, why, step)]


def _known_size(facts: DoctorFacts, gpu: str) -> str:
    """Return what such cards have, as far as their ids settle it."""
    address = next((address for address, name in mapped_addresses(facts).items() if name == gpu), None)
    card = (facts.host.functions or {}).get(address) if address is not None else None
    size = graphics_memory_bytes(card.vendor_id, card.device_id, card.name) if card is not None else None
    return "SIZE" if size is None else about(size)


def cores_are_enough(facts: DoctorFacts) -> list[Check]:
    """Proxmox starts no VM with more cores than the server has threads."""
    id_, why = "cores", "Proxmox starts no VM with more cores than the server has threads"
    threads = facts.host.threads
    if threads is None:
        return [missing(facts.host, id_, "cpu", why, "nproc")] if facts.nodes else []
    greedy = [node for node in facts.nodes if node.cores > threads]
    if greedy:
        found = f"{', '.join(f'{node.name} wants {node.cores}' for node in greedy)}; the server has {threads} threads"
        names = " and ".join(node.name for node in greedy)
        return [Check(id_, CheckStatus.FAIL, found, why, f"lower cores of {names} to {threads} or less")]
    most = max((node.cores for node in facts.nodes), default=0)
    return [ok(id_, f"{threads} threads; no node wants more than {most}", why)] if facts.nodes else []


def _largest(usable: int) -> str:
    return f"{usable // GIB}GiB"
