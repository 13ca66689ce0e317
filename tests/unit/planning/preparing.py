"""Small hosts for the tests of `prepare`: facts from a dump's sections, files from a dictionary, and a pure apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from provisioner.adapters.files.host_dump import facts_from_dump
from provisioner.domain.host import HostFacts
from provisioner.domain.host_files import HostFile, HostState
from provisioner.domain.host_preparation import Preparation
from provisioner.planning.host.preparation import HostChoices, preparation
from provisioner.planning.host.steps import GRUB_FILE

PORT = "0000:00:01.0 PCI bridge [0604]: Intel Corporation PCIe Controller [8086:1901]\n"
IGPU = "0000:00:02.0 VGA compatible controller [0300]: Intel Corporation UHD [8086:3e98]\n"
BY_I915 = "\tKernel driver in use: i915\n"
CARD = "0000:01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA102 [GeForce RTX 3090] [10de:2204]\n"
SOUND = "0000:01:00.1 Audio device [0403]: NVIDIA Corporation GA102 HDMI Audio [10de:1aef]\n"
BY_NOUVEAU, BY_SND = "\tKernel driver in use: nouveau\n", "\tKernel driver in use: snd_hda_intel\n"
BY_VFIO, BY_NOBODY = "\tKernel driver in use: vfio-pci\n", "\tKernel modules: nouveau\n"
TWIN = CARD.replace("01:00", "02:00")
GROUPS = (
    "/sys/kernel/iommu_groups/1/devices/0000:00:01.0\n/sys/kernel/iommu_groups/1/devices/0000:01:00.0\n"
    "/sys/kernel/iommu_groups/1/devices/0000:01:00.1\n"
)

GRUB_DEFAULTS = """\
# If you change this file, run 'update-grub' afterwards to update
# /boot/grub/grub.cfg. It's read by a shell.

GRUB_DEFAULT=0
GRUB_TIMEOUT=5
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX=""
"""
SYSTEMD_LINE = "root=ZFS=rpool/ROOT/pve-1 boot=zfs\n"

BY_GRUB = "BOOT_IMAGE=/boot/vmlinuz-{kernel} root=/dev/mapper/pve-root ro quiet"
BY_SYSTEMD = "initrd=\\EFI\\proxmox\\{kernel}\\initrd.img-{kernel} root=ZFS=rpool/ROOT/pve-1 boot=zfs"

RTX = HostChoices({"rtx3090": ("0000:01:00",)})
NOTHING: HostChoices = HostChoices()


def host(
    *,
    cpu: str = "GenuineIntel",
    loader: str = "grub",
    kernel: str = "6.5.11-8-pve",
    lspci: str = PORT + IGPU + BY_I915 + CARD + BY_NOUVEAU + SOUND + BY_SND,
    **sections: str,
) -> HostFacts:
    """Facts of a machine that was started by that loader."""
    command_line = (BY_GRUB if loader == "grub" else BY_SYSTEMD).format(kernel=kernel)
    parts = {"cmdline": command_line, "uname": kernel, "cpu": f"vendor_id: {cpu}", "lspci": lspci} | sections
    return facts_from_dump("".join(f"=== {name}\n{body}\n" for name, body in parts.items()))


def state(files: Mapping[str, str] | None = None, **more: object) -> HostState:
    """The files of a fresh installation, with others in their place or beside them."""
    texts = {"/etc/default/grub": GRUB_DEFAULTS, "/etc/kernel/cmdline": SYSTEMD_LINE} | dict(files or {})
    return HostState(boot_id="boot-1", files={path: HostFile(path, text) for path, text in texts.items()}, **more)  # type: ignore[arg-type]


def decided(facts: HostFacts, seen: HostState, choices: HostChoices = RTX) -> Preparation:
    """Decide."""
    return preparation(facts, seen, choices)


def applied(seen: HostState, plan: Preparation, *, stop_after: int | None = None) -> HostState:
    """Do what the playbook does: keep originals, note them down, change files; then refresh, unless cut off before."""
    files = dict(seen.files)
    for kept in plan.record.files:
        text = seen.text(kept.path)
        if kept.copy and kept.copy not in files and text is not None and seen.sum(kept.path) == kept.before:
            files[kept.copy] = HostFile(kept.copy, text)
    for change in plan.files[:stop_after]:
        if change.after is None:
            files.pop(change.path, None)
        else:
            files[change.path] = HostFile(change.path, change.after, change.mode, change.owner, change.group)
    waiting = {each for change in plan.files for each in change.refresh} | set(seen.refresh_needed)
    refresh = () if stop_after is None else tuple(sorted(waiting, key=lambda each: each.value))
    return replace(seen, files=files, record=plan.record, refresh_needed=refresh)


def edited(seen: HostState, path: str, text: str) -> HostState:
    """Somebody writes a file."""
    return replace(seen, files={**seen.files, path: HostFile(path, text)})


def texts(seen: HostState) -> dict[str, str | None]:
    """Every file outside of our own folder."""
    return {path: file.content for path, file in seen.files.items() if not path.startswith("/var/lib/provisioner")}


def line_of(plan: Preparation, path: str = GRUB_FILE) -> str:
    """What the line with the command line becomes; empty when the file stays."""
    for change in plan.files:
        if change.path == path:
            lines = (change.after or "").splitlines()
            return next(line for line in lines if path != GRUB_FILE or "GRUB_CMDLINE_LINUX_DEFAULT=" in line)
    return ""


def after(plan: Preparation, path: str) -> str | None:
    """What a file becomes; it must be among the changes."""
    return next(change.after for change in plan.files if change.path == path)


def paths(plan: Preparation) -> list[str]:
    return [change.path for change in plan.files]


INTEL_65, INTEL_68_OFF = host(), host(kernel="6.8.12-4-pve")
INTEL_68_ON = host(kernel="6.8.12-4-pve", iommu_groups=GROUPS)
AMD_ON = host(cpu="AuthenticAMD", kernel="6.8.12-4-pve", iommu_groups=GROUPS)
