"""Which GPUs a hypervisor has, with their groups, group mates and drivers; pure.

Nothing is guessed: a device whose class nobody showed makes a group neither
clean nor shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from provisioner.domain.host import (
    VFIO_DRIVER,
    HostFacts,
    PciAddress,
    PciFunction,
    address_order,
    bus_of,
    slot_of,
)

# They draw the console of a server's remote management and are nobody's to pass through: ASPEED, Matrox, Huawei's
# iBMC, XGI.
MANAGEMENT_VENDORS = frozenset({"1a03", "102b", "19e5", "18ca"})
_FIRST_DEVICE = PciAddress("0000:00:00.0")  # on a PC always a host bridge, also where a short listing leaves it out
_MANAGEMENT_NAMES = ("aspeed", "matrox")


@dataclass(frozen=True, slots=True)
class GpuVerdict:
    """One GPU as a guest would get it. None means unknown, save for a driver that is known to be absent.

    `unlisted` are group mates of which nothing but the address is known.
    """

    address: PciAddress
    name: str
    vendor_id: str | None
    device_id: str | None
    functions: tuple[PciAddress, ...]
    iommu_group: int | None
    is_group_clean: bool | None
    foreign_devices: tuple[PciAddress, ...]
    unlisted: tuple[PciAddress, ...]
    driver: str | None
    is_bound_to_vfio: bool | None

    @property
    def ids(self) -> str:
        """Vendor and device id, as `vfio-pci ids=` wants them."""
        return f"{self.vendor_id or '????'}:{self.device_id or '????'}"

    @property
    def has_host_driver(self) -> bool:
        """A driver of the host holds it."""
        return self.driver is not None and self.driver != VFIO_DRIVER

    def as_dict(self) -> dict[str, object]:
        """Return the verdict's fields as plain values."""
        return {
            "address": self.address,
            "vendor_id": self.vendor_id,
            "device_id": self.device_id,
            "functions": list(self.functions),
            "iommu_group": self.iommu_group,
            "group_clean": known(self.is_group_clean),
            "foreign_devices": list(self.foreign_devices),
            "driver": self.driver,
            "bound_to_vfio": known(self.is_bound_to_vfio),
        }


def known(value: bool | None) -> bool | str:
    """Return the value as programs read it: `true`, `false` or "unknown"."""
    return "unknown" if value is None else value


@lru_cache(maxsize=2)
def gpus_of(facts: HostFacts) -> tuple[GpuVerdict, ...]:
    """Return a verdict on every GPU that the PCI listing shows, in address order."""
    functions = facts.functions or {}
    by_slot: dict[str, set[PciAddress]] = {}
    for address in (*functions, *(facts.groups or {})):
        by_slot.setdefault(slot_of(address), set()).add(address)
    members: dict[int, list[PciAddress]] = {}
    for address, group in (facts.groups or {}).items():
        members.setdefault(group, []).append(address)
    return tuple(
        _verdict(functions[address], by_slot[slot_of(address)], members, facts)
        for address in sorted(functions, key=address_order)
        if _is_gpu(functions[address], facts)
    )


def physical_function(function: PciFunction, facts: HostFacts) -> PciAddress | None:
    """Return the GPU whose SR-IOV virtual function this is, as far as the places of both tell.

    Below a PCIe port only device 0 is real, so a display device further on is a
    virtual function of the one at device 0, even where it begins a slot.
    """
    bus, _, place = function.address.rpartition(":")
    parent = PciAddress(f"{bus}:00.0")
    first = (facts.functions or {}).get(parent)
    is_further_on = not place.startswith("00.")
    if is_further_on and first is not None and first.is_display and first.vendor_id == function.vendor_id:
        return parent
    return None


def is_management(function: PciFunction) -> bool:
    """It draws the console of a server's remote management."""
    is_named = function.vendor_id is None and function.name.lower().startswith(_MANAGEMENT_NAMES)
    return function.vendor_id in MANAGEMENT_VENDORS or is_named


def _is_gpu(function: PciFunction, facts: HostFacts) -> bool:
    return (
        function.address.endswith(".0")
        and function.is_display
        and not is_management(function)
        and "virtual function" not in function.name.lower()
        and physical_function(function, facts) is None
    )


def _verdict(
    function: PciFunction, slot: set[PciAddress], members: dict[int, list[PciAddress]], facts: HostFacts
) -> GpuVerdict:
    groups = facts.groups or {}
    functions = tuple(sorted(slot, key=address_order))
    mates = {
        mate for own in functions if own in groups for mate in members[groups[own]] if mate not in slot
    }  # of all functions: the audio function may have a group of its own
    foreign: list[PciAddress] = []
    unlisted: list[PciAddress] = []
    for mate in sorted(mates, key=address_order):
        is_bridge = _is_bridge(mate, function.address, facts)
        seen = (facts.functions or {}).get(mate)
        if is_bridge or (seen is not None and physical_function(seen, facts) == function.address):
            continue
        (unlisted if is_bridge is None else foreign).append(mate)
    group = groups.get(function.address)
    return GpuVerdict(
        address=function.address,
        name=function.name,
        vendor_id=function.vendor_id,
        device_id=function.device_id,
        functions=functions,
        iommu_group=group,
        is_group_clean=_is_clean(facts, group, foreign, unlisted),
        foreign_devices=tuple(foreign),
        unlisted=tuple(unlisted),
        driver=function.driver,
        is_bound_to_vfio=function.is_bound_to_vfio,
    )


def _is_clean(
    facts: HostFacts, group: int | None, foreign: list[PciAddress], unlisted: list[PciAddress]
) -> bool | None:
    if foreign:
        return False
    return None if group is None or unlisted or not facts.groups_are_whole else True


def _is_bridge(mate: PciAddress, gpu: PciAddress, facts: HostFacts) -> bool | None:
    for listing in (facts.functions, facts.group_listing):
        seen = (listing or {}).get(mate)
        if seen is not None and seen.is_bridge is not None:
            return seen.is_bridge
    if mate == _FIRST_DEVICE:
        return True
    # The kernel joins a device behind a bridge with devices of bus 0 for one reason: they are its root port
    # and that port's neighbours. Short listings (`lspci -d 10de:`) leave them out.
    domain, _, bus = bus_of(mate).rpartition(":")
    if bus == "00" and bus_of(gpu) != f"{domain}:00" and gpu.startswith(f"{domain}:"):
        return True
    return None
