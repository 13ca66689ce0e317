"""Checks on who drives the GPUs and how they are bound: drivers, ids=, modules, reset; pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence

from provisioner.domain.host import HostFacts, PciAddress, PciFunction, address_order
from provisioner.planning.host.gpus import GpuVerdict, gpus_of
from provisioner.planning.host.steps import REFRESH_INITRAMFS, how_to_learn, missing, ok, teller
from provisioner.planning.host.verdict import VIRQFD, framebuffer_evidence, stale_virqfd_file
from provisioner.planning.readiness import Check, CheckStatus

LSPCI_COMMAND = "lspci -Dnnk"
_IDS = re.compile(r"\b([0-9a-f]{4}):([0-9a-f]{4})\b", re.IGNORECASE)

# Device ids of AMD GPUs that do not come back from a bus reset (the families that the vendor-reset module was
# written for): from, to, family.
_FAILING_RESETS = (
    (0x67C0, 0x67DF, "Polaris 10/20"),
    (0x6FDF, 0x6FDF, "Polaris 20"),
    (0x67E0, 0x67FF, "Polaris 11/21"),
    (0x6980, 0x699F, "Polaris 12"),
    (0x6860, 0x687F, "Vega 10"),
    (0x69A0, 0x69AF, "Vega 12"),
    (0x66A0, 0x66AF, "Vega 20"),
    (0x7310, 0x731F, "Navi 10"),
    (0x7340, 0x734F, "Navi 14"),
    (0x7360, 0x7362, "Navi 12"),
)


def gpus_are_seen(facts: HostFacts) -> list[Check]:
    """There must be something to pass through."""
    why = "a node needs a GPU that a guest can have"
    if facts.functions is None:
        return [missing(facts, "gpus", "lspci", why, LSPCI_COMMAND)]
    gpus = gpus_of(facts)
    if not gpus:
        found = "no display device but, at most, the server's own management controller"
        step = (
            "put a GPU in; if there is one: check its power cables, and turn Above 4G Decoding on in the firmware setup"
        )
        return [Check("gpus", CheckStatus.FAIL, found, why, step)]
    return [ok("gpus", f"{len(gpus)} found", why)]


def functions_have_the_right_driver(facts: HostFacts) -> list[Check]:
    """Proxmox binds at a VM's start, but a driver that is using the card may not let go."""
    gpus = gpus_of(facts)
    models = Counter(gpu.ids for gpu in gpus)
    claimed = frozenset(ids for _, ids in vfio_claims(facts))
    return [_driver(facts, gpu, claimed, has_twin=models[gpu.ids] > 1) for gpu in gpus]


def _driver(facts: HostFacts, gpu: GpuVerdict, claimed: frozenset[str], *, has_twin: bool) -> Check:
    id_ = f"driver_{gpu.address}"
    why = "Proxmox takes devices from their drivers when a VM starts; one in use by the host may hang there"
    seen = [function for address in gpu.functions if (function := (facts.functions or {}).get(address)) is not None]
    held = [function for function in seen if function.driver is not None and not function.is_bound_to_vfio]
    if held:
        named = ", ".join(f"{function.driver} drives {function.address}" for function in held)
        step = _by_slot_step(gpu) if has_twin else _bind(facts, gpu, held, claimed)
        return Check(id_, CheckStatus.WARN, named, why, step)
    if gpu.is_bound_to_vfio is None:
        found = f"{teller(facts)} does not show who drives {gpu.address}"
        return Check(id_, CheckStatus.UNKNOWN, found, why, how_to_learn(facts, "lspci", LSPCI_COMMAND))
    unbound = [function.address for function in seen if function.is_bound_to_vfio is False]
    dark = [function.address for function in seen if function.is_bound_to_vfio is None]
    bound = "vfio-pci" if gpu.is_bound_to_vfio else "no driver"
    rest = f"; without a driver: {', '.join(unbound)}" if unbound and gpu.is_bound_to_vfio else ""
    rest += f"; not shown: {', '.join(dark)}" if dark else ""
    return ok(id_, f"{bound} has {gpu.address}{rest}", why)


def _by_slot_step(gpu: GpuVerdict) -> str:
    return f"if a guest shall have it and the host keeps its twin: {_by_slot_script(gpu.functions)}"


def _bind(facts: HostFacts, gpu: GpuVerdict, held: Sequence[PciFunction], claimed: frozenset[str]) -> str:
    functions = facts.functions or {}
    pairs = [pair for address in gpu.functions if address in functions and (pair := _pair(functions[address]))]
    # USB drivers are built into the kernel and cannot be overtaken; Proxmox takes such functions at the VM's start.
    drivers = sorted(
        {function.driver for function in held if function.driver and (function.is_display or function.is_audio)}
    )
    softdeps = ", ".join(f"`softdep {driver} pre: vfio-pci`" for driver in drivers)
    file = "/etc/modprobe.d/vfio.conf"
    if pairs and claimed.issuperset(pairs):
        lines = softdeps or "a softdep for its driver"
        return f"ids= lists it, but its driver was faster: add {lines} to {file}, {REFRESH_INITRAMFS}"
    ids = ",".join(dict.fromkeys(pairs)) or gpu.ids
    lines = f"`options vfio-pci ids={ids}`" + (f", {softdeps}" if softdeps else "")
    only = "; it is the only GPU here, so the host's own console goes with it" if len(gpus_of(facts)) == 1 else ""
    step = f"if a guest shall have it: put the lines {lines} into {file}, {REFRESH_INITRAMFS}"
    return f"{step}{only}; if the host needs it, leave it"


def ids_claim_no_more_than_meant(facts: HostFacts) -> list[Check]:
    """`ids=` takes every card of that model."""
    id_, why = "ids_binding", "vfio-pci ids= takes all cards of a model, also the one that the host's console needs"
    if facts.modprobe is None and facts.command_line is None:
        return [missing(facts, id_, "modprobe", why, "grep -r . /etc/modprobe.d")]
    claims = list(vfio_claims(facts))
    by_ids: dict[str, list[PciFunction]] = {}
    for function in sorted((facts.functions or {}).values(), key=lambda one: address_order(one.address)):
        if pair := _pair(function):
            by_ids.setdefault(pair, []).append(function)
    console = {*framebuffer_evidence(facts, gpus_of(facts)), facts.log.boot_vga if facts.log is not None else None}
    checks = []
    for file, ids in dict.fromkeys(claims):
        twins = by_ids.get(ids, [])
        needed = [twin for twin in twins if _is_the_hosts(facts, twin, console)]
        if len(twins) < 2 or not needed:
            continue
        found = f"{file} claims {ids}, which is {len(twins)} devices; the host uses {_addresses(needed)}"
        others = [twin for twin in twins if twin not in needed]
        if others:
            step = f"remove {ids} from ids= in {file}; {_by_slot_script([twin.address for twin in others])}"
            checks.append(Check(f"{id_}_{ids}", CheckStatus.FAIL, found, why, step))
        else:
            step = f"if all of them are for guests, reboot; if not, remove {ids} from ids= in {file} and bind by slot"
            checks.append(Check(f"{id_}_{ids}", CheckStatus.WARN, found, why, step))
    if checks:
        return checks
    if not claims:
        return [ok(id_, "no ids= in use; Proxmox binds when a VM starts", why)]
    many = [ids for _, ids in dict.fromkeys(claims) if len(by_ids.get(ids, [])) > 1]
    if many:
        found = f"{', '.join(many)} takes several cards at once; {teller(facts)} shows none of them as the host's"
        return [ok(id_, found, why)]
    return [ok(id_, f"ids= names {', '.join(dict.fromkeys(ids for _, ids in claims))}", why)]


def _is_the_hosts(facts: HostFacts, function: PciFunction, console: Container[PciAddress | None]) -> bool:
    """The host uses it; a card's sound and USB functions are whose the card is."""
    first = (facts.functions or {}).get(PciAddress(f"{function.slot}.0"))
    card = first if first is not None and first.is_display else function
    return (card.is_bound_to_vfio is False and card.driver is not None) or card.address in console


def _addresses(functions: Sequence[PciFunction]) -> str:
    return ", ".join(function.address for function in functions)


def vfio_claims(facts: HostFacts) -> Iterator[tuple[str, str]]:
    """Yield each vendor:device pair that vfio-pci is told to take, with the place that says so."""
    for line in facts.modprobe or ():
        words = line.text.replace("_", "-").split()
        if words[:2] == ["options", "vfio-pci"]:
            for word in words[2:]:
                if word.startswith("ids="):
                    yield from ((line.file or "/etc/modprobe.d", pair) for pair in _pairs(word))
    for word in (facts.command_line or "").split():
        if word.replace("_", "-").startswith("vfio-pci.ids="):
            yield from (("the kernel command line", pair) for pair in _pairs(word))


def _pairs(word: str) -> list[str]:
    # A claim may go on with subsystem ids and class: vendor:device:subvendor:subdevice:class:mask.
    parts = (_IDS.match(part.strip("\"'")) for part in word.partition("=")[2].split(","))
    return [match[0].lower() for match in parts if match]


def _pair(function: PciFunction) -> str | None:
    return f"{function.vendor_id}:{function.device_id}" if function.vendor_id and function.device_id else None


def _by_slot_script(addresses: Sequence[str]) -> str:
    return (
        f"bind by slot: let /etc/initramfs-tools/scripts/init-top/vfio-by-slot write vfio-pci into "
        f"/sys/bus/pci/devices/ADDRESS/driver_override of {', '.join(addresses)} and run modprobe vfio-pci, "
        f"then {REFRESH_INITRAMFS}"
    )


def modules_are_current(facts: HostFacts) -> list[Check]:
    """A module that is gone makes a start of the host complain."""
    id_, why = "vfio_modules", "vfio_virqfd became part of vfio in kernel 6.2; listing it only fails at boot"
    if facts.boot_modules is None:
        return [missing(facts, id_, "modules", why, "grep -r . /etc/modules /etc/modules-load.d")]
    file = stale_virqfd_file(facts)
    if file is not None and facts.kernel is not None:
        found = f"{file} lists vfio_virqfd, and the kernel is {facts.kernel.text}"
        step = f"delete the line vfio_virqfd from {file}, {REFRESH_INITRAMFS}"
        return [Check(id_, CheckStatus.WARN, found, why, step)]
    listed = {word.replace("-", "_") for line in facts.boot_modules for word in line.text.split()}
    if facts.kernel is None and any(VIRQFD.search(line.text) for line in facts.boot_modules):
        found = "vfio_virqfd is listed, and the kernel's release is unknown"
        return [Check(id_, CheckStatus.UNKNOWN, found, why, how_to_learn(facts, "uname", "uname -r"))]
    vfio = sorted(name for name in listed if name.startswith("vfio"))
    return [ok(id_, f"listed: {', '.join(vfio) or 'none, and Proxmox loads them when a VM starts'}", why)]


def resets_are_known_to_work(facts: HostFacts) -> list[Check]:
    """A card that does not reset works once per boot of the hypervisor."""
    return [check for gpu in gpus_of(facts) if (check := _reset(facts, gpu)) is not None]


def _reset(facts: HostFacts, gpu: GpuVerdict) -> Check | None:
    family = failing_reset_family(gpu)
    methods = (facts.reset_methods or {}).get(gpu.address)
    if methods == () and family is None:
        found = f"the kernel knows no way to reset {gpu.address}"
    elif family is not None:
        has_remedy = "vendor_reset" in (facts.loaded_modules or ())
        remedy = "vendor_reset is loaded" if has_remedy else "the module vendor_reset (DKMS) mends most of them"
        found = f"{gpu.address} is AMD {family}, a family known for failing resets; {remedy}"
    else:
        return None
    return Check(
        f"reset_{gpu.address}",
        CheckStatus.WARN,
        found,
        "a card that does not reset fails or hangs the hypervisor at the VM's second start",
        "prove it with a stop and a start of the VM: provisioner sleep NODE, then provisioner wake NODE, twice; "
        "set survives_stop: false for this GPU in the fleet file if it does not come back",
    )


def failing_reset_family(gpu: GpuVerdict) -> str | None:
    """Return the family when this GPU is of one whose resets are known to fail."""
    if gpu.vendor_id != "1002" or gpu.device_id is None:
        return None
    number = int(gpu.device_id, 16)
    return next((family for first, last, family in _FAILING_RESETS if first <= number <= last), None)
