"""Which slots a hypervisor's GPUs sit in, as the fleet names them; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from provisioner.domain.fleet import HypervisorSpec
from provisioner.domain.host import HostFacts, slot_of
from provisioner.domain.host_files import HostState
from provisioner.domain.names import GpuName
from provisioner.planning.access.gpus import name_pattern
from provisioner.planning.host.gpus import gpus_of


def gpu_slots(
    hypervisor: HypervisorSpec, facts: HostFacts, state: HostState, said: Mapping[GpuName, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the slots of each GPU of the fleet on this hypervisor; none where it cannot be told.

    As the person said; else by the PCI mapping, which is what a VM gets; else,
    before there is one, by the card's name or because no choice is left.
    """
    slots: dict[str, tuple[str, ...]] = {}
    for gpu in hypervisor.gpus.values():
        mapped = (state.mapped_slots or {}).get(gpu.mapping, ())
        slots[gpu.name] = tuple(said.get(gpu.name, ())) or mapped
    open_gpus = [gpu for gpu in hypervisor.gpus.values() if not slots[gpu.name]]
    taken = {slot for each in (*slots.values(), *(state.mapped_slots or {}).values()) for slot in each}
    free = [gpu for gpu in gpus_of(facts) if slot_of(gpu.address) not in taken]
    for gpu in open_gpus:
        pattern = re.compile(name_pattern(gpu.name), re.IGNORECASE)
        named = [card for card in free if pattern.search(card.name)]
        alike = [one for one in open_gpus if name_pattern(one.name) == pattern.pattern]
        if len(named) == len(alike) > 0:
            # Identical cards for as many GPUs: which is which is nobody's concern, so by address.
            slots[gpu.name] = (slot_of(named[alike.index(gpu)].address),)
    left = [gpu for gpu in open_gpus if not slots[gpu.name]]
    rest = [card for card in free if (slot_of(card.address),) not in slots.values()]
    if len(left) == 1 and len(rest) == 1:
        slots[left[0].name] = (slot_of(rest[0].address),)
    return slots
