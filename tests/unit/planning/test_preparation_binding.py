"""Modules, early binding and the console's rule: each row is a small host, and whether files of ours come of it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field, replace

import pytest

from provisioner.domain.host_files import HostState
from provisioner.domain.host_preparation import Preparation
from provisioner.planning.host.preparation import HostChoices
from provisioner.planning.host.preparation.binding import MODPROBE_FILE, SCRIPT_FILE
from provisioner.planning.host.preparation.modules import MODULES_FILE
from provisioner.planning.host.steps import GRUB_FILE
from tests.unit.planning.preparing import (
    BY_I915,
    BY_NOBODY,
    BY_NOUVEAU,
    BY_SND,
    BY_VFIO,
    CARD,
    IGPU,
    INTEL_65,
    PORT,
    RTX,
    SOUND,
    TWIN,
    after,
    applied,
    decided,
    host,
    line_of,
    paths,
    state,
)


def test_the_module_that_is_gone_leaves_every_list_and_comments_stay() -> None:
    seen = state(
        {
            "/etc/modules": "# at boot\nvfio\nvfio_virqfd\nvfio_pci # cards\nvfio-virqfd # gone\n",
            "/etc/initramfs-tools/modules": "vfio_virqfd\n",
        }
    )
    plan = decided(INTEL_65, seen)
    assert after(plan, "/etc/modules") == "# at boot\nvfio\nvfio_pci # cards\n# gone\n"
    assert after(plan, "/etc/initramfs-tools/modules") == ""
    assert [change.refresh for change in plan.files if change.path == "/etc/modules"] == [()]
    old = decided(host(kernel="5.15.126-1-pve"), seen)
    assert "/etc/modules" not in paths(old)


def test_a_list_that_has_them_all_needs_no_file_of_ours() -> None:
    seen = state({"/etc/modules": "vfio\nvfio_iommu_type1\nvfio-pci\n"})
    assert MODULES_FILE not in paths(decided(INTEL_65, seen))
    # In the initramfs alone they are not loaded by systemd.
    seen = state({"/etc/initramfs-tools/modules": "vfio\nvfio_iommu_type1\nvfio-pci\n"})
    assert MODULES_FILE in paths(decided(INTEL_65, seen))


def binding(lspci: str, choices: HostChoices = RTX, seen: HostState | None = None, **sections: str) -> Preparation:
    return decided(host(lspci=lspci, **sections), seen or state(), choices)


@dataclass(frozen=True)
class Binding:
    """A listing, and whether our files come of it."""

    why: str
    lspci: str
    by_ids: bool
    by_slot: bool
    sections: dict[str, str] = field(default_factory=dict)


OTHERS = "/etc/modprobe.d/vfio.conf: options vfio-pci ids=10de:1b06"
BINDINGS = [
    Binding("a driver of the host has it", PORT + IGPU + CARD + BY_NOUVEAU, by_ids=True, by_slot=False),
    Binding("its sound is taken", PORT + IGPU + CARD + BY_NOBODY + SOUND + BY_SND, by_ids=True, by_slot=False),
    Binding("nobody has it, so Proxmox can", PORT + IGPU + CARD + BY_NOBODY, by_ids=False, by_slot=False),
    Binding("vfio-pci has it already", PORT + IGPU + CARD + BY_VFIO, by_ids=False, by_slot=False),
    Binding("its driver is not known", PORT + IGPU + CARD, by_ids=False, by_slot=False),
    Binding(
        "the host keeps its twin", PORT + IGPU + CARD + BY_NOUVEAU + TWIN + BY_NOUVEAU, by_ids=False, by_slot=True
    ),
    Binding(
        "somebody else sets ids=", PORT + IGPU + CARD + BY_NOUVEAU, by_ids=False, by_slot=True,
        sections={"modprobe": OTHERS},
    ),
    Binding(
        "the kernel's words set ids=", PORT + IGPU + CARD + BY_NOUVEAU, by_ids=False, by_slot=True,
        sections={"cmdline": "BOOT_IMAGE=/vmlinuz ro vfio-pci.ids=10de:1b06"},
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", BINDINGS, ids=lambda row: row.why)
def test_a_card_is_bound_early_only_where_the_host_has_taken_it(row: Binding) -> None:
    plan = binding(row.lspci, **row.sections)
    assert (MODPROBE_FILE in paths(plan), SCRIPT_FILE in paths(plan)) == (row.by_ids, row.by_slot)
    assert not plan.refusals


def test_by_slot_names_the_card_and_not_its_twin() -> None:
    plan = binding(PORT + IGPU + CARD + BY_NOUVEAU + SOUND + BY_SND + TWIN + BY_NOUVEAU)
    script = after(plan, SCRIPT_FILE) or ""
    assert "take 0000:01:00.0 0x10de 0x2204\ntake 0000:01:00.1 0x10de 0x1aef\n" in script
    assert "02:00" not in script
    (change,) = [change for change in plan.files if change.path == SCRIPT_FILE]
    assert change.mode == "0755"
    assert "the host keeps 0000:02:00.0" in change.why


def test_two_identical_cards_for_guests_need_no_slot() -> None:
    both = HostChoices({"a": ("0000:01:00",), "b": ("0000:02:00",)})
    plan = binding(PORT + IGPU + CARD + BY_NOUVEAU + TWIN + BY_NOUVEAU, both)
    assert "ids=10de:2204\n" in (after(plan, MODPROBE_FILE) or "")
    assert SCRIPT_FILE not in paths(plan)


@pytest.mark.skipif(shutil.which("dash") is None, reason="no dash, the shell of the initramfs, on this machine")
def test_the_script_takes_what_it_names_and_only_while_it_is_the_same_device(tmp_path: object) -> None:
    script = after(binding(PORT + IGPU + CARD + BY_NOUVEAU + SOUND + TWIN + BY_NOUVEAU), SCRIPT_FILE) or ""
    folder = f"{tmp_path}/devices"
    here = script.replace("/sys/bus/pci/devices", folder)
    subprocess.run(
        f"mkdir -p {folder}/0000:01:00.0 {folder}/0000:01:00.1 && cd {folder} && "
        "echo 0x10de | tee 0000:01:00.0/vendor >0000:01:00.1/vendor && echo 0x2204 >0000:01:00.0/device && "
        # Another device has come to where the sound was.
        "echo 0xffff >0000:01:00.1/device && touch 0000:01:00.0/driver_override 0000:01:00.1/driver_override",
        shell=True,
        check=True,
    )
    asked = subprocess.run(["dash", "-c", here, "script", "prereqs"], capture_output=True, text=True, check=True)
    assert asked.stdout == "\n"
    subprocess.run(["dash", "-eu", "-c", here, "script", ""], check=True)
    read = subprocess.run(f"cat {folder}/*/driver_override", shell=True, capture_output=True, text=True, check=True)
    assert read.stdout == "vfio-pci\n"


def test_what_was_bound_stays_as_it_is_after_the_boot_that_bound_it() -> None:
    seen = applied(state(), decided(INTEL_65, state()))
    booted = host(
        lspci=PORT + IGPU + BY_I915 + CARD + BY_VFIO + SOUND + BY_VFIO,
        cmdline="BOOT_IMAGE=/boot/vmlinuz root=/dev/sda ro quiet intel_iommu=on iommu=pt",
        modprobe="".join(f"{MODPROBE_FILE}: {line}\n" for line in (seen.text(MODPROBE_FILE) or "").splitlines()),
    )
    plan = decided(booted, replace(seen, boot_id="boot-2"))
    assert not plan.is_needed
    assert not plan.needs_reboot
    assert not plan.notes


def test_a_driver_that_was_faster_in_spite_of_its_softdep_is_blacklisted_unless_the_host_needs_it() -> None:
    seen = replace(applied(state(), decided(INTEL_65, state())), boot_id="boot-2")
    onboard = "0000:00:1f.3 Audio device [0403]: Intel Corporation HDA [8086:a348]\n" + BY_SND
    plan = decided(host(lspci=PORT + IGPU + BY_I915 + CARD + BY_NOUVEAU + SOUND + BY_SND + onboard), seen)
    text = after(plan, MODPROBE_FILE) or ""
    assert "blacklist nouveau\n" in text
    assert "blacklist snd_hda_intel" not in text
    # And it stays that way when it has worked.
    seen = replace(applied(seen, plan), boot_id="boot-3")
    worked = decided(host(lspci=PORT + IGPU + BY_I915 + CARD + BY_VFIO + SOUND + BY_SND + onboard), seen)
    assert MODPROBE_FILE not in paths(worked)
    assert "snd_hda_intel keeps 0000:01:00.1 in spite of it; Proxmox takes it when the VM starts" in worked.notes


def test_before_its_boot_nothing_is_blacklisted() -> None:
    seen = applied(state(), decided(INTEL_65, state()))
    again = decided(INTEL_65, seen)
    assert not again.files
    assert any("vfio-pci takes 0000:01:00.0 from nouveau" in reason for reason in again.reboot_for)


def test_a_gpu_whose_place_is_unknown_is_said_and_the_rest_goes_on() -> None:
    plan = decided(INTEL_65, state(), HostChoices({"rtx3090": ()}))
    assert plan.notes == ("where rtx3090 sits is not known yet, so which driver has it is not looked at",)
    assert paths(plan) == [GRUB_FILE, MODULES_FILE]


@pytest.mark.parametrize("slots", [(), ("0000:01:00",)])
def test_a_card_that_is_not_seen_any_more_stays_bound(slots: tuple[str, ...]) -> None:
    """It dropped off its bus, or Proxmox could not be asked for the mapping; neither is a wish."""
    seen = applied(state(), decided(INTEL_65, state()))
    plan = decided(host(lspci=PORT + IGPU + BY_I915), seen, HostChoices({"rtx3090": slots}))
    assert not plan.files
    assert "cards that are bound early stay so until every place is known" in plan.notes


@pytest.mark.parametrize("slot", ["0000:09:00", "garbage", "0000:00:01"])
def test_a_person_who_names_a_slot_without_a_card_is_refused(slot: str) -> None:
    choices = HostChoices({"rtx3090": (slot,)}, said=frozenset({"rtx3090"}))
    (refusal,) = decided(INTEL_65, state(), choices).refusals
    assert f"rtx3090 is said to be at {slot}, and the server shows no graphics card there" in refusal.problem
    assert not decided(INTEL_65, state(), HostChoices(RTX.slots, said=frozenset({"rtx3090"}))).refusals


ALONE = PORT + CARD + BY_NOUVEAU
FRAMEBUFFER = {"iomem": "  c0000000-cfffffff : 0000:01:00.0\n    c0000000-c02fffff : BOOTFB"}
BOOT_VGA = {"dmesg": "pci 0000:01:00.0: vgaarb: setting as boot VGA device"}
COMPUTE = "0000:01:00.0 3D controller [0302]: NVIDIA Corporation GA100 [A100 PCIe 40GB] [10de:20f1]\n"
BMC = "0000:03:00.0 VGA compatible controller [0300]: ASPEED Technology, Inc. Graphics [1a03:2000]\n"

CONSOLES = [
    ("only display device", ALONE, {}, "it is the only card with a screen"),
    ("the framebuffer is in it", PORT + IGPU + CARD + BY_NOUVEAU, FRAMEBUFFER, "BOOTFB"),
    ("a card without a screen", PORT + COMPUTE + BY_NOUVEAU, {}, None),
    ("boot VGA", PORT + IGPU + CARD + BY_NOUVEAU, BOOT_VGA, "primary display"),
    ("the management controller draws it", PORT + BMC + CARD + BY_NOUVEAU, {}, None),
    ("another card is primary", PORT + IGPU + CARD + BY_NOUVEAU, {}, None),
]


@pytest.mark.parametrize(("lspci", "sections", "evidence"), [row[1:] for row in CONSOLES], ids=[r[0] for r in CONSOLES])
def test_the_consoles_card_is_never_bound_without_consent(
    lspci: str, sections: dict[str, str], evidence: str | None
) -> None:
    plan = binding(lspci, **sections)
    if evidence is None:
        assert not plan.refusals
        assert MODPROBE_FILE in paths(plan)
        return
    assert {MODPROBE_FILE, SCRIPT_FILE}.isdisjoint(paths(plan))
    (refusal,) = plan.refusals
    assert evidence in refusal.problem
    assert "--i-have-another-console" in refusal.next_step
    consenting = binding(lspci, replace(RTX, has_another_console=True), **sections)
    assert MODPROBE_FILE in paths(consenting)
    assert not consenting.refusals
    leaving = binding(lspci, replace(RTX, binds_early=False), **sections)
    assert not leaving.refusals
    assert {MODPROBE_FILE, SCRIPT_FILE}.isdisjoint(paths(leaving))


def test_the_framebuffer_is_hidden_only_where_vfio_failed_over_it_and_with_consent() -> None:
    log = {"dmesg": "vfio-pci 0000:01:00.0: BAR 1: can't reserve [mem 0xc0000000-0xcfffffff]"}
    consenting = replace(RTX, has_another_console=True)
    assert "initcall_blacklist=sysfb_init" in line_of(binding(ALONE, consenting, **log))
    assert "initcall_blacklist" not in line_of(binding(ALONE, consenting))
    assert "initcall_blacklist" not in line_of(binding(PORT + IGPU + CARD + BY_VFIO, **log))
