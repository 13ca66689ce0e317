"""Facts of one hypervisor from two sources, as one; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from provisioner.domain.host import HostFacts, HostMemory, PciAddress, PciFunction, Source
from provisioner.domain.host_extras import HostExtras
from provisioner.domain.quantities import KIB

# What describes the gathering, not the hypervisor.
_ABOUT_SOURCES = frozenset({"sources", "withheld", "cut_sections"})


def merged(first: HostFacts, second: HostFacts) -> HostFacts:
    """Return what both know together; where both know something, the first is believed.

    A function of a device is merged part by part, groups are taken whole: a
    listing of groups is complete, and two numberings must not mix.
    """
    values: dict[str, object] = {}
    for field in fields(HostFacts):
        if field.name in _ABOUT_SOURCES:
            continue
        mine = getattr(first, field.name)
        values[field.name] = getattr(second, field.name) if mine is None else mine
    values["functions"] = _functions(first, second)
    values["memory"] = _memory(first.memory, second.memory)
    return replace(
        first,
        **values,  # type: ignore[arg-type]
        sources=tuple(source for source in Source if source in {*first.sources, *second.sources}),
        withheld={} if Source.SSH in first.sources else {**second.withheld, **first.withheld},
        cut_sections=tuple(dict.fromkeys((*first.cut_sections, *second.cut_sections))),
    )


def are_one_machine(first: HostFacts, second: HostFacts) -> bool:
    """Say whether two gatherings can be of the same machine: most of its devices are at the same places.

    A few may differ, for a card can drop off its bus and virtual functions come
    and go. Where one gathering shows no devices, nothing speaks against it.
    """
    ours, theirs = ({(one.address, one.ids) for one in (facts.functions or {}).values()} for facts in (first, second))
    if not ours or not theirs:
        return True
    return len(ours & theirs) * 2 >= len(ours | theirs)


def with_extras(facts: HostFacts, extras: HostExtras) -> HostFacts:
    """Return facts together with what a live hypervisor told beside them."""
    total, available = extras.mem_total_kib, extras.mem_available_kib
    memory = None if total is None else HostMemory(total * KIB, None, None if available is None else available * KIB)
    return replace(
        facts,
        memory=facts.memory or memory,
        cpu_flags=facts.cpu_flags if extras.cpu_flags is None else extras.cpu_flags,
        reset_methods=extras.reset_methods,
        boot_vga=extras.boot_vga,
    )


def _functions(first: HostFacts, second: HostFacts) -> Mapping[PciAddress, PciFunction] | None:
    if first.functions is None or second.functions is None:
        return second.functions if first.functions is None else first.functions
    both: dict[PciAddress, PciFunction] = {**second.functions, **first.functions}
    for address in first.functions.keys() & second.functions.keys():
        both[address] = _function(first.functions[address], second.functions[address])
    return both


def _function(first: PciFunction, second: PciFunction) -> PciFunction:
    driver = first if first.is_driver_known else second
    return PciFunction(
        address=first.address,
        class_code=first.class_code or second.class_code,
        name=first.name or second.name,
        vendor_id=first.vendor_id or second.vendor_id,
        device_id=first.device_id or second.device_id,
        driver=driver.driver,
        is_driver_known=driver.is_driver_known,
        subsystem_id=first.subsystem_id or second.subsystem_id,
        offers_mdev=second.offers_mdev if first.offers_mdev is None else first.offers_mdev,
    )


def _memory(first: HostMemory | None, second: HostMemory | None) -> HostMemory | None:
    if first is None or second is None:
        return second if first is None else first
    return HostMemory(
        first.total,
        second.free if first.free is None else first.free,
        second.available if first.available is None else first.available,
    )
