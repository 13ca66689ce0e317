"""Checks on what kind of cards there are: virtual functions, boards with a fabric, who draws the console; pure."""

from __future__ import annotations

from provisioner.domain.host import HostFacts, PciAddress, PciFunction
from provisioner.planning.host.gpus import GpuVerdict, gpus_of, is_management, physical_function
from provisioner.planning.host.steps import ok
from provisioner.planning.readiness import Check, CheckStatus

_NVIDIA = "10de"
_VGA, _OTHER_BRIDGE = "0300", "0680"  # a 3D controller (0302) has no screen; NVSwitches are bridges of class 0680


def whole_cards_are_whole(facts: HostFacts) -> list[Check]:
    """A card that is cut into virtual functions is not to be had as a whole."""
    return [
        Check(
            f"virtual_functions_{gpu.address}",
            CheckStatus.WARN,
            f"{gpu.address} is cut into {len(cut)} virtual functions (SR-IOV), {cut[0]} the first",
            "a card serves either as a whole or by its virtual functions; the driver that made them stays on the host",
            f"for the whole card: `echo 0 > /sys/bus/pci/devices/{gpu.address}/sriov_numvfs`, and switch off what sets "
            "it at boot; for slices: map virtual functions, not the card",
        )
        for gpu in gpus_of(facts)
        if (cut := virtual_functions(facts, gpu))
    ]


def virtual_functions(facts: HostFacts, gpu: GpuVerdict) -> tuple[PciAddress, ...]:
    """Return the SR-IOV virtual functions of a GPU, those in its own slot included."""
    functions = facts.functions or {}
    own = (functions.get(address) for address in gpu.functions)
    further = [one.address for one in own if one is not None and one.is_display and one.address != gpu.address]
    others = (one for one in functions.values() if one.address not in gpu.functions)
    return tuple(further) + tuple(one.address for one in others if physical_function(one, facts) == gpu.address)


def no_fabric_ties_cards_together(facts: HostFacts) -> list[Check]:
    """GPUs on a board with switches between them are one machine to their driver."""
    switches = [
        function
        for function in (facts.functions or {}).values()
        if function.vendor_id == _NVIDIA and function.class_code == _OTHER_BRIDGE
    ]
    if not switches:
        return []
    return [
        Check(
            "nvswitch",
            CheckStatus.WARN,
            f"{len(switches)} NVSwitches tie the GPUs together ({switches[0].address} the first)",
            "a GPU of such a board (HGX, DGX) may not initialise in a guest that has not the switches too",
            "try one GPU before you rely on it; if it does not initialise, this program cannot use the board",
        )
    ]


def console_stays_somewhere(facts: HostFacts) -> list[Check]:
    """Somebody who stands before the server wants to see something."""
    screens = [one for one in (facts.functions or {}).values() if one.is_display and _has_screen(one)]
    if not screens:
        return []
    why = "the server's own screen goes dark when a guest takes the card that draws it; SSH and the web page stay"
    managers = [one for one in screens if is_management(one)]
    if managers:
        return [ok("console", f"on {managers[0].address}, the server's management controller", why)]
    drawing = min(facts.boot_vga or (), default=facts.log.boot_vga if facts.log is not None else None)
    if len(screens) > 1:
        drawn = f"drawn by {drawing}" if drawing is not None else "any of them may draw it"
        return [ok("console", f"{len(screens)} cards have a screen; {drawn}", why)]
    address = screens[0].address
    found = f"{address} is the only card with a screen"
    step = (
        "see that you reach the server by SSH without its screen; a graphics unit inside the CPU, if there is one, "
        "can be turned on in the firmware setup"
    )
    return [Check(f"console_{address}", CheckStatus.WARN, found, why, step)]


def _has_screen(function: PciFunction) -> bool:
    return function.class_code == _VGA and "virtual function" not in function.name.lower()
