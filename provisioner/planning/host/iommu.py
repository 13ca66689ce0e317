"""Checks on the IOMMU: is it on, does it remap interrupts, are the groups real, do GPUs share them; pure."""

from __future__ import annotations

from provisioner.domain.host import AMD_CPU, INTEL_CPU, HostFacts, PciAddress
from provisioner.planning.host.gpus import GpuVerdict, gpus_of
from provisioner.planning.host.steps import change_command_line, has_flag, how_to_learn, missing, ok, teller
from provisioner.planning.host.verdict import acs_override_place, cpu_vendor_of, iommu_state
from provisioner.planning.readiness import Check, CheckStatus

GROUPS_COMMAND = "find /sys/kernel/iommu_groups -type l"
LOG_COMMAND = "dmesg | grep -iE 'dmar|amd-vi|iommu|remapping|vfio|efifb|simple-?fb|simpledrm'"


def iommu_is_on(facts: HostFacts) -> list[Check]:
    """Without it no device can be given to a guest."""
    why = "Proxmox refuses to start a VM with a PCI device while the IOMMU is off"
    state, evidence = iommu_state(facts)
    if state:
        return [ok("iommu", f"on: {evidence}", why)]
    if state is None:
        return [Check("iommu", CheckStatus.UNKNOWN, evidence, why, _ask_for_groups(facts))]
    return [Check("iommu", CheckStatus.FAIL, f"off: {evidence}", why, _turn_on(facts))]


def _ask_for_groups(facts: HostFacts) -> str:
    return how_to_learn(facts, "iommu_groups", GROUPS_COMMAND)


def _turn_on(facts: HostFacts) -> str:
    vendor = cpu_vendor_of(facts)
    firmware = {INTEL_CPU: "VT-d", AMD_CPU: "IOMMU (AMD-Vi)"}.get(vendor or "", "VT-d (Intel) or IOMMU (AMD)")
    if off := has_flag(facts, "intel_iommu=off", "amd_iommu=off", "iommu=off"):
        return change_command_line(facts, f"remove {off}")
    step = f"turn {firmware} on in the firmware setup"
    # Linux turns AMD's on by itself, Intel's from 6.8; amd_iommu=on is no switch at all.
    is_flag_needed = facts.kernel is None or not facts.kernel.is_at_least(6, 8)
    if vendor != AMD_CPU and is_flag_needed and has_flag(facts, "intel_iommu=on") is None:
        on_intel = "" if vendor == INTEL_CPU else "on an Intel CPU also "
        return f"{step}; {on_intel}{change_command_line(facts, 'add intel_iommu=on')}"
    return f"{step}, then boot and look for directories in /sys/kernel/iommu_groups"


def interrupts_are_remapped(facts: HostFacts) -> list[Check]:
    """VFIO refuses a platform that cannot keep a guest's interrupts in their place."""
    id_, why = "interrupt_remapping", "without it VFIO refuses devices, for a guest could forge the host's interrupts"
    is_unsafe = any("allow_unsafe_interrupts=1" in line.text.replace("=Y", "=1") for line in facts.modprobe or ())
    is_unsafe = is_unsafe or "allow_unsafe_interrupts=1" in (facts.command_line or "")
    log = facts.log
    if log is not None and log.interrupt_remapping_off:
        found = f'the kernel log says "{log.interrupt_remapping_off}"'
        if is_unsafe:
            step = (
                "keep allow_unsafe_interrupts=1 only while you trust every guest; a firmware update may bring remapping"
            )
            return [Check(id_, CheckStatus.WARN, f"{found}; allow_unsafe_interrupts=1 is set", why, step)]
        step = (
            "update the firmware and turn on VT-d/IOMMU and x2APIC; if the platform has none and you trust every "
            "guest: put `options vfio_iommu_type1 allow_unsafe_interrupts=1` into /etc/modprobe.d/vfio.conf, "
            "run update-initramfs -u -k all and reboot"
        )
        return [Check(id_, CheckStatus.FAIL, found, why, step)]
    if log is not None and log.interrupt_remapping_on:
        return [ok(id_, f'the kernel log says "{log.interrupt_remapping_on}"', why)]
    found = "no line of a kernel log tells whether interrupts are remapped"
    if is_unsafe:
        found += "; allow_unsafe_interrupts=1 is set, which hints that they are not"
    return [Check(id_, CheckStatus.UNKNOWN, found, why, how_to_learn(facts, "dmesg", LOG_COMMAND))]


def groups_are_isolated(facts: HostFacts) -> list[Check]:
    """A group goes to a guest as a whole."""
    return [_group(facts, gpu) for gpu in gpus_of(facts)]


def _group(facts: HostFacts, gpu: GpuVerdict) -> Check:
    id_ = f"group_{gpu.address}"
    why = "a start binds every device of the group to vfio-pci, so the host loses whatever else is in it"
    if gpu.foreign_devices:
        named = ", ".join(f"{mate} ({_kind(facts, mate)})" for mate in gpu.foreign_devices)
        where = "its groups" if gpu.iommu_group is None else f"group {gpu.iommu_group}"
        step = (
            "put the card into another slot, best one that hangs off the CPU, or look for ACS in the firmware setup; "
            "as a last resort pcie_acs_override=downstream,multifunction splits the group without isolating it"
        )
        return Check(id_, CheckStatus.FAIL, f"{gpu.address} shares {where} with {named}", why, step)
    if gpu.iommu_group is None:
        if iommu_state(facts)[0] is False:
            return Check(id_, CheckStatus.UNKNOWN, "groups appear once the IOMMU is on", why, "see the check iommu")
        logged = ((facts.log.groups if facts.log else None) or {}).get(gpu.address)
        hint = "" if logged is None else f"; the kernel log puts it into group {logged}, without naming all mates"
        found = f"{teller(facts)} shows no group of {gpu.address}{hint}"
        return Check(id_, CheckStatus.UNKNOWN, found, why, _ask_for_groups(facts))
    if gpu.unlisted:
        found = f"group {gpu.iommu_group} also holds {', '.join(gpu.unlisted)}, of which {teller(facts)} shows nothing"
        return Check(id_, CheckStatus.UNKNOWN, found, why, how_to_learn(facts, "lspci", "lspci -Dnnk"))
    if gpu.is_group_clean is None:
        found = f"the listing of groups is cut, so group {gpu.iommu_group} may hold more than {gpu.address}"
        return Check(id_, CheckStatus.UNKNOWN, found, why, _ask_for_groups(facts))
    return ok(id_, f"{gpu.address} is alone in group {gpu.iommu_group}, bridges aside", why)


def _kind(facts: HostFacts, address: PciAddress) -> str:
    seen = (facts.functions or {}).get(address) or (facts.group_listing or {}).get(address)
    if seen is None or not seen.name:
        return "unnamed"
    return seen.name if len(seen.name) <= 60 else f"{seen.name[:57]}..."


def acs_is_real(facts: HostFacts) -> list[Check]:
    """Groups that a patch promises are no isolation."""
    id_, why = "acs_override", "the patch splits groups on paper: devices can still reach each other's memory"
    place = acs_override_place(facts)
    if place is not None:
        step = change_command_line(facts, "remove pcie_acs_override=...")
        step = f"keep it only while you trust every guest; to see the real groups: {step}"
        return [Check(id_, CheckStatus.WARN, f"{place} has pcie_acs_override", why, step)]
    if facts.command_line is None and facts.boot_file is None:
        return [missing(facts, id_, "cmdline", why, "cat /proc/cmdline")]
    return [ok(id_, "not in use", why)]
