"""Every way in which a card or its driver fails gets its name and a next step: the guest's answer in, the check out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from provisioner.planning.gpu import diagnosis, gpu_facts
from provisioner.planning.gpu.diagnosis import worst
from provisioner.planning.readiness import Check, CheckStatus
from tests.fakes.gpu_answers import BUS, VERSION, answer, row

NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.173"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.173.02  Release Build"
NOTHING = {"loaded": None, "proc-version": None, "on-disk": None, "library": None, "smi-version": None}
V100 = (f"{BUS} 10de 1db6 nvidia",)


def checks(text: str, cards: int = 1) -> tuple[Check, ...]:
    return diagnosis(gpu_facts(text), node="llm-gpu-01", cards=cards)


@dataclass(frozen=True)
class Case:
    """What the guest answers, and what must come out: the check's id, words of what was found and of the next step."""

    id: str
    query: str | None
    code: int
    found: str
    next: str
    cards: Sequence[str] = (f"{BUS} 10de 2204 nvidia",)
    modules: str = "nvidia nvidia_uvm"
    log: Sequence[str] | None = ("Linux version 6.8.0",)
    sections: dict[str, str | None] = field(default_factory=dict)
    name: str = ""


CASES = [
    Case("driver_installed", "sh: nvidia-smi: not found", 127, "no NVIDIA driver", "provisioner up", modules="",
         sections=NOTHING, name="nothing installed"),
    Case("driver_installed", "", 127, "nouveau has the card", "provisioner up", modules="nouveau", sections=NOTHING,
         cards=(f"{BUS} 10de 2204 nouveau",), name="nothing installed, nouveau drives"),
    Case("driver_answers", "", 127, "nvidia-smi is not installed, though driver 580", "provisioner up",
         name="utils missing"),
    Case("driver_loaded", NO_DRIVER, 9, "no driver module for kernel 6.8.0-87-generic", "provisioner up", modules="",
         sections={**NOTHING, "library": f"libnvidia-ml.so.{VERSION}"}, name="kernel without its module"),
    Case("driver_loaded", NO_DRIVER, 9, "dkms: nvidia/580.173.02: added", "provisioner up", modules="",
         sections={**NOTHING, "dkms": "nvidia/580.173.02: added"}, name="dkms without headers"),
    Case("driver_loaded", NO_DRIVER, 9, "is there for kernel 6.8.0-87-generic, and is not loaded", "modprobe",
         modules="", sections={"loaded": None, "proc-version": None}, name="not loaded"),
    Case("driver_loaded", NO_DRIVER, 9, "nouveau took the card", "reboot", modules="nouveau",
         sections={"loaded": None, "proc-version": None}, name="nouveau was quicker"),
    Case("driver_loaded", NO_DRIVER, 9, "Secure Boot", "prebuilt modules", modules="",
         log=["Loading of unsigned module is rejected"],
         sections={"loaded": None, "proc-version": None, "secure-boot": " 1"}, name="secure boot"),
    Case("driver_fits", NO_DRIVER, 9, "580.173.02 ignores the card", "driver: auto", modules="", cards=V100,
         log=["NVRM: The NVIDIA GPU at 0000:01:00.0 is supported through the NVIDIA 580.xx Legacy drivers",
              "NVRM: No NVIDIA GPU found."],
         sections={"loaded": None, "proc-version": None}, name="branch too new"),
    Case("driver_matches", MISMATCH, 18, "module 580.173.02 is loaded, the programs' library is 580.181.01", "reboots",
         sections={"library": "libnvidia-ml.so.580.181.01"}, name="upgraded under the module"),
    Case("driver_matches", "Failed to initialize NVML: Driver/library version mismatch", 255, "module 580", "reboots",
         name="older wording, another code"),
    Case("driver_fits", "No devices were found", 0, "ignores the card", "driver: auto", cards=V100,
         log=["NVRM: installed in this system is not supported by open", "NVRM: nvidia.ko because"],
         sections={"proc-version": OPEN}, name="open module, Volta card"),
    Case("driver_fits", "No devices were found", 6, "ignores the card", "driver: auto",
         cards=(f"{BUS} 10de 2b85 nvidia",), name="proprietary module, Blackwell card"),
    Case("driver_fits", "No devices were found", 0, "nouveau has the card", "provisioner up",
         modules="nvidia nouveau", name="no devices for nouveau"),
    Case("card_starts", "No devices were found", 0, "RmInitAdapter failed! (0x62:0x65:1792)", "provisioner sleep",
         log=["NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x65:1792)"], name="card does not start"),
    Case("driver_answers", "Unable to determine the device handle for GPU 0000:01:00.0: Unknown Error", 255,
         "Unable to determine", "provisioner sleep", name="no handle"),
    Case("driver_answers", "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  Reboot the "
         "system to recover this GPU", 15, "GPU is lost", "provisioner wake", name="lost"),
    Case("driver_answers", "", 124, "hangs", "provisioner sleep", name="hangs"),
    Case("driver_answers", "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", 12, "libnvidia-ml",
         "provisioner up", name="library missing"),
    Case("driver_answers", "Insufficient permissions", 4, "exit code 4", "ls -l /dev/nvidia", name="permission"),
    Case("driver_answers", "", 8, "exit code 8: without a word", "plug them in", name="power cable"),
    Case("driver_answers", "", 10, "exit code 10", "interrupt remapping", name="interrupts"),
    Case("driver_answers", "WARNING: infoROM is corrupted", 14, "infoROM is corrupted", "support", name="inforom"),
    Case("driver_answers", "Something nobody saw yet", 77, "exit code 77: Something nobody saw yet", "nvidia-smi",
         name="unheard of"),
    Case("xid_79", None, 0, "Xid 79 on 0000:01:00.0: GPU has fallen off the bus", "provisioner sleep",
         log=["NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus."], name="xid 79"),
    Case("pci_device", None, 0, "0000:01:00.0 does not answer", "reboot the hypervisor",
         cards=(f"{BUS} 10de 2204 nvidia gone",), name="gone from the bus"),
    Case("pci_device", None, 0, "sees 0 of 1 GPUs: none", "hostpci", cards=("0000:00:02.0 1234 1111 -",),
         name="no card at all"),
    Case("recovery_action", row(gpu_recovery_action="GPU Reset"), 0, "the driver wants GPU Reset", "provisioner sleep",
         name="wants a reset"),
    Case("memory_errors", row(ecc_errors_uncorrected_volatile_total="3"), 0, "3 memory errors", "provisioner sleep",
         name="ecc"),
    Case("memory_errors", row(remapped_rows_failure="Yes"), 0, "could not be replaced", "exchanged", name="rows"),
    Case("uvm", None, 0, "/dev/nvidia-uvm is missing", "nvidia_uvm", sections={"devices": "nvidiactl\nnvidia0"},
         name="uvm missing"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_failure_has_a_name_and_a_next_step(case: Case) -> None:
    text = answer(case.query, case.code, cards=case.cards, modules=case.modules, log=case.log, sections=case.sections)
    found = checks(text)
    failed = [check for check in found if check.status is CheckStatus.FAIL]
    assert [check.id for check in failed] == [case.id], failed
    assert case.found in failed[0].found
    assert case.next in failed[0].next_step
    assert failed[0].why
    assert worst(found) is CheckStatus.FAIL


def test_a_healthy_guest_has_nothing_wrong_and_says_which_driver_it_has() -> None:
    found = checks(answer())
    assert worst(found) is CheckStatus.OK
    assert {check.id for check in found} == {"pci_device", "driver_matches"}
    assert f"{VERSION}, proprietary module, CUDA up to 13.0" in next(
        check.found for check in found if check.id == "driver_matches"
    )


@pytest.mark.parametrize(
    ("id_", "changed", "sections"),
    [
        ("persistence", {"persistence_mode": "Disabled"}, {}),
        ("heat", {"clocks_throttle_reasons_hw_thermal_slowdown": "Active"}, {}),
        ("memory_remap", {"remapped_rows_pending": "Yes"}, {}),
        ("reading_fails", {"fan_speed": "[Unknown Error]"}, {}),
        ("driver_drift", {}, {"on-disk": "580.181.01"}),
        ("boot_check", {}, {"drift": "kernel 6.8.0-90-generic has no nvidia module"}),
        ("xid_31", {}, {"log": "NVRM: Xid (PCI:0000:01:00): 31, pid=9, name=python, MMU Fault"}),
        (
            "driver_held",
            {},
            {"packages": "libnvidia-compute-580-server 1 hold installed\nlinux-modules-nvidia-x 1 install installed"},
        ),
    ],
)
def test_what_only_wants_attention_warns(id_: str, changed: dict[str, str], sections: dict[str, str]) -> None:
    found = checks(answer(row(**changed), sections=sections))
    assert [check.id for check in found if check.status is CheckStatus.WARN] == [id_]
    assert worst(found) is CheckStatus.WARN


def test_one_dead_card_of_two_is_told_though_the_other_answers() -> None:
    text = answer(
        f"{row()}\nUnable to determine the device handle for GPU0000:07:00.0: Unknown Error",
        cards=(f"{BUS} 10de 2204 nvidia", "0000:07:00.0 10de 2204 nvidia"),
    )
    assert checks(text, cards=2)[0].id == "driver_answers"


def test_unknown_is_never_fine() -> None:
    found = checks(answer(sections={"cards": None}))
    assert worst([check for check in found if check.id == "pci_device"]) is CheckStatus.UNKNOWN


@pytest.mark.parametrize(
    ("modules", "devices", "id_"),
    [("", "", "driver_loaded"), ("amdgpu", "dri/renderD128", "driver_answers"), ("amdgpu", "kfd", "driver_answers")],
)
def test_an_amd_card_without_its_driver_is_told(modules: str, devices: str, id_: str) -> None:
    text = answer("", cards=("0000:c4:00.0 1002 744c -",), modules=modules, devices=devices)
    assert checks(text)[0].id == id_


def test_a_guest_without_any_card_and_without_any_wanted_is_fine() -> None:
    text = answer("", cards=(), modules="", devices="").replace("=== smi-query 0\n\n", "")
    assert worst(checks(text, cards=0)) is CheckStatus.OK
