"""What is wrong with a guest's cards and their driver, in words, with the next step. Pure.

The first failure that explains the others stands alone: where the driver is
not installed nobody is told that nvidia-smi is missing, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from provisioner.domain.gpu_reading import AMD, NVIDIA, GpuFacts, Health, ModuleFlavour
from provisioner.planning.gpu.cards import Generation, generation_of
from provisioner.planning.gpu.xid import FALLEN_OFF_THE_BUS, recovery_health
from provisioner.planning.readiness import Check, CheckStatus

_OK, _WARN, _FAIL, _UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN

# What nvidia-smi says, in the words that did not change between drivers 418 and 610.
_NO_DRIVER = "couldn't communicate with the NVIDIA driver"
_MISMATCH = "Driver/library version mismatch"
_NO_DEVICES = "No devices were found"
_NO_HANDLE = "Unable to determine the device handle"
_LOST = ("GPU is lost", "fallen off the bus", "requires reset")
_NO_LIBRARY = ("couldn't find libnvidia-ml.so", "NVML Shared Library Not Found")
# The exit codes of its manual page; 18 is NVML's LIB_RM_VERSION_MISMATCH, which it passes on.
_NO_PERMISSION_CODE, _POWER_CODE, _NO_DRIVER_CODE, _INTERRUPT_CODE = 4, 8, 9, 10
_NO_LIBRARY_CODE, _INFOROM_CODE, _LOST_CODE, _MISMATCH_CODE = 12, 14, 15, 18

_COLD = (
    "a reboot inside the guest does not reset the card: stop the VM and start it "
    "(provisioner sleep {node}, then provisioner wake {node}); if it stays, reboot the hypervisor"
)


def diagnosis(facts: GpuFacts, *, node: str, cards: int) -> tuple[Check, ...]:
    """Return every finding, the gravest first.

    Args:
        facts: what the guest told.
        node: its name, for next steps.
        cards: how many GPUs the fleet gave it.
    """
    if facts.cards_of(NVIDIA) or (not facts.cards_of(AMD) and facts.answer is not None):
        findings = [*_bus(facts, node, cards), *_nvidia(facts, node)]
    else:
        findings = [*_bus(facts, node, cards), *_amd(facts, node)]
    rank = {_FAIL: 0, _UNKNOWN: 1, _WARN: 2, _OK: 3}
    return tuple(sorted(findings, key=lambda check: rank[check.status]))


def _bus(facts: GpuFacts, node: str, cards: int) -> Iterator[Check]:
    why = "without its card on the PCI bus no driver finds it"
    if facts.cards is None:
        yield Check("pci_device", _UNKNOWN, "the guest shows no PCI bus", why, f"provisioner ssh {node} -- lspci -nn")
        return
    real = [card for card in facts.cards if card.vendor_id in (NVIDIA, AMD)]
    gone = [card.bus_id for card in real if card.is_gone]
    names = ", ".join(f"{card.bus_id} ({card.vendor_id}:{card.device_id})" for card in real) or "none"
    if gone:
        found = f"{', '.join(gone)} does not answer on the PCI bus any more"
        yield Check("pci_device", _FAIL, found, "the card has fallen off the bus", _COLD.format(node=node))
    elif len(real) < cards:
        found = f"the guest sees {len(real)} of {cards} GPUs: {names}"
        step = f"compare with the VM's hardware in Proxmox (hostpci), then: provisioner doctor; provisioner up {node}"
        yield Check("pci_device", _FAIL, found, why, step)
    else:
        yield Check("pci_device", _OK, names, why, "")


def _nvidia(facts: GpuFacts, node: str) -> Iterator[Check]:
    cause = _cause(facts, node)
    if cause is not None:
        yield cause
    yield from _versions(facts, node, is_explained=cause is not None)
    yield from _cards_themselves(facts, node)
    yield from _surroundings(facts, node)


def _cause(facts: GpuFacts, node: str) -> Check | None:
    """Return why nvidia-smi gives no readings, or only some."""
    answer = facts.answer
    if answer is None or (answer.exit_code == 0 and facts.readings and not facts.strays):
        return None
    text = answer.text
    why = "without the driver's answer the engine computes on the CPU, or not at all"
    words = _first_line(text)
    if answer.is_hanging:
        found = "nvidia-smi hangs: it did not answer within its time"
        return Check("driver_answers", _FAIL, found, "a card or its driver is stuck", _COLD.format(node=node))
    if answer.is_missing:
        return _without_tool(facts, node, why)
    if _MISMATCH in text or answer.exit_code == _MISMATCH_CODE:
        return _mismatch(facts, node)
    if any(lost.lower() in text.lower() for lost in _LOST) or answer.exit_code == _LOST_CODE or _NO_HANDLE in text:
        why = "a card is lost: it answers its driver no more"
        return Check("driver_answers", _FAIL, f"nvidia-smi: {words}", why, _COLD.format(node=node))
    if _NO_DRIVER in text or answer.exit_code == _NO_DRIVER_CODE:
        return _not_loaded(facts, node, why)
    if _NO_DEVICES in text:
        return _no_devices(facts, node)
    if any(words in text for words in _NO_LIBRARY) or answer.exit_code == _NO_LIBRARY_CODE:
        step = f"provisioner up {node} installs the driver's packages of one version"
        return Check("driver_answers", _FAIL, "the driver's library libnvidia-ml is not installed", why, step)
    found = f"nvidia-smi ended with exit code {answer.exit_code}: {words or 'without a word'}"
    meaning, step = _by_code(answer.exit_code, node)
    return Check("driver_answers", _FAIL, found, meaning, step)


def _by_code(code: int, node: str) -> tuple[str, str]:
    return {
        _NO_PERMISSION_CODE: (
            "the device files may not be opened by who asked",
            f"provisioner ssh {node} -- ls -l /dev/nvidia*",
        ),
        _POWER_CODE: ("the card's power cables are not plugged in", "plug them in, at the hypervisor"),
        _INTERRUPT_CODE: (
            "the kernel has trouble with the card's interrupts",
            "provisioner doctor on the hypervisor; interrupt remapping is what to look at",
        ),
        _INFOROM_CODE: ("the card's own settings memory is corrupt; it may still compute", "see its maker's support"),
    }.get(code, ("an answer that is not known here", f"provisioner ssh {node} -- nvidia-smi"))


def _without_tool(facts: GpuFacts, node: str, why: str) -> Check:
    step = f"provisioner up {node} installs the driver, unless its GPU says driver: none in the fleet file"
    if "nvidia" in facts.modules:
        found = f"nvidia-smi is not installed, though driver {facts.versions.loaded or '?'} is loaded"
        return Check("driver_answers", _FAIL, found, "without it nobody can look at the card", step)
    found = "no NVIDIA driver is installed"
    if "nouveau" in facts.modules:
        found += "; the kernel's own nouveau has the card, which cannot compute"
    return Check("driver_installed", _FAIL, found, why, step)


def _not_loaded(facts: GpuFacts, node: str, why: str) -> Check:
    """Say why the module is not in the kernel though the tool is there."""
    again = f"provisioner up {node} repairs it"
    log = "\n".join(facts.log or ())
    kernel = facts.kernel or "the running one"
    if "rejected" in log or ("verification failed" in log and facts.is_secure_boot):
        found = "Secure Boot turned the driver's module down: it is not signed with a known key"
        step = (
            "install Ubuntu's prebuilt modules instead of DKMS (driver: auto), or set secure_boot: false for the node"
        )
        return Check("driver_loaded", _FAIL, found, why, step)
    if facts.versions.on_disk is None:
        added = next((line for line in facts.dkms if line.startswith("nvidia") and "installed" not in line), None)
        found = f"there is no driver module for kernel {kernel}" + (f"; dkms: {added}" if added else "")
        return Check("driver_loaded", _FAIL, found, "a kernel was upgraded without the driver's module", again)
    if "nouveau" in facts.modules:
        found = "nouveau took the card before the NVIDIA driver could"
        return Check("driver_loaded", _FAIL, found, why, f"{again}, with a reboot")
    if "NVRM: No NVIDIA GPU found" in log or "No NVIDIA graphics adapter" in log or "Legacy drivers" in log:
        return _wrong_driver(facts, node)
    found = f"module {facts.versions.on_disk} is there for kernel {kernel}, and is not loaded"
    step = f"provisioner ssh {node} -- sudo modprobe nvidia, and what the kernel says to it: sudo dmesg | tail"
    return Check("driver_loaded", _FAIL, found, why, step)


def _wrong_driver(facts: GpuFacts, node: str) -> Check:
    found = f"driver {facts.versions.on_disk or facts.versions.loaded or '?'} ignores the card"
    why = "cards before Turing end with branch 580, and Blackwell has no proprietary module"
    step = f"let the generation choose (driver: auto in the fleet file), then: provisioner up {node}"
    return Check("driver_fits", _FAIL, found, why, step)


def _no_devices(facts: GpuFacts, node: str) -> Check:
    log = "\n".join(facts.log or ())
    if "not supported by open" in log:
        return _wrong_driver(facts, node)
    generations = {generation_of(card.device_id) for card in facts.cards_of(NVIDIA)}
    if Generation.BLACKWELL in generations and facts.versions.flavour is ModuleFlavour.PROPRIETARY:
        return _wrong_driver(facts, node)
    if "Legacy drivers" in log:
        return _wrong_driver(facts, node)
    if "nouveau" in facts.modules:
        found = "nvidia-smi: No devices were found; nouveau has the card"
        return Check("driver_fits", _FAIL, found, "nouveau cannot compute", f"provisioner up {node} switches it off")
    failed = next((line for line in facts.log or () if "RmInitAdapter failed" in line), None)
    found = f"nvidia-smi: {_NO_DEVICES}" + (f"; the kernel: {failed}" if failed else "")
    why = "the driver is loaded and could not start the card: passthrough, a missing reset, or too small a BAR"
    step = f"{_COLD.format(node=node)}; then: provisioner doctor"
    return Check("card_starts", _FAIL, found, why, step)


def _mismatch(facts: GpuFacts, node: str) -> Check:
    versions = facts.versions
    found = f"module {versions.loaded or '?'} is loaded, the programs' library is {versions.library or '?'}"
    why = "the driver was upgraded under a running module; nothing can use the card until both are one version"
    return Check("driver_matches", _FAIL, found, why, f"provisioner up {node} reboots the guest and verifies")


def _versions(facts: GpuFacts, node: str, *, is_explained: bool) -> Iterator[Check]:
    versions = facts.versions
    why = "module, library and tool must be of one version, whatever the packages are called"
    if is_explained or not facts.cards_of(NVIDIA):
        return
    if len(versions.distinct) > 1:
        yield _mismatch(facts, node)
    elif versions.distinct:
        flavour = f", {versions.flavour.value} module" if versions.flavour else ""
        cuda = f", CUDA up to {versions.cuda}" if versions.cuda else ""
        yield Check("driver_matches", _OK, f"{next(iter(versions.distinct))}{flavour}{cuda}", why, "")
    if versions.loaded and versions.on_disk and versions.on_disk != versions.loaded:
        found = f"the next boot loads module {versions.on_disk}, now it is {versions.loaded}"
        yield Check("driver_drift", _WARN, found, "an upgrade waits for a reboot", f"provisioner up {node}")


def _cards_themselves(facts: GpuFacts, node: str) -> Iterator[Check]:
    for xid in facts.xids:
        if not xid.is_grave:
            if xid.health is Health.APPLICATION:
                found = f"Xid {xid.code} on {xid.bus_id or '?'}: {xid.text}"
                why = "a program on the card crashed; the card itself is fine"
                yield Check(f"xid_{xid.code}", _WARN, found, why, f"provisioner logs {node}")
            continue
        name = "GPU has fallen off the bus" if xid.code == FALLEN_OFF_THE_BUS else xid.text
        why = "the kernel log of this boot tells of a failure of the card, not of a program"
        yield Check(
            f"xid_{xid.code}", _FAIL, f"Xid {xid.code} on {xid.bus_id or '?'}: {name}", why, _step(xid.health, node)
        )
    for reading in facts.readings:
        action = reading.recovery_action
        if action is not None and recovery_health(action) is not Health.GOOD:
            found, why = f"{reading.subject}: the driver wants {action}", "the card computes wrongly until then"
            yield Check("recovery_action", _FAIL, found, why, _step(recovery_health(action), node))
        if reading.uncorrected_errors:
            found = f"{reading.subject}: {reading.uncorrected_errors} memory errors that could not be corrected"
            yield Check("memory_errors", _FAIL, found, "answers may be wrong", _step(Health.RESET, node))
        if reading.remapping_failed:
            found = f"{reading.subject}: a bad row of memory could not be replaced"
            yield Check("memory_errors", _FAIL, found, "its spare memory is used up", "have the card exchanged")
        elif reading.remapping_pending:
            found = f"{reading.subject}: a bad row of memory is replaced at the next reset"
            yield Check("memory_remap", _WARN, found, "until then it is in use", _COLD.format(node=node))
        if reading.is_slowed_by_heat:
            found = (
                f"{reading.subject} is slowed down by heat ({reading.temperature_celsius:g} °C)"
                if (reading.temperature_celsius is not None)
                else f"{reading.subject} is slowed down by heat"
            )
            yield Check("heat", _WARN, found, "it computes slower than it could", "see its cooling at the hypervisor")
        for field, words in reading.unreadable.items():
            found = f"{reading.subject}: {field}: {words}"
            yield Check("reading_fails", _WARN, found, "a sick card answers like this", _step(Health.RESET, node))


def _surroundings(facts: GpuFacts, node: str) -> Iterator[Check]:
    repair = f"provisioner up {node}"
    if facts.readings and "nvidia" in facts.modules and "nvidia-uvm" not in facts.devices and facts.devices:
        found = "/dev/nvidia-uvm is missing"
        yield Check("uvm", _FAIL, found, "nvidia-smi works without it, CUDA does not", f"{repair} loads nvidia_uvm")
    if facts.readings and any(reading.persists is False for reading in facts.readings):
        why = "without it the driver is loaded anew for each first use, which takes seconds"
        step = f"{repair} starts nvidia-persistenced; provisioner ssh {node} -- journalctl -u nvidia-persistenced"
        yield Check("persistence", _WARN, "persistence mode is off", why, step)
    drivers = [package for package in facts.packages if package.name.startswith(("linux-modules-nvidia", "libnvidia-"))]
    loose = [package.name for package in drivers if not package.is_held]
    if drivers and loose and len(loose) < len(drivers):
        found = f"not held against upgrades: {', '.join(loose[:4])}"
        yield Check("driver_held", _WARN, found, "an upgrade of a part breaks the whole", f"{repair} holds them")
    if facts.drift:
        yield Check("boot_check", _WARN, facts.drift, "the check at boot found the driver changed", repair)


def _amd(facts: GpuFacts, node: str) -> Iterator[Check]:
    why = "ROCm computes through the kernel driver amdgpu and the device /dev/kfd"
    if not facts.cards_of(AMD):
        return
    if "amdgpu" not in facts.modules:
        step = f"provisioner up {node} installs ROCm, unless its GPU says driver: none"
        yield Check("driver_loaded", _FAIL, "the kernel driver amdgpu is not loaded", why, step)
    elif facts.devices and "kfd" not in facts.devices:
        step = f"provisioner ssh {node} -- sudo dmesg | grep -i amdgpu"
        yield Check("driver_answers", _FAIL, "/dev/kfd is missing", why, step)
    elif not facts.readings:
        words = _first_line(facts.answer.text) if facts.answer else "it was not asked"
        step = f"provisioner ssh {node} -- amd-smi; provisioner up {node} installs it"
        yield Check("driver_answers", _WARN, f"AMD's tools give no readings: {words}", why, step)


def _step(health: Health, node: str) -> str:
    if health is Health.REPAIR:
        return "look at the card's power cables, seat and cooling at the hypervisor"
    return _COLD.format(node=node)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]


def worst(checks: Sequence[Check]) -> CheckStatus:
    """Return the gravest status of some checks; OK where there are none."""
    for status in (_FAIL, _UNKNOWN, _WARN):
        if any(check.status is status for check in checks):
            return status
    return _OK
