"""The verdict on a hypervisor: is the IOMMU on, whose CPU is it, which GPUs, which problems; pure.

Each problem is one predicate in one table. A command-line flag alone is never
evidence, in either direction: kernels turn the IOMMU on without one, and the
firmware may keep it off in spite of one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.domain.host import AMD_CPU, INTEL_CPU, HostFacts, MemoryRange, PciAddress, slot_of
from provisioner.planning.host.gpus import GpuVerdict, gpus_of, known

# As a word of its own, in whatever way an initramfs tool lists modules: MODULES=(vfio_virqfd), "vfio-virqfd".
VIRQFD = re.compile(r"(?<![\w-])vfio[_-]virqfd(?![\w-])")


@dataclass(frozen=True, slots=True)
class HostVerdict:
    """What programs read of a hypervisor's readiness; no problems means ready, as far as the facts go."""

    is_iommu_enabled: bool | None
    cpu_vendor: str | None
    gpus: tuple[GpuVerdict, ...]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the verdict as plain values."""
        return {
            "iommu_enabled": known(self.is_iommu_enabled),
            "cpu_vendor": self.cpu_vendor or "unknown",
            "gpus": [gpu.as_dict() for gpu in self.gpus],
            "problems": list(self.problems),
        }


def host_verdict(facts: HostFacts) -> HostVerdict:
    """Judge a hypervisor by what is known of it."""
    gpus = gpus_of(facts)
    problems = tuple(id_ for id_, is_true in _PROBLEMS if is_true(facts, gpus))
    return HostVerdict(iommu_state(facts)[0], cpu_vendor_of(facts), gpus, problems)


def iommu_state(facts: HostFacts) -> tuple[bool | None, str]:
    """Return whether the IOMMU is on, and the evidence."""
    log = facts.log
    if facts.groups:
        return True, f"the kernel made {len(set(facts.groups.values()))} IOMMU groups"
    if log is not None and log.adds_to_group:
        return True, f'the kernel log says "{log.adds_to_group}"'
    for function in (facts.functions or {}).values():
        if function.is_bound_to_vfio:
            return True, f"vfio-pci drives {function.address}, which takes an IOMMU group"
    if log is not None and log.vfio_opens:
        return True, f'vfio-pci has a device open, which takes an IOMMU group: "{log.vfio_opens}"'
    if log is not None and log.remapping_off:
        return False, f'the kernel log says "{log.remapping_off}"'
    if facts.groups is not None:
        return False, "no device is in an IOMMU group"
    if log is not None and log.remapping_hardware and not log.remapping_on and log.is_whole:
        return False, f'the kernel log lists remapping hardware ("{log.remapping_hardware}") that was never enabled'
    return None, "neither IOMMU groups nor log lines prove that the IOMMU is on or off"


def cpu_vendor_of(facts: HostFacts) -> str | None:
    """Return whose CPU it is: by its own word, else its host bridges', else the kernel log's."""
    if facts.cpu_vendor is not None:
        return facts.cpu_vendor if facts.cpu_vendor in (INTEL_CPU, AMD_CPU) else None
    bridges = {function.vendor_id for function in (facts.functions or {}).values() if function.is_host_bridge}
    is_intel, is_amd = "8086" in bridges, bool(bridges & {"1022", "1002"})
    if is_intel == is_amd and facts.log is not None:
        is_intel, is_amd = facts.log.is_intel, facts.log.is_amd
    if is_intel == is_amd:
        return None
    return INTEL_CPU if is_intel else AMD_CPU


def acs_override_place(facts: HostFacts) -> str | None:
    """Return where the ACS override patch is asked for."""
    if facts.command_line and "pcie_acs_override" in facts.command_line:
        return "the kernel command line"
    if any("pcie_acs_override" in line for line in facts.boot_file or ()):
        return "the boot loader's file"
    return "the kernel log" if facts.log is not None and facts.log.acs_override else None


def stale_virqfd_file(facts: HostFacts) -> str | None:
    """Return the file that still loads vfio_virqfd though this kernel has it inside vfio (6.2)."""
    if facts.kernel is None or not facts.kernel.is_at_least(6, 2):
        return None
    for line in facts.boot_modules or ():
        if VIRQFD.search(line.text):
            return line.file or "the module list"
    return None


def identical_gpus(gpus: tuple[GpuVerdict, ...]) -> dict[str, tuple[GpuVerdict, ...]]:
    """Return the GPUs that share vendor and device id, by these ids."""
    counts = Counter(gpu.ids for gpu in gpus if gpu.vendor_id and gpu.device_id)
    return {ids: tuple(gpu for gpu in gpus if gpu.ids == ids) for ids, count in counts.items() if count > 1}


def framebuffer_evidence(facts: HostFacts, gpus: tuple[GpuVerdict, ...]) -> dict[PciAddress, str]:
    """Return the GPUs in whose memory the boot framebuffer sits, each with the proof."""
    slots = {slot_of(gpu.address): gpu.address for gpu in gpus}
    found: dict[PciAddress, str] = {}

    def note(address: str, evidence: str) -> None:
        gpu = slots.get(slot_of(address))
        if gpu is not None:
            found.setdefault(gpu, evidence)

    log = facts.log
    if log is not None:
        for addresses in (log.cannot_reserve, log.framebuffer_on):
            for address, message in (addresses or {}).items():
                note(address, f'the kernel log says "{message}"')
    bars = [*(log.bars if log else ()), *(entry for entry in facts.memory_map or () if _is_device(entry))]
    for framebuffer in (entry for entry in facts.memory_map or () if not _is_device(entry)):
        for parent in framebuffer.parents:
            note(parent, f'/proc/iomem shows "{framebuffer.name}" inside {parent}')
        _note_containing(framebuffer, bars, note, f'/proc/iomem shows "{framebuffer.name}"')
    for framebuffer in log.framebuffers if log else ():
        _note_containing(framebuffer, bars, note, f'the kernel log says "{framebuffer.name}"')
    return found


def _is_device(entry: MemoryRange) -> bool:
    return entry.name.count(":") == 2 and "." in entry.name


def _note_containing(
    framebuffer: MemoryRange, bars: list[MemoryRange], note: Callable[[str, str], None], evidence: str
) -> None:
    for bar in bars:
        if bar.contains(framebuffer):
            note(bar.name, f"{evidence}, inside memory of {bar.name}")


def _audio_is_left_behind(facts: HostFacts, gpu: GpuVerdict) -> bool:
    functions = (facts.functions or {}).get
    audio = (seen for address in gpu.functions if (seen := functions(address)) is not None and seen.is_audio)
    return gpu.is_bound_to_vfio is True and any(seen.is_bound_to_vfio is False for seen in audio)


_Gpus = tuple[GpuVerdict, ...]

_PROBLEMS: tuple[tuple[str, Callable[[HostFacts, _Gpus], bool]], ...] = (
    ("iommu_disabled", lambda facts, _: iommu_state(facts)[0] is False),
    ("unknown_iommu", lambda facts, _: iommu_state(facts)[0] is None),
    ("no_interrupt_remapping", lambda facts, _: facts.log is not None and bool(facts.log.interrupt_remapping_off)),
    ("unknown_gpus", lambda facts, _: facts.functions is None),
    ("no_gpu_found", lambda facts, gpus: facts.functions is not None and not gpus),
    ("iommu_group_shared", lambda _, gpus: any(gpu.foreign_devices for gpu in gpus)),
    (
        "unknown_iommu_group",
        lambda facts, gpus: iommu_state(facts)[0] is not False and any(gpu.iommu_group is None for gpu in gpus),
    ),
    ("acs_override", lambda facts, _: acs_override_place(facts) is not None),
    ("host_driver_bound", lambda _, gpus: any(gpu.has_host_driver for gpu in gpus)),
    ("audio_function_not_vfio", lambda facts, gpus: any(_audio_is_left_behind(facts, gpu) for gpu in gpus)),
    ("unknown_driver", lambda _, gpus: any(gpu.is_bound_to_vfio is None for gpu in gpus)),
    ("identical_gpu_ids", lambda _, gpus: bool(identical_gpus(gpus))),
    ("stale_vfio_virqfd", lambda facts, _: stale_virqfd_file(facts) is not None),
    ("boot_framebuffer_on_gpu", lambda facts, gpus: bool(framebuffer_evidence(facts, gpus))),
)
