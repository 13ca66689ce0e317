"""What nvidia-smi, the kernel log and AMD's tools say is read right, whatever the driver's version and mood."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.gpu_reading import GpuProcess, Health, ModuleFlavour
from provisioner.domain.quantities import MIB
from provisioner.planning.gpu.gathering import AnswerCut, gather_command, gpu_facts
from provisioner.planning.gpu.smi import FIELDS, read_processes, read_query, sysfs_address
from provisioner.planning.gpu.xid import health_of, xids
from tests.fakes.gpu_answers import BUS, UUID, VERSION, answer, row


def test_a_healthy_card_is_read_in_our_units() -> None:
    (reading,), strays = read_query(FIELDS, row())
    assert strays == ()
    assert (reading.index, reading.uuid, reading.bus_id) == (0, UUID, BUS)
    assert reading.memory_bytes == 24576 * MIB
    assert (reading.memory_used_bytes, reading.memory_free_bytes) == (18211 * MIB, 5960 * MIB)
    assert (reading.utilization_percent, reading.power_watts, reading.temperature_celsius) == (37.0, 288.41, 61.0)
    assert (reading.compute_capability, reading.performance_state) == ("8.6", "P2")
    assert (reading.persists, reading.is_split, reading.recovery_action) == (True, None, "None")
    assert (reading.is_slowed_by_heat, reading.is_slowed_by_power) == (False, True)
    assert reading.unreadable == {}


ABSENT = [
    "[N/A]", "N/A", "[Not Supported]", "Not Supported", "[Requested functionality has been deprecated]", "",
]  # fmt: skip
BROKEN = ["[Unknown Error]", "[Insufficient Permissions]", "[GPU is lost]", "[GPU requires reset]", "ERR!"]


@pytest.mark.parametrize("cell", ABSENT)
def test_what_a_card_does_not_have_is_unknown_and_no_error(cell: str) -> None:
    (reading,), _ = read_query(FIELDS, row(fan_speed=cell, power_draw=cell, name=cell, memory_total=cell))
    assert (reading.fan_percent, reading.power_watts, reading.name, reading.memory_bytes) == (None, None, None, None)
    assert reading.unreadable == {}


@pytest.mark.parametrize("cell", BROKEN)
def test_what_a_card_answers_with_an_error_is_kept_in_its_words(cell: str) -> None:
    (reading,), _ = read_query(FIELDS, row(fan_speed=cell))
    assert reading.fan_percent is None
    assert reading.unreadable == {"fan.speed": cell.strip("[]")}


def test_units_that_were_not_wanted_do_no_harm() -> None:
    (reading,), _ = read_query(FIELDS, row(memory_total="24576 MiB", power_draw="288.41 W", utilization_gpu="37 %"))
    assert (reading.memory_bytes, reading.power_watts, reading.utilization_percent) == (24576 * MIB, 288.41, 37.0)


def test_a_driver_that_knows_fewer_fields_is_read_all_the_same() -> None:
    few = ("index", "uuid", "name", "pci.bus_id", "memory.total")
    (reading,), _ = read_query(few, row(few, name="Tesla V100-SXM2-16GB"))
    assert (reading.name, reading.memory_bytes, reading.utilization_percent) == (
        "Tesla V100-SXM2-16GB", 24576 * MIB, None,
    )  # fmt: skip


def test_a_dead_card_among_healthy_ones_is_a_line_that_is_no_reading() -> None:
    lost = "Unable to determine the device handle for GPU0000:07:00.0: Unknown Error"
    readings, strays = read_query(FIELDS, f"{row()}\n{lost}\n{row(index='2')}\n")
    assert [reading.index for reading in readings] == [0, 2]
    assert strays == (lost,)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:01:00.0", "0000:01:00.0"),
        ("0000:0B:00.0", "0000:0b:00.0"),
        ("PCI:0000:c1:00", "0000:c1:00.0"),
        ("0001:c1:00.0", "0001:c1:00.0"),
        ("nonsense", None),
    ],
)
def test_addresses_are_those_of_sysfs(text: str, address: str | None) -> None:
    assert sysfs_address(text) == address


def test_processes_are_read_with_commas_in_their_names() -> None:
    text = f"5268, 370, {UUID}, /opt/llm/a, b\n77, [N/A], {UUID}, [Not Found]\nNo running processes found\n"
    assert read_processes(text) == (
        GpuProcess(5268, "/opt/llm/a, b", 370 * MIB, UUID),
        GpuProcess(77, "[Not Found]", None, UUID),
    )


@pytest.mark.parametrize(
    ("sections", "is_known"),
    [("=== smi-processes 0\n\n", True), ("=== smi-processes 9\nFailed\n", False), ("=== rocm-smi 0\n{}\n", False)],
    ids=["an empty list", "no list", "AMD's tools"],
)
def test_programs_that_nobody_lists_are_unknown_and_not_none(sections: str, is_known: bool) -> None:
    assert gpu_facts(f"{sections}=== end 0\n").processes == (() if is_known else None)


# Driver version, what --version prints, what /proc says: the wording changed more than once.
VERSIONS = [
    ("418.226.00", None, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  418.226.00  Wed Nov 24 2021", "proprietary"),
    ("525.60.11", None, "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  525.60.11  Release Build", "open"),
    ("565.57.01", "DRIVER version      : 565.57.01\nCUDA Version        : 12.7",
     "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build  (dvs-builder@U16)", "open"),
    ("590.48.01", "DRIVER version      : 590.48.01\nCUDA Version        : 13.1",
     "NVRM version: NVIDIA UNIX Open Kernel x86_64 Kernel Module  590.48.01  Mon Dec  8 11:22:45 UTC 2025", "open"),
    ("610.57.04", 'DRIVER version      : Deprecated, see "KMD version" instead\n'
     'CUDA version        : Deprecated, see "CUDA UMD version" instead\n'
     "KMD version         : 610.57.04\nCUDA UMD version    : 13.3",
     "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  610.57.04  Release Build", "open"),
]  # fmt: skip


@pytest.mark.parametrize(("version", "told", "proc", "flavour"), VERSIONS, ids=[each[0] for each in VERSIONS])
def test_versions_are_read_in_every_wording(version: str, told: str | None, proc: str, flavour: str) -> None:
    sections = {"smi-version": told, "proc-version": proc, "loaded": None, "library": f"libnvidia-ml.so.{version}"}
    versions = gpu_facts(answer(sections=sections)).versions
    assert (versions.loaded, versions.library, versions.flavour) == (version, version, ModuleFlavour(flavour))
    assert versions.reported == (version if told else None)
    assert versions.distinct == {version}


def test_the_newest_cuda_is_read_in_both_wordings() -> None:
    assert gpu_facts(answer()).versions.cuda == "13.0"
    assert gpu_facts(answer(sections={"smi-version": VERSIONS[-1][1]})).versions.cuda == "13.3"


@pytest.mark.parametrize(
    ("line", "code", "bus_id", "health"),
    [
        ("NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', GPU has fallen off the bus.", 79, BUS, "restart"),
        ("NVRM: Xid (PCI:0000:01:00): 13, pid=512, Graphics Exception on GPC 0", 13, BUS, "application"),
        ("NVRM: Xid (PCI:0000:01:00): 31, pid=9, name=python, MMU Fault: ENGINE GRAPHICS", 31, BUS, "application"),
        ("NVRM: Xid (PCI:0000:01:00): 43, pid=3, Ch 00000010", 43, BUS, "good"),
        ("NVRM: Xid (PCI:0000:01:00): 63, pid=1896, Row Remapper: New row marked", 63, BUS, "good"),
        ("NVRM: Xid (PCI:0000:01:00): 119, Timeout after 45s of waiting for RPC response from GPU0", 119, BUS, "reset"),
        ("NVRM: Xid (0000:01:00): 31, Ch 0000000b, engmask 00000120", 31, BUS, "application"),
        ("NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
         154, BUS, "restart"),
        ("NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
         154, BUS, "good"),
        ("NVRM: fallen off the bus and is not responding to commands.", 79, None, "restart"),
        ("NVRM: GPU at PCI:0000:01:00 has fallen off the bus", 79, BUS, "restart"),
        ("NVRM: Xid (PCI:0000:01:00): 999, something new", 999, BUS, "reset"),
    ],
)  # fmt: skip
def test_kernel_events_are_told_apart(line: str, code: int, bus_id: str | None, health: str) -> None:
    (event,) = xids([f"NVRM: GPU at PCI:0000:01:00: {UUID}", line])
    assert (event.code, event.bus_id, event.health) == (code, bus_id, Health(health))
    assert event.is_grave is (health not in ("good", "application"))


def test_an_event_that_repeats_is_told_once_per_card() -> None:
    line = "NVRM: Xid (PCI:0000:{bus}:00): 31, pid=1"
    assert len(xids([line.format(bus=bus) for bus in ("01", "01", "02", "01")])) == 2


def test_the_reset_and_reboot_codes_of_alert_rules_are_grave() -> None:
    # The list of a public alert rule (nvidia_gpu_exporter, docs/METRICS.md).
    assert all(health_of(code) not in (Health.GOOD, Health.APPLICATION) for code in (48, 62, 64, 74, 79, 95, 119, 120))
    assert all(health_of(code) in (Health.GOOD, Health.APPLICATION) for code in (13, 31, 43, 63, 92))


def test_stamps_of_the_log_are_taken_off() -> None:
    facts = gpu_facts(answer(log=["[    1.792940] NVRM: loading", "Nov 21 09:00:00 guest kernel: NVRM: second"]))
    assert facts.log == ("NVRM: loading", "NVRM: second")


def test_an_answer_without_its_end_is_refused() -> None:
    with pytest.raises(AnswerCut):
        gpu_facts(answer().removesuffix("=== end 0\n"))
    with pytest.raises(AnswerCut):
        gpu_facts("")


def test_packages_and_holds_are_read() -> None:
    listed = (
        f"linux-modules-nvidia-580-server-generic {VERSION}-1 hold installed\n"
        f"libnvidia-compute-580-server {VERSION}-1 install installed\n"
        "nvidia-utils-470 470.1 deinstall config-files\n"
    )
    packages = gpu_facts(answer(sections={"packages": listed})).packages
    assert [(package.name, package.is_held) for package in packages] == [
        ("linux-modules-nvidia-580-server-generic", True),
        ("libnvidia-compute-580-server", False),
    ]


def test_the_live_question_is_the_same_script_with_another_word() -> None:
    assert gather_command()[:2] == ("sh", "-c")
    assert gather_command(live=True)[4:5] == ("live",)
    assert gather_command(live=True)[5].split(",") == list(FIELDS)


ROCM = {
    "card0": {
        "GPU use (%)": "12", "VRAM Total Memory (B)": "21458059264", "VRAM Total Used Memory (B)": "27856896",
        "Card Series": "Radeon RX 7900 XT", "Temperature (Sensor edge) (C)": "31.0",
        "Temperature (Sensor memory) (C)": "40.0", "Average Graphics Package Power (W)": "128.0",
        "PCI Bus": "0000:C4:00.0",
    },
    "system": {"Driver version": "6.12"},
}  # fmt: skip
AMD_SMI = {
    "gpu_data": [
        {
            "gpu": 0,
            "usage": {"gfx_activity": {"value": 42, "unit": "%"}},
            "power": {"socket_power": {"value": 20, "unit": "W"}},
            "temperature": {"edge": "N/A", "hotspot": {"value": 41, "unit": "C"}},
            "mem_usage": {"total_vram": {"value": 16368, "unit": "MB"}, "used_vram": {"value": 14569, "unit": "MB"}},
        }
    ]
}


def amd_answer(**sections: str) -> str:
    cards = ("0000:c4:00.0 1002 744c amdgpu",)
    none = {"smi-fields": None, "smi-version": None, "loaded": None, "proc-version": None, "library": None}
    text = answer("", cards=cards, modules="amdgpu", devices="kfd dri/renderD128", sections={**none, **sections})
    return text.replace("=== smi-query 0\n\n", "")


def test_rocm_smi_is_read() -> None:
    (reading,) = gpu_facts(amd_answer(**{"rocm-smi": "WARNING: low power\n" + json.dumps(ROCM)})).readings
    assert (reading.index, reading.name, reading.bus_id) == (0, "Radeon RX 7900 XT", "0000:c4:00.0")
    assert (reading.memory_bytes, reading.memory_used_bytes) == (21458059264, 27856896)
    assert (reading.utilization_percent, reading.power_watts, reading.memory_temperature_celsius) == (12, 128, 40)


@pytest.mark.parametrize("document", [AMD_SMI, AMD_SMI["gpu_data"]])
def test_amd_smi_is_read_in_both_shapes(document: object) -> None:
    (reading,) = gpu_facts(amd_answer(**{"amd-smi": json.dumps(document)})).readings
    assert (reading.utilization_percent, reading.power_watts, reading.temperature_celsius) == (42, 20, 41)
    assert reading.memory_bytes == 16368 * MIB


@given(st.text(max_size=400))
def test_no_answer_whatever_breaks_the_reading(text: str) -> None:
    facts = gpu_facts(answer(text.replace("\n===", "\n ==="), sections={"amd-smi": text.replace("\n===", "")}))
    assert facts.answer is not None
    read_processes(text)
    xids(text.splitlines())


@given(st.lists(st.sampled_from([*ABSENT[:4], *BROKEN, "0", "-1", "12.5", "x"]), min_size=31, max_size=31))
def test_no_cell_whatever_breaks_a_reading(cells: list[str]) -> None:
    readings, _ = read_query(FIELDS, ", ".join(cells[: len(FIELDS)]))
    assert len(readings) == 1
