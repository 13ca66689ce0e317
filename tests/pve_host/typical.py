"""A Proxmox VE host on its first evening: bought for its GPU, installed, nothing prepared yet."""

from __future__ import annotations

from tests.pve_host.machine import AMD, INTEL, Hardware, boot, devices_from, groups_for, kernel_log, listing

KERNELS = {"old": "6.5.11-8-pve", "new": "6.8.12-4-pve"}
RTX3090_IDS = ("10de:2204", "10de:1aef")

_INTEL_BOARD = """\
0000:00:00.0 Host bridge [0600]: Intel Corporation 8th Gen Core Processor Host Bridge [8086:3ec2] (rev 07)
	Subsystem: ASUSTeK Computer Inc. 8th Gen Core Processor Host Bridge/DRAM Registers [1043:8694]
	Kernel driver in use: skl_uncore
0000:00:01.0 PCI bridge [0604]: Intel Corporation 6th-10th Gen Core Processor PCIe Controller (x16) [8086:1901] (rev 07)
	Kernel driver in use: pcieport
0000:00:02.0 VGA compatible controller [0300]: Intel Corporation CoffeeLake-S GT2 [UHD Graphics 630] [8086:3e98]
	Subsystem: ASUSTeK Computer Inc. CoffeeLake-S GT2 [UHD Graphics 630] [1043:8694]
	Kernel driver in use: i915
	Kernel modules: i915
"""
_AMD_BOARD = """\
0000:00:00.0 Host bridge [0600]: Advanced Micro Devices, Inc. [AMD] Raphael/Granite Ridge Root Complex [1022:14d8]
	Subsystem: ASUSTeK Computer Inc. Raphael/Granite Ridge Root Complex [1043:8877]
0000:00:01.1 PCI bridge [0604]: Advanced Micro Devices, Inc. [AMD] Raphael/Granite Ridge GPP Bridge [1022:14db]
	Subsystem: ASUSTeK Computer Inc. Raphael/Granite Ridge GPP Bridge [1043:8877]
	Kernel driver in use: pcieport
0000:13:00.0 VGA compatible controller [0300]: Advanced Micro Devices, Inc. [AMD/ATI] Raphael [1002:164e] (rev c4)
	Subsystem: ASUSTeK Computer Inc. Raphael [1043:8877]
	Kernel driver in use: amdgpu
	Kernel modules: amdgpu
"""
_CARD = """\
0000:{bus}:00.0 VGA compatible controller [0300]: NVIDIA Corporation GA102 [GeForce RTX 3090] [10de:2204] (rev a1)
	Subsystem: Micro-Star International Co., Ltd. [MSI] GA102 [GeForce RTX 3090] [1462:3884]
	Kernel driver in use: nouveau
	Kernel modules: nvidiafb, nouveau
0000:{bus}:00.1 Audio device [0403]: NVIDIA Corporation GA102 High Definition Audio Controller [10de:1aef] (rev a1)
	Subsystem: Micro-Star International Co., Ltd. [MSI] GA102 High Definition Audio Controller [1462:3884]
	Kernel driver in use: snd_hda_intel
	Kernel modules: snd_hda_intel
"""
_DISK = """\
0000:05:00.0 Non-Volatile memory controller [0108]: Samsung Electronics Co Ltd NVMe SSD Controller SM981 [144d:a808]
	Subsystem: Samsung Electronics Co Ltd SSD 970 EVO Plus 1TB [144d:a801]
	Kernel driver in use: nvme
	Kernel modules: nvme
"""


def typical_sections(
    *, cpu: str, boot_loader: str, kernel: str, gpus: int, shared: bool, has_vtd: bool, secure_boot: bool
) -> tuple[dict[str, str], dict[str, int]]:
    """Return the sections of a host that nobody prepared, and its groups once the IOMMU is on."""
    vendor = INTEL if cpu == "intel" else AMD
    board = _INTEL_BOARD if vendor == INTEL else _AMD_BOARD
    lspci = board + "".join(_CARD.format(bus=f"{bus:02x}") for bus in range(1, gpus + 1)) + _DISK
    devices = devices_from(lspci)
    groups = groups_for(devices, {})
    if shared:
        groups["0000:05:00.0"] = groups["0000:01:00.0"]
    hardware = Hardware(vendor, devices, groups, has_vtd)
    kernel = KERNELS.get(kernel, kernel)
    if boot_loader == "systemd-boot":
        words = "root=ZFS=rpool/ROOT/pve-1 boot=zfs"
        command_line = f"initrd=\\EFI\\proxmox\\{kernel}\\initrd.img-{kernel} {words}"
        source = words + "\n"
    else:
        words = "root=/dev/mapper/pve-root ro quiet"
        command_line = f"BOOT_IMAGE=/boot/vmlinuz-{kernel} {words}"
        source = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\n'
    booted = boot(hardware, kernel, command_line, "", ())
    shown = groups if booted.iommu_is_on else {}
    model = "Intel(R) Core(TM) i7-9700K CPU @ 3.60GHz" if vendor == INTEL else "AMD Ryzen 9 7900 12-Core Processor"
    sections = {
        "cmdline": command_line + "\n",
        "uname": kernel + "\n",
        "pveversion": f"pve-manager/8.2.7/3e76eec21c4a14a7 (running kernel: {kernel})\n",
        "cpu": f"vendor_id: {vendor}\nmodel name: {model}\n",
        "iommu_groups": "".join(
            f"/sys/kernel/iommu_groups/{number}/devices/{address}\n" for address, number in shown.items()
        ),
        "lspci": listing(devices, booted.drivers),
        "lsmod": "Module                  Size  Used by\n"
        + "".join(f"{name:<20} 16384  0\n" for name in booted.modules),
        "modules": "/etc/modules: # /etc/modules: kernel modules to load at boot time.\n",
        "modprobe": "/etc/modprobe.d/pve-blacklist.conf: blacklist nvidiafb\n",
        "dmesg": kernel_log(hardware, booted),
        "iomem": _iomem(devices[2].address),
        "bootloader": boot_loader + "\n",
        "kernel_cmdline_file": source,
        "secureboot": f"SecureBoot {'enabled' if secure_boot else 'disabled'}\n",
        "hugepages": "HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n",
    }
    return sections, groups


def _iomem(console: str) -> str:
    return (
        "c0000000-dfffffff : PCI Bus 0000:00\n"
        f"  c0000000-cfffffff : {console}\n"
        "    c0000000-c07e8fff : BOOTFB\n"
        "  d0000000-d1ffffff : PCI Bus 0000:01\n"
        "    d0000000-d0ffffff : 0000:01:00.0\n"
    )
