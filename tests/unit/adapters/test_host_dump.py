"""Reading and writing dumps: what real ones look like after terminals, chats and editors had them."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.adapters.files.host_dump import facts_from_dump, read_host_dump, render_dump, write_host_dump
from provisioner.adapters.files.host_dump.kernel_log import Sieve, messages
from provisioner.adapters.files.host_dump.sections import MAX_BYTES, MAX_LINES, SECTIONS, decode, split_dump
from provisioner.cli.app import root
from provisioner.domain.host import BootLoader, HugePages, MemoryRange, PciAddress, Release
from provisioner.errors import InputError, ProvisionerError
from provisioner.planning.host import host_checks, host_verdict

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "fixtures" / "hosts"

DUMP = """=== cmdline
BOOT_IMAGE=/boot/vmlinuz-6.8.12-4-pve root=/dev/mapper/pve-root ro quiet intel_iommu=on
=== pveversion
pve-manager/8.3.0/c1689ccb1065a83b (running kernel: 6.8.12-4-pve)
=== cpu
vendor_id: GenuineIntel
model name: Intel(R) Xeon(R) W-2245
=== iommu_groups
/sys/kernel/iommu_groups/0/devices/0000:00:00.0
/sys/kernel/iommu_groups/1/devices/0000:00:01.0
/sys/kernel/iommu_groups/1/devices/0000:01:00.0
/sys/kernel/iommu_groups/1/devices/0000:01:00.1
=== lspci
0000:00:00.0 Host bridge [0600]: Intel Corporation Device [8086:3ec2] (rev 07)
0000:00:01.0 PCI bridge [0604]: Intel Corporation PCIe Controller (x16) [8086:1901] (rev 07)
\tKernel driver in use: pcieport
0000:01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP102 [GeForce GTX 1080 Ti] [10de:1b06] (rev a1)
\tSubsystem: eVga.com. Corp. Device [3842:6593]
\tKernel driver in use: vfio-pci
\tKernel modules: nouveau
0000:01:00.1 Audio device [0403]: NVIDIA Corporation GP102 HDMI Audio Controller [10de:10ef] (rev a1)
\tKernel driver in use: vfio-pci
\tKernel modules: snd_hda_intel
=== modules
/etc/modules: vfio vfio_pci
=== dmesg
[    0.076879] DMAR: Host address width 39
[    0.489615] pci 0000:01:00.0: Adding to iommu group 1
[    0.500000] DMAR-IR: Enabled IRQ remapping in x2apic mode
=== iomem
c0000000-cfffffff : 0000:01:00.0
=== bootloader
grub
=== kernel_cmdline_file
GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on"
=== secureboot
SecureBoot disabled
=== hugepages
HugePages_Total:       0
"""
REAL = [DUMP, *(path.read_text() for path in sorted(SHARED.glob("*.txt")))]


def judged(text: str) -> dict[str, object]:
    return host_verdict(facts_from_dump(text)).as_dict()


@pytest.mark.parametrize(
    "changed",
    [
        DUMP.replace("\n", "\r\n"),
        DUMP.replace("\n", "\r"),
        DUMP.replace("\n", "\n\n"),
        DUMP.replace("=== ", "=== ").replace("\n===", "\n\n==="),
        DUMP.replace("=== lspci", "=== LSPCI ==="),
        DUMP.replace("\t", "        "),
        "Hello, here is my dump:\n\n" + DUMP,
        DUMP + "=== vendor_of_the_future\nsomething\n",
        DUMP.replace("0000:01:00.0 VGA", "01:00.0 VGA"),
        DUMP.replace("iommu_groups/1/devices/0000:01:00.0", "iommu_groups/1/devices/0000:01:00.0/"),
        DUMP.rstrip("\n"),
    ],
)
def test_the_way_a_dump_was_copied_does_not_matter(changed: str) -> None:
    assert judged(decode(changed.encode())) == judged(DUMP)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_editors_marks_and_encodings_are_understood(encoding: str) -> None:
    assert judged(decode(DUMP.encode(encoding))) == judged(DUMP)


def test_all_facts_of_a_dump_are_read() -> None:
    facts = facts_from_dump(DUMP)
    assert facts.kernel == Release(6, 8, "6.8.12-4-pve")
    assert facts.pve == Release(8, 3, "8.3.0")
    assert facts.cpu_model == "Intel(R) Xeon(R) W-2245"
    assert facts.boot_loader is BootLoader.GRUB
    assert facts.is_secure_boot is False
    assert facts.huge_pages == HugePages(0, None, None)
    assert facts.memory_map == (MemoryRange(0xC0000000, 0xCFFFFFFF, "0000:01:00.0"),)
    assert facts.functions is not None
    assert facts.functions[PciAddress("0000:01:00.0")].name == "NVIDIA Corporation GP102 [GeForce GTX 1080 Ti]"


GROUPS = {"0000:00:00.0": 0, "0000:00:01.0": 1, "0000:01:00.0": 1, "0000:01:00.1": 1}


@pytest.mark.parametrize(
    "listing",
    [
        "IOMMU Group 0 00:00.0 Host bridge [0600]: Intel [8086:3ec2]\nIOMMU Group 1 00:01.0 PCI bridge [0604]: X\n"
        "IOMMU Group 1 01:00.0 VGA controller [0300]: [10de:1b06]\nIOMMU Group 1 01:00.1 Audio device [0403]",
        "IOMMU Group 0:\n\t00:00.0 Host bridge [0600]: Intel [8086:3ec2]\nIOMMU Group 1:\n\t00:01.0 PCI bridge\n"
        "\t01:00.0 VGA compatible controller [0300]: NVIDIA [10de:1b06]\n\t01:00.1 Audio device [0403]: N [10de:10ef]",
        "IOMMU group 0:\t[8086:3ec2] 00:00.0 Host bridge: Intel\nIOMMU group 1:\t[8086:1901] 00:01.0 PCI bridge\n"
        "\t\t[10de:1b06] 01:00.0 VGA compatible controller: NVIDIA\n\t\t[10de:10ef] 01:00.1 Audio device: NVIDIA",
        "### Group 0 ###\n    0000:00:00.0\n### Group 1 ###\n    0000:00:01.0  0000:01:00.0  0000:01:00.1",
        "/sys/kernel/iommu_groups/0/devices:\n0000:00:00.0\n\n"
        "/sys/kernel/iommu_groups/1/devices:\n0000:00:01.0  0000:01:00.0\n0000:01:00.1",
        "\n".join(f"{group} {address}" for address, group in GROUPS.items()),
        "\n".join(
            f"lrwxrwxrwx 1 root root 0 Nov 1 10:12 /sys/kernel/iommu_groups/{group}/devices/{address} -> "
            f"../../../../devices/pci0000:00/0000:00:1c.0/{address}"
            for address, group in GROUPS.items()
        ),
        "\n".join(
            f"/sys/bus/pci/devices/{address}/iommu_group -> ../../../kernel/iommu_groups/{group}"
            for address, group in GROUPS.items()
        ),
        "\n".join(f"{address} VGA [0300]: x\n\tIOMMU group: {group}" for address, group in GROUPS.items()),
        "Gruppe 0: 00:00.0\nGruppe 1: 00:01.0\nGruppe 1: 01:00.0\nGruppe 1: 01:00.1",
    ],
)  # fmt: skip
def test_groups_are_read_however_people_list_them(listing: str) -> None:
    assert facts_from_dump(f"=== iommu_groups\n{listing}\n").groups == GROUPS


@pytest.mark.parametrize(
    ("line", "ids", "code"),
    [
        ("01:00.0 VGA compatible controller [0300]: NVIDIA X [10de:1b06]", ("10de", "1b06"), "0300"),
        ("10000:E1:00.0 3D controller [0302]: NVIDIA X [10DE:20B5] (rev a1)", ("10de", "20b5"), "0302"),
        ("01:00.0 VGA-kompatibler Controller [0300]: NVIDIA X [10de:1b06]", ("10de", "1b06"), "0300"),
        ("01:00.0 0300: 10de:1b06 (rev a1)", ("10de", "1b06"), "0300"),
        ("01:00.0 VGA compatible controller: NVIDIA Corporation GP102 (rev a1)", ("10de", None), "0300"),
        ("01:00.0 VGA compatible controller [0300]: NVIDIA GP102 [GTX 1080 Ti] [10de:1b", ("10de", None), "0300"),
        ("01:00.0 VGA compatible controller [0300]: Acme GP102 [GeForce GTX 10", (None, None), "0300"),
        ("01:00.0 VGA compatible controller [0300]: [1234:5678] [10de:1b06] (prog-if 00)", ("10de", "1b06"), "0300"),
    ],
)  # fmt: skip
def test_a_device_is_read_in_any_shape(line: str, ids: tuple[str | None, str | None], code: str) -> None:
    functions = facts_from_dump(f"=== lspci\n{line}\n").functions
    assert functions is not None
    (function,) = functions.values()
    assert ((function.vendor_id, function.device_id), function.class_code) == (ids, code)


def test_a_device_whose_last_line_is_cut_off_is_not_called_unbound() -> None:
    whole = "=== lspci\n0000:01:00.0 VGA compatible controller [0300]: NVIDIA [10de:1b06]\n\tSubsystem: eVga\n"
    for text, is_known in ((whole, True), (whole.rstrip("\n"), False)):
        functions = facts_from_dump(text).functions
        assert functions is not None
        assert functions[PciAddress("0000:01:00.0")].is_driver_known is is_known


def test_control_characters_of_strangers_do_not_reach_the_terminal() -> None:
    text = DUMP.replace("GeForce", "\x1b[31mGe\u202eForce\x07")
    functions = facts_from_dump(decode(text.encode())).functions
    assert functions is not None
    assert all(function.name.isprintable() for function in functions.values())


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\x00" * 4096, bytes(range(256)) * 64, b"lspci\n=========\n", b"==="])
def test_what_is_no_dump_is_refused_with_a_next_step(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "dump"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"(?s)no line of it begins a section.*next: give a file"):
        read_host_dump(path)


@pytest.mark.parametrize("make", ["directory", "missing", "loop"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "dump"
    if make == "directory":
        path.mkdir()
    elif make == "loop":
        path.symlink_to(path)
    with pytest.raises(InputError, match="cannot read the dump"):
        read_host_dump(path)


def test_a_dump_of_30_mb_is_read_in_bounded_time_and_said_to_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    noise = "[    1.000000] usb 1-1: new high-speed USB device number 1 using xhci_hcd, and more words\n"
    path.write_text(DUMP + "=== dmesg\n" + noise * 300_000 + "=== lsmod\n" + "vfio 1 1\n" * (MAX_LINES + 1))
    began = time.perf_counter()
    facts = read_host_dump(path)
    checks = host_checks(facts)
    # Under a second on an idle machine; the bound leaves room for a busy one.
    assert time.perf_counter() - began < 10
    assert facts.cut_sections == ("lsmod",)
    assert "dump" in {check.id for check in checks}
    assert host_verdict(facts).as_dict() == judged(DUMP)


@pytest.mark.parametrize("section", ["dmesg", "iommu_groups", "cmdline", "strangers"])
def test_30_mb_of_garbage_take_bounded_time_and_memory(tmp_path: Path, section: str) -> None:
    path = tmp_path / "dump"
    path.write_bytes(DUMP.encode() + f"=== {section}\n".encode() + random.Random(1).randbytes(30_000_000))
    program = (
        "import resource, sys; from pathlib import Path; from provisioner.adapters.files.host_dump import *; "
        "read_host_dump(Path(sys.argv[1])); seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime; "
        # getrusage counts the memory of whoever forked us too.
        "print(seconds, Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    seconds, kib = done.stdout.split()
    # About two seconds of computing on an old core, start included, and a tenth of the memory.
    assert float(seconds) < 8
    assert int(kib) < 150 * 1024


@pytest.mark.parametrize("body", ["x" * 30_000_000, "a\n" * 5_000_000, "=== lspci\n" * 2_000_000])
def test_no_shape_of_a_large_file_takes_long(tmp_path: Path, body: str) -> None:
    path = tmp_path / "dump"
    path.write_text(DUMP + "=== dmesg\n" + body)
    began = time.perf_counter()
    assert host_verdict(read_host_dump(path)).as_dict()["iommu_enabled"] is True
    assert time.perf_counter() - began < 10


def test_a_file_too_large_for_a_dump_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    with path.open("wb") as file:
        file.write(b"=== dmesg\n")
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="larger than 64 MiB"):
        read_host_dump(path)


LOG = st.sampled_from(
    ["DMAR: IOMMU enabled", "usb 1-1: new", "\tgoes on", "   vfio goes on", "[ 1.0] AMD-Vi: x", "  ", ""]
)


@given(st.lists(LOG, max_size=12))
def test_what_is_dropped_of_a_log_changes_no_message(lines: list[str]) -> None:
    sieve = Sieve()
    kept = [text for line in lines if (text := sieve(line)) is not None]
    # Words of a message without any that matters may be lost, the words that matter may not.
    joined = [" ".join(text.split()) for text in messages(line for line in lines if line.strip())]
    after = [" ".join(text.split()) for text in messages(kept)]
    assert len(after) == len(joined)
    assert all(full.endswith(short) for full, short in zip(joined, after, strict=True))


def test_a_written_dump_reads_back_the_same(tmp_path: Path) -> None:
    sections = dict(split_dump(DUMP, "x").sections)
    path = tmp_path / "dump"
    write_host_dump(path, {name: "\n".join(lines) for name, lines in sections.items()})
    assert path.read_text() == DUMP
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="cannot write the dump"):
        write_host_dump(path, {})
    assert path.read_text() == DUMP


def test_an_unknown_section_is_not_written() -> None:
    with pytest.raises(InputError, match="unknown section passwords"):
        render_dump({"passwords": "x"})


@given(st.dictionaries(st.sampled_from(SECTIONS), st.text(max_size=200)))
def test_any_text_survives_writing_and_reading(sections: dict[str, str]) -> None:
    text = render_dump(sections)
    if not sections:
        assert text == ""
        return
    read = split_dump(text, "x").sections
    assert set(read) == set(sections)
    again = {name: "\n".join(lines) for name, lines in read.items()}
    assert render_dump(again) == text


def survives(text: str) -> None:
    try:
        facts = facts_from_dump(text)
    except ProvisionerError:
        return
    host_verdict(facts).as_dict()
    host_checks(facts)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(REAL), st.integers(0, 12_000))
def test_a_cut_anywhere_never_breaks_the_program(text: str, length: int) -> None:
    survives(text[:length])
    survives(text[length:])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(REAL), st.integers(0, 12_000), st.binary(max_size=60), st.integers(0, 40))
def test_garbage_inside_a_dump_never_breaks_the_program(text: str, at: int, garbage: bytes, lost: int) -> None:
    data = text.encode()
    survives(decode(data[:at] + garbage + data[at + lost :]))


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(REAL))
def test_lines_in_any_order_never_break_the_program(chance: random.Random, text: str) -> None:
    lines = text.split("\n")
    chance.shuffle(lines)
    survives("\n".join(lines))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(DUMP)))
def test_a_cut_dump_accuses_nobody(length: int) -> None:
    try:
        verdict = judged(DUMP[:length])
    except InputError:
        return
    assert verdict["iommu_enabled"] in (True, "unknown")
    unknowns = {"unknown_iommu", "unknown_gpus", "unknown_iommu_group", "unknown_driver"}
    # A listing that ends before its GPU shows none; that it was cut is in no line of it.
    assert set(verdict["problems"]) <= unknowns | {"no_gpu_found"}  # type: ignore[call-overload]


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(root, ["doctor", *arguments])
    return result.exit_code, result.output


def test_doctor_leaves_0_for_a_host_that_is_ready_and_3_for_one_that_is_not(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(DUMP)
    code, output = invoke("--from-file", str(path))
    assert code == 0
    assert "ready" in output
    assert "problems: none" in output
    assert output.splitlines()[-1] == "next: provisioner plan"
    path.write_text(DUMP.replace("vfio-pci", "nouveau"))
    code, output = invoke("--from-file", str(path))
    assert code == 3
    assert "in use by the host" in output
    assert "[warn] driver_0000:01:00.0" in output


def test_doctor_refuses_a_dump_and_a_name_together() -> None:
    code, output = invoke("pve1", "--from-file", "x")
    assert code == 2
    assert "leave the hypervisor's name out" in output
