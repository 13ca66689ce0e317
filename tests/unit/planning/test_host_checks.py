"""The checks: every row is a small dump, the check it concerns, its status, and words its finding or step must hold."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from provisioner.adapters.files.host_dump import facts_from_dump
from provisioner.planning.host import CHECKS, host_checks
from provisioner.planning.readiness import Check, CheckStatus

OK, WARN, FAIL, UNKNOWN = CheckStatus.OK, CheckStatus.WARN, CheckStatus.FAIL, CheckStatus.UNKNOWN

PORT = "0000:00:01.0 PCI bridge [0604]: Intel Corporation PCIe Controller [8086:1901]\n"
VGA = "0000:01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP102 [GeForce GTX 1080 Ti] [10de:1b06]\n"
AUDIO = "0000:01:00.1 Audio device [0403]: NVIDIA Corporation GP102 HDMI Audio [10de:10ef]\n"
USB = "0000:01:00.2 USB controller [0c03]: NVIDIA Corporation TU102 USB [10de:1ad6]\n"
TWIN = VGA.replace("01:00.0", "02:00.0")
TWIN_AUDIO = AUDIO.replace("01:00.1", "02:00.1")
NVME = "0000:03:00.0 Non-Volatile memory controller [0108]: Sandisk Corp SN550 [15b7:5009]\n"
POLARIS = (
    "0000:05:00.0 VGA compatible controller [0300]: Advanced Micro Devices, Inc. [AMD/ATI] Ellesmere [1002:67df]\n"
)
ASPEED = "0000:06:00.0 VGA compatible controller [0300]: ASPEED Technology, Inc. ASPEED Graphics Family [1a03:2000]\n"
A100 = "0000:41:00.0 3D controller [0302]: NVIDIA Corporation GA100 [A100 PCIe 40GB] [10de:20f1]\n"
SLICE = A100.replace("41:00.0", "41:00.4")
NVSWITCH = "0000:51:00.0 Bridge [0680]: NVIDIA Corporation GA100 [A100 NVSwitch] [10de:1af1]\n"
VFIO, NVIDIA, SOUND, XHCI = (
    f"\tKernel driver in use: {driver}\n" for driver in ("vfio-pci", "nvidia", "snd_hda_intel", "xhci_hcd")
)
IDS = "/etc/modprobe.d/vfio.conf: options vfio-pci ids=10de:1b06,10de:10ef"
GRUB_LINE = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on iommu=pt"'
BY_GRUB = "BOOT_IMAGE=/boot/vmlinuz-6.8.12-4-pve root=/dev/mapper/pve-root ro quiet"
BY_SYSTEMD = "initrd=\\EFI\\proxmox\\6.8.12-4-pve\\initrd.img-6.8.12-4-pve root=ZFS=rpool/ROOT/pve-1 boot=zfs"
SHARED = "/sys/kernel/iommu_groups/1/devices/0000:01:00.0\n/sys/kernel/iommu_groups/1/devices/0000:03:00.0"
FB = "  c0000000-cfffffff : 0000:01:00.0\n    c0000000-c02fffff : BOOTFB"
HUGE = "HugePages_Total:   {}\nHugePages_Free:    {}\nHugepagesize:       1048576 kB"


def findings(**sections: str) -> dict[str, Check]:
    text = "".join(f"=== {name}\n{body}\n" for name, body in sections.items())
    checks = host_checks(facts_from_dump(text))
    assert len({check.id for check in checks}) == len(checks)
    return {check.id: check for check in checks}


@dataclass(frozen=True)
class Row:
    id: str
    status: CheckStatus
    words: str
    sections: dict[str, str]


ROWS = [
    Row("iommu", OK, "vfio-pci drives 0000:01:00.0", {"lspci": VGA + VFIO}),
    Row("iommu", UNKNOWN, "find /sys/kernel/iommu_groups", {"lspci": VGA}),
    Row("iommu", FAIL, "update-grub", {"dmesg": "DMAR: DRHD base: 0x1", "cmdline": BY_GRUB, "uname": "6.5.11-8-pve"}),
    Row("iommu", FAIL, "turn VT-d on in the firmware setup, then boot", {
        "dmesg": "DMAR: DRHD base: 0x1", "cmdline": BY_GRUB + " intel_iommu=on", "uname": "6.5.11-8-pve"}),
    Row("iommu", FAIL, "then boot", {"dmesg": "DMAR: DRHD base: 0x1", "cmdline": BY_GRUB}),
    Row("iommu", FAIL, "/etc/kernel/cmdline, run proxmox-boot-tool refresh", {
        "dmesg": "DMAR: IOMMU disabled", "cmdline": BY_SYSTEMD + " intel_iommu=off"}),
    Row("iommu", FAIL, "remove amd_iommu=off", {"dmesg": "AMD-Vi: AMD IOMMU disabled", "cmdline": "amd_iommu=off"}),
    Row("interrupt_remapping", OK, "Enabled IRQ remapping", {"dmesg": "DMAR-IR: Enabled IRQ remapping in xapic mode"}),
    Row("interrupt_remapping", FAIL, "allow_unsafe_interrupts=1", {"dmesg": "AMD-Vi: Disabling interrupt remapping"}),
    Row("interrupt_remapping", WARN, "trust every guest", {
        "dmesg": "AMD-Vi: Disabling interrupt remapping",
        "modprobe": "a.conf: options vfio_iommu_type1 allow_unsafe_interrupts=1"}),
    Row("interrupt_remapping", UNKNOWN, "hints", {
        "modprobe": "a.conf: options vfio_iommu_type1 allow_unsafe_interrupts=1"}),
    Row("gpus", UNKNOWN, "lspci -Dnnk", {"uname": "6.8.0"}),
    Row("gpus", FAIL, "management controller", {"lspci": NVME}),
    Row("gpus", OK, "2 found", {"lspci": VGA + POLARIS}),
    Row("group_0000:01:00.0", FAIL, "0000:03:00.0 (Sandisk Corp SN550)", {"lspci": VGA + NVME, "iommu_groups": SHARED}),
    Row("group_0000:01:00.0", UNKNOWN, "0000:03:00.0, of which the dump shows nothing", {
        "lspci": VGA, "iommu_groups": SHARED}),
    Row("group_0000:01:00.0", UNKNOWN, "the kernel log puts it into group 14", {
        "lspci": VGA, "dmesg": "pci 0000:01:00.0: Adding to iommu group 14"}),
    Row("group_0000:01:00.0", UNKNOWN, "once the IOMMU is on", {"lspci": VGA, "dmesg": "DMAR: IOMMU disabled"}),
    Row("acs_override", WARN, "the kernel command line", {"cmdline": BY_GRUB + " pcie_acs_override=downstream"}),
    Row("acs_override", OK, "not in use", {"cmdline": BY_GRUB}),
    Row("acs_override", UNKNOWN, "cat /proc/cmdline", {"lspci": VGA}),
    Row("driver_0000:01:00.0", WARN, "`softdep nvidia pre: vfio-pci`, `softdep snd_hda_intel pre: vfio-pci`", {
        "lspci": VGA + NVIDIA + AUDIO + SOUND + USB + XHCI}),
    Row("driver_0000:01:00.0", WARN, "options vfio-pci ids=10de:1b06,10de:10ef,10de:1ad6`", {
        "lspci": VGA + NVIDIA + AUDIO + SOUND + USB + XHCI}),
    Row("driver_0000:01:00.0", WARN, "it is the only GPU here", {"lspci": VGA + NVIDIA}),
    Row("driver_0000:01:00.0", WARN, "its driver was faster", {"lspci": VGA + NVIDIA, "modprobe": IDS}),
    Row("driver_0000:01:00.0", WARN, "bind by slot", {"lspci": VGA + NVIDIA + TWIN + VFIO}),
    Row("driver_0000:01:00.0", WARN, "snd_hda_intel drives 0000:01:00.1", {"lspci": VGA + VFIO + AUDIO + SOUND}),
    Row("driver_0000:01:00.0", UNKNOWN, "does not show who drives", {"lspci": VGA}),
    Row("driver_0000:01:00.0", OK, "not shown: 0000:01:00.1", {"lspci": VGA + VFIO + AUDIO}),
    Row("driver_0000:01:00.0", OK, "no driver has", {"lspci": VGA + "\tKernel modules: nouveau\n"}),
    Row("ids_binding", UNKNOWN, "/etc/modprobe.d", {"lspci": VGA}),
    Row("ids_binding", OK, "no ids= in use", {"lspci": VGA, "modprobe": "b.conf: blacklist nouveau"}),
    Row("ids_binding", OK, "10de:1b06, 10de:10ef", {"lspci": VGA + VFIO, "modprobe": IDS}),
    Row("ids_binding", OK, "none of them as the host's", {"lspci": VGA + VFIO + TWIN + VFIO, "modprobe": IDS}),
    Row("ids_binding_10de:1b06", FAIL, "driver_override of 0000:01:00.0", {
        "lspci": VGA + VFIO + TWIN + NVIDIA, "modprobe": IDS}),
    Row("ids_binding_10de:10ef", FAIL, "the host uses 0000:02:00.1", {
        "lspci": VGA + VFIO + AUDIO + VFIO + TWIN + NVIDIA + TWIN_AUDIO + SOUND, "modprobe": IDS}),
    Row("ids_binding", OK, "none of them as the host's", {
        "lspci": VGA + VFIO + AUDIO + VFIO + TWIN + VFIO + TWIN_AUDIO + SOUND, "modprobe": IDS}),
    Row("ids_binding_10de:1b06", FAIL, "the kernel command line claims", {
        "lspci": VGA + VFIO + TWIN + NVIDIA, "cmdline": BY_GRUB + " vfio-pci.ids=10de:1b06"}),
    Row("ids_binding_10de:1b06", FAIL, "the host uses 0000:01:00.0", {
        "lspci": VGA + TWIN, "modprobe": IDS, "dmesg": "pci 0000:01:00.0: vgaarb: setting as boot VGA device"}),
    Row("ids_binding_10de:1b06", WARN, "if all of them are for guests", {
        "lspci": VGA + NVIDIA + TWIN + NVIDIA, "modprobe": IDS}),
    Row("ids_binding_15b7:5009", FAIL, "the host uses 0000:04:00.0", {
        "lspci": VGA + NVME + VFIO + NVME.replace("03:00", "04:00") + "\tKernel driver in use: nvme\n",
        "modprobe": "v.conf: options vfio_pci disable_vga=1 ids=15b7:5009"}),
    Row("vfio_modules", WARN, "delete the line vfio_virqfd from /etc/modules", {
        "modules": "/etc/modules: vfio_virqfd", "uname": "6.8.4-2-pve"}),
    Row("vfio_modules", UNKNOWN, "uname -r", {"modules": "/etc/modules: vfio_virqfd"}),
    Row("vfio_modules", OK, "vfio, vfio_pci", {"modules": "/etc/modules: vfio vfio-pci"}),
    Row("vfio_modules", OK, "Proxmox loads them", {"modules": "/etc/modules: # nothing", "uname": "6.8.4-2-pve"}),
    Row("boot_framebuffer_0000:01:00.0", WARN, "initcall_blacklist=sysfb_init", {"lspci": VGA, "iomem": FB}),
    Row("boot_framebuffer_0000:01:00.0", FAIL, "can't reserve", {
        "lspci": VGA, "dmesg": "vfio-pci 0000:01:00.0: BAR 1: can't reserve [mem 0xc0000000-0xcfffffff]"}),
    Row("boot_framebuffer", OK, "in no GPU's memory", {"lspci": VGA, "iomem": FB.replace("BOOTFB", "vfio-pci")}),
    Row("boot_framebuffer", UNKNOWN, "/proc/iomem", {"lspci": VGA}),
    Row("secure_boot", OK, "off", {"secureboot": "SecureBoot disabled"}),
    Row("secure_boot", OK, "off", {"secureboot": "EFI variables are not supported on this system"}),
    Row("secure_boot", OK, "on", {"secureboot": "SecureBoot enabled", "lspci": VGA}),
    Row("secure_boot", WARN, "mokutil --import", {"secureboot": "SecureBoot enabled", "lspci": POLARIS}),
    Row("secure_boot", WARN, "systemd-boot", {"secureboot": "SecureBoot enabled", "bootloader": "systemd-boot"}),
    Row("secure_boot", UNKNOWN, "mokutil --sb-state", {"lspci": VGA}),
    Row("command_line", OK, "everything", {
        "cmdline": BY_GRUB + " intel_iommu=on iommu=pt", "kernel_cmdline_file": GRUB_LINE, "bootloader": "grub"}),
    Row("command_line", FAIL, "put intel_iommu=on iommu=pt in the one line of /etc/kernel/cmdline", {
        "cmdline": BY_SYSTEMD, "kernel_cmdline_file": GRUB_LINE}),
    Row("command_line", FAIL, "/etc/kernel/cmdline has intel_iommu=on, but this machine boots by grub", {
        "cmdline": BY_GRUB, "kernel_cmdline_file": "root=ZFS=rpool/ROOT/pve-1 boot=zfs intel_iommu=on"}),
    # What the kernel was handed outweighs what a tool reports as installed.
    Row("command_line", FAIL, "boots by systemd-boot", {
        "cmdline": BY_SYSTEMD, "kernel_cmdline_file": GRUB_LINE, "bootloader": "grub"}),
    Row("reboot_pending", FAIL, "run update-grub, reboot", {"cmdline": BY_GRUB, "kernel_cmdline_file": GRUB_LINE}),
    Row("reboot_pending", FAIL, "run proxmox-boot-tool refresh", {
        "cmdline": BY_SYSTEMD, "kernel_cmdline_file": "root=ZFS=rpool/ROOT/pve-1 boot=zfs iommu=pt"}),
    Row("command_line", UNKNOWN, "the boot loader is unknown", {"cmdline": "ro", "kernel_cmdline_file": GRUB_LINE}),
    Row("command_line", UNKNOWN, "cat /proc/cmdline", {"kernel_cmdline_file": GRUB_LINE}),
    Row("command_line", OK, "everything", {
        "cmdline": BY_GRUB + " intel_iommu=on iommu=pt",
        "kernel_cmdline_file": f"GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\n{GRUB_LINE}\nGRUB_CMDLINE_LINUX="}),
    Row("command_line", OK, "everything", {
        "cmdline": BY_GRUB + " intel_iommu=on",
        # Cut by a terminal: nobody knows what iomm was to become.
        "kernel_cmdline_file": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on iomm'}),
    Row("command_line", OK, "everything", {
        "cmdline": BY_GRUB, "kernel_cmdline_file": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet amd_iommu=on"'}),
    Row("pve_version", FAIL, "pve7to8", {"pveversion": "pve-manager/7.4-17/513c62be (running kernel: 5.15.126-1-pve)"}),
    Row("pve_version", WARN, "takes disk images since 8.4", {"pveversion": "pve-manager/8.1.3/b46aac3b42da5d15"}),
    Row("pve_version", WARN, "takes disk images since 8.4", {"pveversion": "pve-manager/8.3.0/c1689ccb1065a83b"}),
    Row("pve_version", OK, "8.4.1; kernel 6.5.11-8-pve wants intel_iommu=on", {
        "pveversion": "pve-manager/8.4.1/b46aac3b42da5d15 (running kernel: 6.5.11-8-pve)"}),
    Row("pve_version", OK, "8.4.1", {
        "pveversion": "pve-manager/8.4.1/b46aac3b42da5d15 (running kernel: 6.8.12-9-pve)"}),
    Row("pve_version", OK, "9.1.1", {"pveversion": "proxmox-ve: 9.1.0\npve-manager: 9.1.1 (running version: 9.1.1/2)"}),
    Row("pve_version", WARN, "newer than this program", {"pveversion": "pve-manager/10.0.1/abc"}),
    Row("pve_version", UNKNOWN, "pveversion", {"uname": "6.8.12-4-pve"}),
    Row("hugepages", OK, "none set aside", {"hugepages": HUGE.format(0, 0)}),
    Row("hugepages", WARN, "16GiB set aside, and nobody uses it", {"hugepages": HUGE.format(16, 16)}),
    Row("hugepages", OK, "16GiB", {"hugepages": HUGE.format(16, 2)}),
    Row("hugepages", WARN, "asks for 64 huge pages, the kernel found room for 16", {
        "hugepages": HUGE.format(16, 16), "cmdline": "default_hugepagesz=1G hugepagesz=1G hugepages=64"}),
    Row("hugepages", UNKNOWN, "/proc/meminfo", {"uname": "6.8.0"}),
    Row("reset_0000:05:00.0", WARN, "provisioner wake NODE", {"lspci": POLARIS}),
    Row("reset_0000:05:00.0", WARN, "survives_stop: false", {"lspci": POLARIS}),
    Row("console_0000:01:00.0", WARN, "only card with a screen", {"lspci": VGA}),
    Row("console_0000:01:00.0", WARN, "only card with a screen", {"lspci": VGA + A100}),
    Row("console", OK, "2 cards have a screen; any of them may", {"lspci": VGA + TWIN}),
    Row("console", OK, "drawn by 0000:02:00.0", {
        "lspci": VGA + TWIN, "dmesg": "pci 0000:02:00.0: vgaarb: setting as boot VGA device"}),
    Row("console", OK, "0000:06:00.0, the server's management controller", {"lspci": VGA + ASPEED}),
    Row("virtual_functions_0000:41:00.0", WARN, "cut into 1 virtual functions", {"lspci": A100 + SLICE}),
    Row("virtual_functions_0000:41:00.0", WARN, "/sys/bus/pci/devices/0000:41:00.0/sriov_numvfs", {
        "lspci": A100 + A100.replace("41:00.0", "41:01.2") + A100.replace("41:00.0", "41:02.0")}),
    Row("nvswitch", WARN, "1 NVSwitches", {"lspci": A100 + NVSWITCH}),
    Row("reset_0000:05:00.0", WARN, "Navi 10", {"lspci": POLARIS.replace("67df", "731f")}),
    Row("reset_0000:05:00.0", WARN, "Vega 20", {"lspci": POLARIS.replace("67df", "66af")}),
    Row("reset_0000:05:00.0", WARN, "vendor_reset is loaded", {"lspci": POLARIS, "lsmod": "vendor_reset 122880 0"}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.id}-{row.status.value}")
def test_a_check_finds_and_advises(row: Row) -> None:
    check = findings(**row.sections)[row.id]
    assert check.status is row.status
    assert row.words in f"{check.found}\n{check.why}\n{check.next_step}"
    assert check.why
    assert bool(check.next_step) is (row.status is not OK)


@pytest.mark.parametrize("ids", ["1002:73df", "1002:740f", "10de:67df"])
def test_other_gpus_are_not_accused_of_failing_resets(ids: str) -> None:
    assert "reset_0000:05:00.0" not in findings(lspci=POLARIS.replace("1002:67df", ids))


def test_without_facts_nothing_is_fine_and_nothing_is_broken() -> None:
    checks = findings(lsmod="")
    assert {check.status for check in checks.values()} == {UNKNOWN}


def test_a_word_that_the_running_kernel_has_is_not_pending() -> None:
    checks = findings(cmdline=BY_GRUB + " intel_iommu=on iommu=pt", kernel_cmdline_file=GRUB_LINE)
    assert "reboot_pending" not in checks


def test_every_check_is_registered_once_and_can_speak() -> None:
    assert len(set(CHECKS)) == len(CHECKS)
    spoken = {row.id.split("_0000")[0].split("_10de")[0].split("_15b7")[0] for row in ROWS} | {"dump"}
    everything = facts_from_dump(f"=== lspci\n{VGA}{POLARIS}\n=== hugepages\n")
    assert {check.id.split("_0000")[0] for check in host_checks(everything)} <= spoken
