"""Checks on how the hypervisor boots: the command line's file, the framebuffer, Secure Boot; pure."""

from __future__ import annotations

import re
import shlex

from provisioner.domain.host import BootLoader, HostFacts
from provisioner.planning.host.drivers import failing_reset_family
from provisioner.planning.host.gpus import gpus_of
from provisioner.planning.host.steps import (
    GRUB_FILE,
    SYSTEMD_BOOT_FILE,
    boot_loader_of,
    change_command_line,
    has_flag,
    missing,
    ok,
)
from provisioner.planning.host.verdict import framebuffer_evidence
from provisioner.planning.readiness import Check, CheckStatus

_GRUB_LINE = re.compile(r"^(?:export\s+)?GRUB_CMDLINE_LINUX\w*\+?=(.*)$")
_GRUB_SETTING = re.compile(r"^(?:export\s+)?GRUB_\w+=")
_SHOW_FILES = f"grep ^GRUB_CMDLINE {GRUB_FILE}; cat {SYSTEMD_BOOT_FILE}"
# Words whose absence from /proc/cmdline says nothing: installers and loaders rewrite them.
_SHIFTING = ("root=", "BOOT_IMAGE=", "initrd=", "boot=", "$")
# amd_iommu=on is no switch that the kernel knows: AMD's IOMMU is on unless it is turned off.
_COSMETIC = frozenset({"ro", "rw", "quiet", "splash", "--", "nosplash", "amd_iommu=on"})


def command_line_is_in_force(facts: HostFacts) -> list[Check]:
    """What a file says counts only once the kernel was started with it."""
    id_, why = "command_line", "a change in a file that the boot loader does not read is ignored without a word"
    if facts.boot_file is None:
        return [missing(facts, id_, "kernel_cmdline_file", why, _SHOW_FILES)]
    if facts.command_line is None:
        return [missing(facts, id_, "cmdline", why, "cat /proc/cmdline")]
    grub, plain = _words(facts)
    loader = boot_loader_of(facts)
    running = set(facts.command_line.split())
    in_grub = [word for word in grub if word not in running]
    in_plain = [word for word in plain if word not in running]
    if loader is None:
        waiting = in_grub + in_plain
        if waiting:
            found = f"/proc/cmdline lacks {' '.join(waiting)}, and the boot loader is unknown"
            return [Check(id_, CheckStatus.UNKNOWN, found, why, change_command_line(facts, f"set {' '.join(waiting)}"))]
        return [ok(id_, "everything in the file is in /proc/cmdline", why)]
    read, unread = (in_grub, in_plain) if loader is BootLoader.GRUB else (in_plain, in_grub)
    wrong_file = SYSTEMD_BOOT_FILE if loader is BootLoader.GRUB else GRUB_FILE
    checks = []
    lost = [word for word in unread if word not in read]
    if lost:
        found = f"{wrong_file} has {' '.join(lost)}, but this machine boots by {loader.value}, which does not read it"
        checks.append(Check(id_, CheckStatus.FAIL, found, why, change_command_line(facts, f"put {' '.join(lost)}")))
    if read:
        refresh = "update-grub" if loader is BootLoader.GRUB else "proxmox-boot-tool refresh"
        found = f"the boot loader's file has {' '.join(read)}, /proc/cmdline does not"
        step = f"run {refresh}, reboot, then look at /proc/cmdline"
        checks.append(Check("reboot_pending", CheckStatus.FAIL, found, "the running kernel knows nothing of it", step))
    return checks or [ok(id_, "everything in the file is in /proc/cmdline", why)]


def _words(facts: HostFacts) -> tuple[list[str], list[str]]:
    """Return the words of GRUB's lines and those of a bare command line, without what shifts by itself."""
    grub: list[str] = []
    plain: list[str] = []
    for line in facts.boot_file or ():
        match = _GRUB_LINE.match(line)
        if match is None:
            plain += [] if _GRUB_SETTING.match(line) else line.split()
            continue
        value = match[1].strip()
        quote = value[:1] if value[:1] in ("'", '"') else ""
        if quote and not value.rstrip().endswith(quote):
            # The line was cut short: its last word may be half of one.
            grub += value[1:].split()[:-1]
            continue
        try:
            grub += " ".join(shlex.split(value)).split()
        except ValueError:
            grub += value.strip("'\"").split()
    return _telling(grub), _telling(plain)


def _telling(words: list[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word not in _COSMETIC and not word.startswith(_SHIFTING)]


def framebuffer_is_elsewhere(facts: HostFacts) -> list[Check]:
    """The console's picture memory lies in the boot GPU until something moves it."""
    why = "vfio-pci cannot reserve memory that the boot console draws into; the guest then sees a dead card"
    evidence = framebuffer_evidence(facts, gpus_of(facts))
    refused = (facts.log.cannot_reserve or {} if facts.log is not None else {}).values()
    step = (
        "make another GPU the primary display in the firmware setup; if this is the only one: "
        + change_command_line(facts, "add initcall_blacklist=sysfb_init")
        + ", which ends the host's own console on that screen"
    )
    if evidence:
        return [
            Check(
                f"boot_framebuffer_{address}",
                CheckStatus.FAIL if any(message in found for message in refused) else CheckStatus.WARN,
                f"the boot framebuffer is in {address}: {found}",
                why,
                step,
            )
            for address, found in evidence.items()
        ]
    id_ = "boot_framebuffer"
    if facts.memory_map is None:
        return [missing(facts, id_, "iomem", why, "grep -B8 -iE 'bootfb|efifb|simplefb|simpledrm' /proc/iomem")]
    off = has_flag(facts, "initcall_blacklist=sysfb_init")
    return [ok(id_, f"in no GPU's memory{f' ({off} is set)' if off else ''}", why)]


def secure_boot_allows_modules(facts: HostFacts) -> list[Check]:
    """With Secure Boot the kernel loads signed modules only."""
    id_, why = (
        "secure_boot",
        "with Secure Boot the kernel loads only signed modules; Proxmox signs vfio-pci, DKMS does not",
    )
    if facts.is_secure_boot is None:
        return [missing(facts, id_, "secureboot", why, "mokutil --sb-state")]
    if not facts.is_secure_boot:
        return [ok(id_, "off", why)]
    needs_dkms = "vendor_reset" in (facts.loaded_modules or ()) or any(
        failing_reset_family(gpu) for gpu in gpus_of(facts)
    )
    if needs_dkms:
        step = "enrol a key of your own with mokutil --import and sign vendor_reset with it, or turn Secure Boot off"
        return [Check(id_, CheckStatus.WARN, "on, and a GPU here may need the module vendor_reset", why, step)]
    if boot_loader_of(facts) is BootLoader.SYSTEMD_BOOT:
        found = "on, although Proxmox boots by systemd-boot only without it"
        return [
            Check(
                id_, CheckStatus.WARN, found, why, "look at proxmox-boot-tool status before you change the command line"
            )
        ]
    return [ok(id_, "on; vfio-pci is signed with the kernel", why)]
