"""The rules of the verdict: every row is a small dump and what it must, or must not, prove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from provisioner.adapters.files.host_dump import facts_from_dump
from provisioner.planning.host import host_checks, host_verdict

HOST_BRIDGE = "0000:00:00.0 Host bridge [0600]: Intel Corporation Device [8086:3ec2]\n"
PORT = "0000:00:01.0 PCI bridge [0604]: Intel Corporation PCIe Controller (x16) [8086:1901] (rev 07)\n"
VGA = "0000:01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP102 [GeForce GTX 1080 Ti] [10de:1b06]\n"
AUDIO = "0000:01:00.1 Audio device [0403]: NVIDIA Corporation GP102 HDMI Audio [10de:10ef]\n"
TWIN = VGA.replace("01:00.0", "02:00.0")
NVME = "0000:03:00.0 Non-Volatile memory controller [0108]: Sandisk Corp SN550 [15b7:5009]\n"
IN_USE = "\tKernel driver in use: {}\n"
VFIO = IN_USE.format("vfio-pci")
RESERVE = "vfio-pci 0000:01:00.0: BAR 1: can't reserve [mem 0xc0000000-0xcfffffff 64bit pref]"


def verdict(**sections: str) -> dict[str, Any]:
    text = "".join(f"=== {name}\n{body}\n" for name, body in sections.items())
    return host_verdict(facts_from_dump(text)).as_dict()


def problems(**sections: str) -> set[str]:
    return set(verdict(**sections)["problems"])


def groups(*pairs: tuple[int, str]) -> str:
    return "\n".join(f"/sys/kernel/iommu_groups/{group}/devices/{address}" for group, address in pairs)


@dataclass(frozen=True)
class Iommu:
    why: str
    enabled: bool | str
    sections: dict[str, str]


@pytest.mark.parametrize(
    "row",
    [
        Iommu("one group is enough", True, {"iommu_groups": groups((0, "0000:00:00.0"))}),
        Iommu("the log adds a device", True, {"dmesg": "[ 0.5] pci 0000:00:00.0: Adding to iommu group 0"}),
        Iommu("so it did in old kernels", True, {"dmesg": "iommu: Adding device 0000:00:00.0 to group 0"}),
        Iommu("platform devices have groups too", True, {"dmesg": "platform AMDI0096:00: Adding to iommu group 0"}),
        Iommu("vfio-pci takes a group", True, {"lspci": NVME + VFIO}),
        Iommu("an empty listing, known to be empty", False, {"iommu_groups": "", "uname": "6.8.0"}),
        Iommu(
            "ls says there is none",
            False,
            {"iommu_groups": "ls: cannot access '/sys/kernel/iommu_groups/*': No such file or directory"},
        ),
        Iommu("an empty section at the end may be a cut", "unknown", {"uname": "6.8.0", "iommu_groups": ""}),
        Iommu(
            "hardware listed, never enabled",
            False,
            {"dmesg": "[0.0] ACPI: DMAR 0x000000\n[0.1] DMAR: Host address width 39\n[0.1] DMAR: DRHD base: 0xfed9"},
        ),
        Iommu(
            "hardware listed, groups seen",
            True,
            {"dmesg": "DMAR: DRHD base: 0x1", "iommu_groups": groups((3, "0000:00:00.0"))},
        ),
        Iommu("switched off by name", False, {"dmesg": "DMAR: IOMMU disabled"}),
        Iommu("AMD, switched off by name", False, {"dmesg": "AMD-Vi: AMD IOMMU disabled on kernel command-line"}),
        Iommu(
            "AMD, off by default", False, {"dmesg": "AMD-Vi: AMD-Vi disabled by default: pass amd_iommu=on to enable"}
        ),
        Iommu("vfio-pci has a device open", True, {"dmesg": f"[ 9.1] {RESERVE}\nDMAR: Host address width 39"}),
        Iommu("and had one", True, {"dmesg": "vfio-pci 0000:01:00.0: enabling device (0000 -> 0003)"}),
        Iommu("its probe is no proof", "unknown", {"dmesg": "vfio-pci 0000:01:00.0: vgaarb: VGA decodes changed"}),
        Iommu("no hardware found", False, {"dmesg": "DMAR: No DMAR devices found"}),
        Iommu("the flag was seen, more is not known", "unknown", {"dmesg": "DMAR: IOMMU enabled"}),
        Iommu(
            "the flag was seen, hardware too, no group shown",
            "unknown",
            {"dmesg": "DMAR: Host address width 39\nDMAR: IOMMU enabled"},
        ),
        Iommu("a flag is no evidence", "unknown", {"cmdline": "root=/dev/sda intel_iommu=on iommu=pt"}),
        Iommu("nor is a flag against it", "unknown", {"cmdline": "root=/dev/sda intel_iommu=off"}),
        Iommu(
            "interrupts are remapped without it too",
            "unknown",
            {"dmesg": "DMAR-IR: Enabled IRQ remapping in x2apic mode"},
        ),
        Iommu(
            "what `grep IOMMU` leaves of a healthy kernel",
            "unknown",
            {"dmesg": "DMAR-IR: IOAPIC id 2 under DRHD base  0xfed91000 IOMMU 1"},
        ),
        Iommu(
            "Intel kernels say this as well", "unknown", {"dmesg": "AMD-Vi: AMD IOMMUv2 functionality not available"}
        ),
        Iommu(
            "an IOMMU device is only hardware", "unknown", {"lspci": "0000:00:00.2 IOMMU [0806]: AMD IOMMU [1022:1451]"}
        ),
        Iommu("nothing is known", "unknown", {"hugepages": "HugePages_Total: 0"}),
        Iommu(
            "garbage in the listing proves nothing", "unknown", {"iommu_groups": "Permission denied?", "uname": "6.8.0"}
        ),
    ],
    ids=lambda row: row.why,
)
def test_the_iommu_is_on_off_or_unknown(row: Iommu) -> None:
    seen = verdict(**row.sections)
    assert seen["iommu_enabled"] == row.enabled
    assert ("iommu_disabled" in seen["problems"]) is (row.enabled is False)
    assert ("unknown_iommu" in seen["problems"]) is (row.enabled == "unknown")


def test_what_a_cut_log_does_not_say_is_not_known() -> None:
    text = "=== uname\n6.5.0\n=== dmesg\nDMAR: Host address width 39\nDMAR: DRHD base: 0x1"
    assert host_verdict(facts_from_dump(f"{text}\n")).is_iommu_enabled is False
    assert host_verdict(facts_from_dump(text)).is_iommu_enabled is None


@pytest.mark.parametrize(
    ("vendor", "sections"),
    [
        ("GenuineIntel", {"cpu": "vendor_id: GenuineIntel"}),
        ("AuthenticAMD", {"cpu": "Vendor-ID:   AuthenticAMD"}),
        ("GenuineIntel", {"cpu": "model name: Intel(R) Xeon(R) E-2288G"}),
        ("AuthenticAMD", {"cpu": "vendor_id: AuthenticAMD", "lspci": HOST_BRIDGE}),
        ("GenuineIntel", {"lspci": HOST_BRIDGE}),
        ("AuthenticAMD", {"lspci": HOST_BRIDGE.replace("8086", "1022")}),
        ("unknown", {"lspci": PORT}),
        ("GenuineIntel", {"dmesg": "DMAR: Host address width 39"}),
        ("GenuineIntel", {"dmesg": "DMAR: Host address width 39\nAMD-Vi: AMD IOMMUv2 functionality not available"}),
        ("unknown", {"dmesg": "AMD-Vi: AMD IOMMUv2 functionality not available on this system"}),
        ("AuthenticAMD", {"dmesg": "pci 0000:00:00.2: AMD-Vi: Found IOMMU cap 0x40"}),
        ("unknown", {"cmdline": "amd_iommu=on intel_iommu=on"}),
        ("unknown", {"cpu": "vendor_id: HygonGenuine", "lspci": HOST_BRIDGE}),
    ],
)
def test_the_cpus_vendor(vendor: str, sections: dict[str, str]) -> None:
    assert verdict(**sections)["cpu_vendor"] == vendor


def addresses(lspci: str) -> list[str]:
    return [gpu["address"] for gpu in verdict(lspci=lspci)["gpus"]]


def test_gpus_are_display_devices_of_any_kind_and_vendor_in_address_order() -> None:
    listing = (
        "10000:01:00.0 3D controller [0302]: NVIDIA Corporation GA100 [10de:20b5]\n"
        "0000:c1:00.0 Display controller [0380]: Advanced Micro Devices, Inc. [AMD/ATI] Aldebaran [1002:740f]\n"
        "0000:00:02.0 VGA compatible controller [0300]: Intel Corporation UHD [8086:3e92]\n"
        "0000:0a:00.0 VGA compatible controller [0300]: NVIDIA Corporation TU102 [10de:1e04]\n"
        "0000:09:00.0 Ethernet controller [0200]: Intel Corporation I350 [8086:1521]\n"
    )
    assert addresses(listing) == ["0000:00:02.0", "0000:0a:00.0", "0000:c1:00.0", "10000:01:00.0"]


@pytest.mark.parametrize("ids", ["1a03:2000", "102b:0538"])
def test_a_servers_management_controller_is_no_gpu(ids: str) -> None:
    listing = f"0000:06:00.0 VGA compatible controller [0300]: Some Graphics [{ids}]\n"
    assert addresses(listing) == []
    assert "no_gpu_found" in problems(lspci=listing)


def test_virtual_functions_are_functions_and_no_further_gpus() -> None:
    listing = "".join(
        f"0000:41:{place} 3D controller [0302]: NVIDIA Corporation AD102GL [L40S] [10de:26b9] (rev a1)\n"
        for place in ("00.0", "00.4", "00.5", "01.0", "01.1", "02.0")
    )
    (gpu,) = verdict(lspci=listing)["gpus"]
    assert gpu["functions"] == ["0000:41:00.0", "0000:41:00.4", "0000:41:00.5"]
    assert "identical_gpu_ids" not in problems(lspci=listing)


def test_virtual_functions_of_a_gpu_do_not_make_its_group_foreign() -> None:
    listing = "".join(f"0000:41:{place} 3D controller [0302]: NVIDIA [10de:26b9]\n" for place in ("00.0", "01.0"))
    (gpu,) = verdict(lspci=listing, iommu_groups=groups((7, "0000:41:00.0"), (7, "0000:41:01.0")))["gpus"]
    assert gpu["group_clean"] is True


def test_a_gpu_that_calls_itself_a_virtual_function_is_none() -> None:
    assert addresses("0000:03:02.0 Display controller [0380]: AMD Virtual Function [1002:7410]\n") == []


@dataclass(frozen=True)
class Group:
    why: str
    clean: bool | str
    foreign: list[str]
    members: list[tuple[int, str]]
    lspci: str = HOST_BRIDGE + PORT + VGA + AUDIO + NVME


G, A, P, N = "0000:01:00.0", "0000:01:00.1", "0000:00:01.0", "0000:03:00.0"


@pytest.mark.parametrize(
    "row",
    [
        Group("alone", True, [], [(1, G), (1, A)]),
        Group("its root port does not count", True, [], [(1, P), (1, G), (1, A)]),
        Group("nor a host bridge", True, [], [(1, "0000:00:00.0"), (1, G)]),
        Group("audio in a group of its own", True, [], [(1, G), (2, A)]),
        Group("a foreign disk", False, [N], [(1, G), (1, A), (1, N)]),
        Group("a foreign disk with the audio function", False, [N], [(1, G), (2, A), (2, N)]),
        Group("another GPU is foreign", False, ["0000:02:00.0"], [(1, G), (1, "0000:02:00.0")], VGA + TWIN),
        Group("no listing for it", "unknown", [], [(0, "0000:00:00.0")]),
        Group("only its audio function is listed", "unknown", [], [(2, A)]),
        Group("a mate of which nothing is known", "unknown", [], [(1, G), (1, "0000:05:00.0")]),
        Group("an unlisted mate on bus 0 is the way to it", True, [], [(1, G), (1, "0000:00:03.1")], VGA + AUDIO),
        Group("the first host bridge, unlisted", True, [], [(0, "0000:00:00.0"), (0, "0000:00:02.0")],
              "0000:00:02.0 VGA compatible controller [0300]: Intel Corporation UHD [8086:3e92]\n"),
        Group("an unlisted mate beside a known foreign one", False, [N], [(1, G), (1, "0000:05:00.0"), (1, N)]),
        Group("an ISA bridge is no PCI bridge", False, ["0000:00:1f.0"], [(1, G), (1, "0000:00:1f.0")],
              VGA + "0000:00:1f.0 ISA bridge [0601]: Intel Corporation LPC [8086:a2c9]\n"),
    ],
    ids=lambda row: row.why,
)  # fmt: skip
def test_a_group_is_clean_shared_or_unknown(row: Group) -> None:
    seen = verdict(lspci=row.lspci, iommu_groups=groups(*row.members))
    gpu = seen["gpus"][0]
    assert (gpu["group_clean"], gpu["foreign_devices"]) == (row.clean, row.foreign)
    assert ("iommu_group_shared" in seen["problems"]) is bool(row.foreign)


def test_a_group_of_a_listing_that_was_cut_is_not_called_clean() -> None:
    whole = f"=== lspci\n{VGA}{VFIO}=== iommu_groups\n{groups((1, G))}\n"
    for text, clean in ((whole, True), (f"{whole}/sys/kernel/iommu_groups/1/dev", None)):
        (gpu,) = host_verdict(facts_from_dump(text)).gpus
        assert gpu.is_group_clean is clean
    (check,) = (one for one in host_checks(facts_from_dump(text)) if one.id == f"group_{G}")
    assert "the listing of groups is cut" in check.found


def test_an_integrated_gpu_with_an_unlisted_mate_on_its_own_bus_is_not_called_clean() -> None:
    listing = "0000:00:02.0 VGA compatible controller [0300]: Intel Corporation UHD [8086:3e92]\n"
    (gpu,) = verdict(lspci=listing, iommu_groups=groups((0, "0000:00:02.0"), (0, "0000:00:14.0")))["gpus"]
    assert gpu["group_clean"] == "unknown"


def test_a_missing_group_is_no_problem_while_the_iommu_is_off() -> None:
    assert "unknown_iommu_group" in problems(lspci=VGA)
    assert "unknown_iommu_group" not in problems(lspci=VGA, dmesg="DMAR: No DMAR devices found")


DRIVERS = [
    ("\tKernel driver in use: vfio-pci\n", "vfio-pci", True, set()),
    ("\tKernel driver in use: nvidia\n\tKernel modules: nouveau\n", "nvidia", False, {"host_driver_bound"}),
    ("\tSubsystem: eVga.com [3842:6593]\n\tKernel modules: nouveau\n", None, False, set()),
    ("", None, "unknown", {"unknown_driver"}),
    ("\tKernel driver in use: vfio-p\n", None, "unknown", {"unknown_driver"}),
    ("\tSubsystem: eVga.com [3842:6593]\n\tKernel driver in u\n", None, "unknown", {"unknown_driver"}),
    ("\tKernel-Treiber in Benutzung: nouveau\n", "nouveau", False, {"host_driver_bound"}),
    ("\tPilote du noyau utilisé : vfio-pci\n\tModules du noyau: nouveau\n", "vfio-pci", True, set()),
    ("\tKäytössä: vfio-pci\n", None, "unknown", {"unknown_driver"}),
    ("\tUntersystem: eVga.com [3842:6593]\n\tKernel-Module: nouveau\n", None, False, set()),
    (
        "\t[virtual] Expansion ROM at 000c0000\n\t\tLnkSta:\tSpeed 8GT/s\n\tKernel modules: nouveau\n",
        None,
        False,
        set(),
    ),
    ("Kernel driver in use: vfio-pci\nKernel modules: nouveau\n", "vfio-pci", True, set()),
    ("\tKernel driver in use: pci-stub\n", "pci-stub", False, {"host_driver_bound"}),
]


@pytest.mark.parametrize(("details", "driver", "bound", "found"), DRIVERS)
def test_who_drives_a_gpu(details: str, driver: str | None, bound: bool | str, found: set[str]) -> None:
    seen = verdict(lspci=VGA + details)
    gpu = seen["gpus"][0]
    assert (gpu["driver"], gpu["bound_to_vfio"]) == (driver, bound)
    assert {"host_driver_bound", "unknown_driver"} & set(seen["problems"]) == found


@pytest.mark.parametrize(
    ("first", "sound", "is_problem"),
    [
        (VFIO, IN_USE.format("snd_hda_intel"), True),
        (VFIO, "\tKernel modules: snd_hda_intel\n", True),
        (VFIO, VFIO, False),
        (VFIO, "", False),
        (IN_USE.format("nvidia"), IN_USE.format("snd_hda_intel"), False),
        ("", IN_USE.format("snd_hda_intel"), False),
    ],
)
def test_sound_left_behind(first: str, sound: str, is_problem: bool) -> None:
    assert ("audio_function_not_vfio" in problems(lspci=VGA + first + AUDIO + sound)) is is_problem


@dataclass(frozen=True)
class Found:
    problem: str
    is_there: bool
    sections: dict[str, str]


GRUB, ACS = "GRUB_CMDLINE_LINUX_DEFAULT", "pcie_acs_override=downstream"
ERRATUM = """[    0.1] DMAR-IR: This system BIOS has enabled interrupt remapping
               on a chipset that contains an erratum making that
               feature unstable.  To maintain system stability
               interrupt remapping is being disabled.  Please
               contact your BIOS vendor for an update"""
STAMPED_ERRATUM = "[ 0.1] " + ERRATUM.partition("] ")[2].replace("being disabled", "being\ndisabled").replace(
    "\n", "\n[ 0.1] "
)
IOMEM = """c0000000-cfffffff : PCI Bus 0000:01
  c0000000-cfffffff : 0000:01:00.0
    c0000000-c02fffff : {}
"""
WITHOUT_ROOT = """00000000-00000000 : PCI Bus 0000:01
  00000000-00000000 : 0000:01:00.0
    00000000-00000000 : BOOTFB
"""
MODULES = "/etc/modules: vfio_virqfd"
RUNNING = "pve-manager/8.1.3/b46aac3 (running kernel: 6.5.11-8-pve)"
ON_EFI = "initrd=\\EFI\\proxmox\\6.8.4-2-pve\\initrd.img-6.8.4-2-pve root=ZFS=rpool"

FOUND = [
    Found("acs_override", True, {"cmdline": "root=x pcie_acs_override=downstream,multifunction"}),
    Found("acs_override", True, {"kernel_cmdline_file": f'{GRUB}="quiet {ACS}"'}),
    Found("acs_override", True, {"kernel_cmdline_file": f"/etc/kernel/cmdline: root=ZFS=x {ACS}"}),
    Found("acs_override", True, {"dmesg": "Kernel command line: root=x pcie_acs_override=downstream"}),
    Found("acs_override", False, {"kernel_cmdline_file": f'#{GRUB}="{ACS}"'}),
    Found("acs_override", False, {"cmdline": "root=x intel_iommu=on"}),
    Found("no_interrupt_remapping", True, {"dmesg": ERRATUM}),
    Found("no_interrupt_remapping", True, {"dmesg": ERRATUM.replace("\n", "\n[    0.1] ")}),
    Found("no_interrupt_remapping", True, {"dmesg": STAMPED_ERRATUM}),
    Found("no_interrupt_remapping", True, {"dmesg": "DMAR-IR: Failed to enable irq remapping.  You are vulnerable"}),
    Found("no_interrupt_remapping", True, {"dmesg": "DMAR-IR: Not enabling interrupt remapping"}),
    Found("no_interrupt_remapping", True, {"dmesg": "AMD-Vi: Disabling interrupt remapping"}),
    Found("no_interrupt_remapping", True, {"dmesg": "AMD-Vi: Interrupt remapping disabled"}),
    Found("no_interrupt_remapping", True, {
        "dmesg": 'vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param "allow_unsafe'}),
    Found("no_interrupt_remapping", True, {"dmesg": "vfio_iommu_type1_attach_group: No interrupt remapping for this"}),
    Found("no_interrupt_remapping", False, {"dmesg": "DMAR-IR: Enabled IRQ remapping in x2apic mode"}),
    Found("no_interrupt_remapping", False, {"dmesg": "AMD-Vi: Interrupt remapping enabled"}),
    Found("no_interrupt_remapping", False, {"dmesg": "x2apic: IRQ remapping doesn't support X2APIC mode"}),
    Found("no_interrupt_remapping", False, {"modprobe": "a.conf: options vfio_iommu_type1 allow_unsafe_interrupts=1"}),
    Found("stale_vfio_virqfd", True, {"modules": "/etc/modules: vfio vfio_virqfd", "uname": "6.2.16-3-pve"}),
    Found("stale_vfio_virqfd", True, {"modules": MODULES, "pveversion": RUNNING}),
    Found("stale_vfio_virqfd", True, {"modules": "vfio-virqfd", "cmdline": "BOOT_IMAGE=/boot/vmlinuz-6.14.8-2-pve ro"}),
    Found("stale_vfio_virqfd", True, {"modules": MODULES, "cmdline": ON_EFI}),
    Found("stale_vfio_virqfd", True, {"modules": MODULES, "dmesg": "Linux version 6.8.12-4-pve (build@proxmox)"}),
    Found("stale_vfio_virqfd", True, {"modules": MODULES, "uname": "Linux node5.4.1 7.0.2-1-pve #1 SMP"}),
    Found("stale_vfio_virqfd", True, {"modules": MODULES, "uname": "Linux 6.5.0-2-MANJARO"}),
    Found("stale_vfio_virqfd", True, {"modules": "mkinitcpio.conf: MODULES=(vfio_pci vfio_virqfd)", "uname": "6.8.1"}),
    Found("stale_vfio_virqfd", True, {"modules": 'v.conf:force_drivers+="vfio_virqfd"', "uname": "6.8.1"}),
    Found("stale_vfio_virqfd", True, {"modules": 'boot.initrd.kernelModules: [ "vfio-virqfd" ]', "uname": "6.8.1"}),
    Found("stale_vfio_virqfd", False, {"modules": "/etc/modules: my_vfio_virqfd", "uname": "6.8.0"}),
    Found("stale_vfio_virqfd", False, {"modules": MODULES, "uname": "5.15.108-1-pve"}),
    Found("stale_vfio_virqfd", False, {"modules": MODULES, "uname": "6.1.0-18-amd64"}),
    Found("stale_vfio_virqfd", False, {"modules": MODULES}),
    Found("stale_vfio_virqfd", False, {"modules": "/etc/modules: # vfio_virqfd", "uname": "6.8.0"}),
    Found("stale_vfio_virqfd", False, {"lsmod": "vfio_virqfd 16384 1", "uname": "6.8.0"}),
    Found("identical_gpu_ids", True, {"lspci": VGA + TWIN}),
    Found("identical_gpu_ids", False, {"lspci": VGA + TWIN.replace("1b06", "1b80")}),
    Found("identical_gpu_ids", False, {"lspci": VGA + TWIN.replace(" [10de:1b06]", " [10de:")}),
    Found("no_gpu_found", True, {"lspci": NVME}),
    Found("no_gpu_found", True, {"lspci": "", "uname": "6.8.0"}),
    Found("no_gpu_found", False, {"uname": "6.8.0", "lspci": ""}),
    Found("no_gpu_found", False, {"lspci": VGA}),
    Found("no_gpu_found", False, {"uname": "6.8.0"}),
    Found("unknown_gpus", True, {"uname": "6.8.0"}),
    Found("unknown_gpus", True, {"lspci": "bash: lspci: command not found"}),
    Found("unknown_gpus", False, {"lspci": NVME}),
    *(Found("boot_framebuffer_on_gpu", True, {"lspci": VGA, "iomem": IOMEM.format(name)})
      for name in ("BOOTFB", "efifb", "simplefb", "simpledrm", "simple-framebuffer")),
    Found("boot_framebuffer_on_gpu", True, {"lspci": VGA, "iomem": IOMEM.format("BOOTFB").replace("  ", "")}),
    Found("boot_framebuffer_on_gpu", True, {"lspci": VGA, "iomem": WITHOUT_ROOT}),
    Found("boot_framebuffer_on_gpu", True, {"lspci": VGA, "dmesg": f"[ 9.1] {RESERVE}"}),
    Found("boot_framebuffer_on_gpu", True, {
        "lspci": VGA, "dmesg": "vfio-pci 0000:01:00.0: BAR 1 [mem 0xc0000000-0xcfffffff 64bit pref]: can't reserve"}),
    Found("boot_framebuffer_on_gpu", True, {"lspci": VGA, "dmesg": "pci 0000:01:00.0: BAR 1: assigned to efifb"}),
    Found("boot_framebuffer_on_gpu", True, {
        "lspci": VGA,
        "dmesg": "pci 0000:01:00.0: reg 0x14: [mem 0xc0000000-0xcfffffff 64bit pref]\n"
                 "efifb: framebuffer at 0xc0000000, using 3072k, total 3072k"}),
    Found("boot_framebuffer_on_gpu", False, {
        "lspci": VGA,
        "dmesg": "pci 0000:01:00.0: reg 0x14: [mem 0xc0000000-0xcfffffff 64bit pref]\n"
                 "efifb: framebuffer at 0xd0000000, using 3072k, total 3072k"}),
    Found("boot_framebuffer_on_gpu", False, {"lspci": VGA, "iomem": IOMEM.format("vfio-pci")}),
    Found("boot_framebuffer_on_gpu", False, {"lspci": VGA, "iomem": IOMEM.format("BOOTFB").replace("01:00", "06:00")}),
    Found("boot_framebuffer_on_gpu", False, {"lspci": VGA, "cmdline": "video=efifb:off"}),
    Found("boot_framebuffer_on_gpu", False, {"iomem": IOMEM.format("BOOTFB")}),
]  # fmt: skip


@pytest.mark.parametrize("row", FOUND, ids=lambda row: f"{row.problem}-{row.is_there}")
def test_a_problem_is_found_where_it_is_and_nowhere_else(row: Found) -> None:
    assert (row.problem in problems(**row.sections)) is row.is_there


def test_a_ready_host_has_no_problems() -> None:
    assert problems(lspci=PORT + VGA + VFIO + AUDIO + VFIO, iommu_groups=groups((1, P), (1, G), (1, A))) == set()
