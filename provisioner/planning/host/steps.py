"""Words for next steps: which file, which line, which command, as this hypervisor's boot loader wants it."""

from __future__ import annotations

from provisioner.domain.host import BootLoader, HostFacts
from provisioner.planning.readiness import Check, CheckStatus

GRUB_FILE, SYSTEMD_BOOT_FILE = "/etc/default/grub", "/etc/kernel/cmdline"
REFRESH_INITRAMFS = "run update-initramfs -u -k all and reboot"


def boot_loader_of(facts: HostFacts) -> BootLoader | None:
    r"""Return who boots this machine: what the kernel was handed decides, for tools report what is installed.

    GRUB passes BOOT_IMAGE=, Proxmox's systemd-boot entries pass initrd=\EFI\proxmox\....
    """
    for word in (facts.command_line or "").split():
        if word.startswith("BOOT_IMAGE="):
            return BootLoader.GRUB
        if word.lower().startswith("initrd=\\efi\\"):
            return BootLoader.SYSTEMD_BOOT
    return facts.boot_loader


def change_command_line(facts: HostFacts, change: str) -> str:
    """Return how to change the kernel's command line, for instance `add intel_iommu=on`."""
    grub = f"{change} in GRUB_CMDLINE_LINUX_DEFAULT of {GRUB_FILE}, run update-grub"
    systemd = f"{change} in the one line of {SYSTEMD_BOOT_FILE}, run proxmox-boot-tool refresh"
    loader = boot_loader_of(facts)
    if loader is BootLoader.GRUB:
        return f"{grub} and reboot; then look at /proc/cmdline"
    if loader is BootLoader.SYSTEMD_BOOT:
        return f"{systemd} and reboot; then look at /proc/cmdline"
    return f"find the boot loader with proxmox-boot-tool status; GRUB: {grub}; systemd-boot: {systemd}; then reboot"


def has_flag(facts: HostFacts, *flags: str) -> str | None:
    """Return the first of these words that stands on the running kernel's command line."""
    words = (facts.command_line or "").split()
    return next((flag for flag in flags if flag in words), None)


def ok(id_: str, found: str, why: str) -> Check:
    """Return a finding that needs nothing."""
    return Check(id_, CheckStatus.OK, found, why, "")


def missing(id_: str, section: str, why: str, command: str) -> Check:
    """Return a finding that a fact is missing, and how to learn it."""
    step = f"add a section `=== {section}` with what this prints: {command}"
    return Check(id_, CheckStatus.UNKNOWN, f"the dump has no section {section} that can be read", why, step)
