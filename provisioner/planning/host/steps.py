"""Words for next steps: which file, which line, which command, as this hypervisor's boot loader wants it."""

from __future__ import annotations

from provisioner.domain.host import BootLoader, HostFacts, Source
from provisioner.planning.readiness import Check, CheckStatus

GRUB_FILE, SYSTEMD_BOOT_FILE = "/etc/default/grub", "/etc/kernel/cmdline"
SSH_LINES = "let doctor look by itself: give the hypervisor `ssh: {address: ...}` in the fleet file, then run it again"
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


def teller(facts: HostFacts) -> str:
    """Return who told the facts, as messages name it."""
    if Source.SSH in facts.sources:
        return "the hypervisor"
    return "the API" if Source.API in facts.sources else "the dump"


def how_to_learn(facts: HostFacts, section: str, command: str) -> str:
    """Return how to come by a fact that is missing.

    Args:
        facts: what there is, and from where.
        section: of a dump, that holds it.
        command: what prints it on the hypervisor.
    """
    if Source.SSH in facts.sources:
        return f"see on the hypervisor why this says nothing: `{command}`"
    if Source.API not in facts.sources:
        return f"add a section `=== {section}` with what this prints: `{command}`"
    if privilege := facts.withheld.get(section):
        return f"give the token, and its user, {privilege}"
    return SSH_LINES


def missing(facts: HostFacts, id_: str, section: str, why: str, command: str) -> Check:
    """Return a finding that a fact is missing, and how to learn it."""
    if Source.API in facts.sources or Source.SSH in facts.sources:
        found = f"{teller(facts)} does not tell"
    else:
        found = f"the dump has no section {section} that can be read"
    return Check(id_, CheckStatus.UNKNOWN, found, why, how_to_learn(facts, section, command))
