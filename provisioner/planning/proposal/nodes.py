"""Which nodes a discovered cluster could have: one per GPU, one without, and the VMs that hold a GPU already; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface
from itertools import count

from provisioner.domain.conventions import conventional_vmid
from provisioner.domain.discovery import Discovery, GuestFound, GuestType
from provisioner.domain.name_rules import LABEL, fits
from provisioner.domain.names import NodeName
from provisioner.domain.proposal import GpuSlot, HypervisorProposal, Network, NodeProposal
from provisioner.planning.proposal.network import free_address

_FIRST_FREE_VMID = 5200
"""Behind the numbers that names imply: 5001 to 5099 for GPU nodes, 5101 to 5199 for CPU nodes."""
_LONGEST_NAME = 40


def node_proposals(
    discovery: Discovery, hypervisors: Sequence[HypervisorProposal], network: Network | None
) -> tuple[NodeProposal, ...]:
    """Return the nodes to offer: the readiest card's first, then other cards', the CPU's, then VMs to adopt."""
    return _Draft(discovery, hypervisors, network).nodes()


class _Draft:
    """Hands out names, VMIDs and addresses, each once."""

    def __init__(
        self, discovery: Discovery, hypervisors: Sequence[HypervisorProposal], network: Network | None
    ) -> None:
        self._discovery = discovery
        self._hypervisors = hypervisors
        self._network = network
        self._names: set[str] = set()
        self._vmids = {guest.vmid for guest in discovery.guests}
        self._addresses: set[IPv4Address] = set()

    def nodes(self) -> tuple[NodeProposal, ...]:
        """Return every node to offer."""
        slots = [gpu for hypervisor in self._hypervisors for gpu in hypervisor.gpus if not gpu.is_integrated]
        servers = {hypervisor.name for hypervisor in self._hypervisors}
        guests = [guest for guest in self._discovery.guests if guest.hypervisor in servers and not guest.is_template]
        # Nodes that exist keep their names; others are numbered around them.
        existing = [guest for guest in guests if guest.is_ours and guest.type is GuestType.VM]
        known = [(guest, self._named(guest)) for guest in existing]
        ours = [
            self._of_existing(guest, name, [slot.name for slot in slots if guest.vmid in slot.ours])
            for guest, name in known
        ]
        of_cards = [self._of_card(slot) for slot in sorted(slots, key=_readiness) if not slot.ours]
        has_fallback = any(not node.gpus for node in ours)
        fallback = [] if has_fallback or not self._hypervisors else [self._fallback()]
        adopted = [
            self._adopted(guest, [slot.name for slot in slots if guest.vmid in slot.used_by])
            for guest in guests
            if any(guest.vmid in slot.used_by for slot in slots)
        ]
        return (*ours, *of_cards, *fallback, *adopted)

    def _of_card(self, slot: GpuSlot) -> NodeProposal:
        name = self._numbered("gpu")
        notes = [self._sharing(vmid, slot) for vmid in slot.used_by]
        if slot.iommu_group is None:
            notes.append("its card cannot be passed through yet, see there")
        return self._new(name, "gpu", slot.hypervisor, (slot.name,), notes)

    def _fallback(self) -> NodeProposal:
        online = {each.name for each in self._discovery.hypervisors if each.is_online}
        server = next((each.name for each in self._hypervisors if each.name in online), self._hypervisors[0].name)
        return self._new(self._numbered("cpu"), "cpu", server, (), ["without a GPU: answers while the GPUs are away"])

    def _new(self, name: str, kind: str, server: str, gpus: tuple[str, ...], notes: Iterable[str]) -> NodeProposal:
        number = int(name.rpartition("-")[2])
        address = self._address(kind, number)
        missing = () if address else ("the network was not seen: give it an address of its own, with prefix length",)
        return NodeProposal(name, self._vmid(name), server, gpus, address, notes=(*notes, *missing))

    def _of_existing(self, guest: GuestFound, name: str, gpus: Sequence[str]) -> NodeProposal:
        address = guest.addresses[0] if guest.addresses else self._address(*_kind_and_number(name))
        note = f"exists: VM {guest.vmid} carries our tag; its address is a guess unless you know it"
        return NodeProposal(name, guest.vmid, guest.hypervisor, tuple(gpus), address, notes=(note,))

    def _adopted(self, guest: GuestFound, gpus: Sequence[str]) -> NodeProposal:
        address = guest.addresses[0] if guest.addresses else None
        notes = [f'VM {guest.vmid} "{guest.name}" as it is: woken, slept and watched, never changed']
        if address is None:
            notes.append("its address is not in its configuration: look inside it")
        return NodeProposal(
            self._named(guest), guest.vmid, guest.hypervisor, tuple(gpus), address, is_adopted=True, notes=tuple(notes)
        )

    def _sharing(self, vmid: int, slot: GpuSlot) -> str:
        guest = self._discovery.guest(vmid)
        who = f'VM {vmid} "{guest.name}"' if guest is not None and guest.name else f"VM {vmid}"
        if slot.is_pooled:
            return f"{who} takes a card of the pool {slot.mapping} too: while it runs, one is left less"
        return f"{who} names the same card: only one of the two can run at a time"

    def _named(self, guest: GuestFound) -> str:
        name = guest.name
        if not fits(LABEL, name):
            name = "-".join(re.findall(r"[a-z0-9]+", name.lower()))[:_LONGEST_NAME].strip("-")
        if not fits(LABEL, name) or name in self._names:
            name = f"vm-{guest.vmid}"
        self._names.add(name)
        return name

    def _numbered(self, kind: str) -> str:
        name = next(name for number in count(1) if (name := f"llm-{kind}-{number:02d}") not in self._names)
        self._names.add(name)
        return name

    def _vmid(self, name: str) -> int:
        usual = conventional_vmid(NodeName(name))
        if usual is not None and usual not in self._vmids:
            vmid: int = usual
        else:
            # Not one that another name implies: the file would hold it twice as soon as that node is added.
            vmid = next(each for each in count(_FIRST_FREE_VMID) if each not in self._vmids)
        self._vmids.add(vmid)
        return vmid

    def _address(self, kind: str, number: int) -> IPv4Interface | None:
        if self._network is None:
            return None
        address = free_address(kind, number, self._network, frozenset(self._addresses))
        if address is not None:
            self._addresses.add(address.ip)
        return address


def _readiness(slot: GpuSlot) -> tuple[bool, bool, bool]:
    return (slot.iommu_group is None, not slot.is_free, bool(slot.notes))


def _kind_and_number(name: str) -> tuple[str, int]:
    match = re.fullmatch(r"llm-(gpu|cpu)-(\d{2})", name)
    return (match[1], max(1, int(match[2]))) if match else ("gpu", 1)
