"""Checks on the system itself: Proxmox VE's version, memory set aside, and whether the dump is whole; pure."""

from __future__ import annotations

import re

from provisioner.domain.host import HostFacts
from provisioner.domain.quantities import KIB, size_text
from provisioner.planning.host.steps import change_command_line, missing, ok
from provisioner.planning.readiness import Check, CheckStatus

_DEFAULT_PAGE_KIB = 2048
_ASKED_PAGES = re.compile(r"(?:^|\s)hugepages=(\d{1,9})(?=\s|$)")


def pve_is_supported(facts: HostFacts) -> list[Check]:
    """What a version lacks decides what can be asked of it."""
    id_, why = "pve_version", "GPUs reach a VM through a PCI mapping, which a token may use and which exists since 8.0"
    pve = facts.pve
    if pve is None:
        return [missing(facts, id_, "pveversion", why, "pveversion")]
    if pve.major < 8:
        step = "upgrade step by step: pve7to8 shows what is in the way, then 8 to 9 with pve8to9"
        return [Check(id_, CheckStatus.FAIL, f"Proxmox VE {pve.text} has no PCI mappings", why, step)]
    if pve.major > 9:
        step = "look for a newer provisioner, and try it on one node first"
        return [Check(id_, CheckStatus.WARN, f"Proxmox VE {pve.text} is newer than this program knows", why, step)]
    found = f"Proxmox VE {pve.text}"
    if facts.kernel is not None and not facts.kernel.is_at_least(6, 8):
        found += f"; kernel {facts.kernel.text} wants intel_iommu=on on Intel CPUs"
    if not pve.is_at_least(8, 4):
        # pve-storage 8.2.8 (8.3) brought `import`, for appliances only; 8.3.6 (8.4) took disk images too.
        found += "; it cannot fetch cloud images: content type import takes disk images since 8.4"
        step = "upgrade to 8.4, which changes nothing else: apt update && apt full-upgrade, then reboot"
        return [Check(id_, CheckStatus.WARN, found, why, step)]
    return [ok(id_, found, why)]


def cpu_can_virtualise(facts: HostFacts) -> list[Check]:
    """A guest with a GPU is a KVM guest."""
    id_, why = "cpu", "without hardware virtualisation Proxmox starts no VM with KVM, and none with a GPU"
    if facts.cpu_flags is None:
        # A dump has no place for flags, so none is asked for.
        return [missing(facts, id_, "cpu", why, "lscpu")] if "cpu" in facts.withheld else []
    name = facts.cpu_model or "the CPU"
    kinds = {"vmx": "VT-x", "svm": "AMD-V"}
    kind = next((words for flag, words in kinds.items() if flag in facts.cpu_flags), None)
    if kind is None:
        step = "turn Intel VT-x or AMD SVM on in the firmware setup; inside a VM: give it nested virtualisation"
        return [Check(id_, CheckStatus.FAIL, f"{name} shows neither vmx nor svm", why, step)]
    if "avx2" not in facts.cpu_flags:
        found = f"{name} has {kind} and no AVX2"
        step = "nothing on a GPU node; a node without a GPU wants a newer CPU"
        why = "what an engine computes on the CPU takes several times as long without AVX2, and some builds need it"
        return [Check(id_, CheckStatus.WARN, found, why, step)]
    return [ok(id_, f"{name} with {kind}", why)]


def huge_pages_are_as_asked(facts: HostFacts) -> list[Check]:
    """Memory set aside as huge pages is lost to every guest that does not ask for it."""
    id_, why = "hugepages", "memory set aside as huge pages serves only VMs with the setting hugepages"
    pages = facts.huge_pages
    if pages is None:
        return [missing(facts, id_, "hugepages", why, "grep -i huge /proc/meminfo")]
    asked = sum(int(number) for number in _ASKED_PAGES.findall(facts.command_line or ""))
    if asked > pages.total:
        found = f"the command line asks for {asked} huge pages, the kernel found room for {pages.total}"
        return [Check(id_, CheckStatus.WARN, found, why, change_command_line(facts, "lower hugepages="))]
    if not pages.total:
        return [ok(id_, "none set aside; guests with a GPU pin ordinary memory", why)]
    size = size_text(pages.total * (pages.page_kib or _DEFAULT_PAGE_KIB) * KIB)
    if pages.free == pages.total:
        step = "give the nodes' VMs the setting hugepages, or free the memory: "
        step += change_command_line(facts, "remove hugepages=")
        return [Check(id_, CheckStatus.WARN, f"{size} set aside, and nobody uses it", why, step)]
    return [ok(id_, f"{size} set aside", why)]


def dump_was_read_whole(facts: HostFacts) -> list[Check]:
    """What was not read was not judged."""
    if not facts.cut_sections:
        return []
    found = f"too long to be read whole: {', '.join(facts.cut_sections)}"
    why = "what was left out may change the verdict"
    return [Check("dump", CheckStatus.UNKNOWN, found, why, "shorten these sections to the lines that matter")]
