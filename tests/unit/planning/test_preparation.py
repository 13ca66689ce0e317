"""What `prepare` decides: each row is a small host and what must, or must not, become of its files."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.host import HostFacts
from provisioner.domain.host_files import HostFile, HostState, PreparationRecord, Refresh
from provisioner.domain.host_preparation import Preparation
from provisioner.planning.host.preparation import HostChoices, undoing
from provisioner.planning.host.preparation.binding import MODPROBE_FILE, SCRIPT_FILE
from provisioner.planning.host.preparation.modules import MODULES_FILE
from provisioner.planning.host.steps import GRUB_FILE, SYSTEMD_BOOT_FILE
from tests.golden_files import assert_golden
from tests.unit.planning.preparing import (
    BY_I915,
    BY_NOBODY,
    BY_NOUVEAU,
    BY_SND,
    BY_VFIO,
    CARD,
    GROUPS,
    GRUB_DEFAULTS,
    IGPU,
    PORT,
    RTX,
    SOUND,
    SYSTEMD_LINE,
    TWIN,
    applied,
    decided,
    edited,
    host,
    state,
    texts,
)


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


GOLDEN = {
    "grub-intel": host(),
    "grub-amd": host(cpu="AuthenticAMD", kernel="6.8.12-4-pve", iommu_groups=GROUPS),
    "systemd-boot-intel": host(loader="systemd-boot"),
    "systemd-boot-amd": host(loader="systemd-boot", cpu="AuthenticAMD", kernel="6.8.12-4-pve", iommu_groups=GROUPS),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_whole_preparation_reads_as_its_golden_file(name: str) -> None:
    plan = decided(GOLDEN[name], state())
    shown = "".join(f"{change.diff()}# {change.why}\n\n" for change in plan.files)
    shown += "".join(f"$ {command.line}\n# {command.why}\n\n" for command in plan.commands)
    shown += "".join(f"reboot: {reason}\n" for reason in plan.reboot_for)
    assert not plan.refusals
    assert_golden(f"prepare/{name}.txt", shown)


# --- the command line's words -----------------------------------------------------------------------------------------


def with_default(line: str) -> dict[str, str]:
    return {GRUB_FILE: GRUB_DEFAULTS.replace('GRUB_CMDLINE_LINUX_DEFAULT="quiet"', line)}


@dataclass(frozen=True)
class Words:
    """A host, a line in its file, and what that line becomes ("" is: it stays)."""

    host: HostFacts
    before: str
    after: str


INTEL_65, INTEL_68_OFF = host(), host(kernel="6.8.12-4-pve")
INTEL_68_ON = host(kernel="6.8.12-4-pve", iommu_groups=GROUPS)
AMD_ON = host(cpu="AuthenticAMD", kernel="6.8.12-4-pve", iommu_groups=GROUPS)
OTHER_CPU = host(cpu="HygonGenuine")

LINES = [
    Words(INTEL_65, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"', 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on iommu=pt"'),
    Words(
        INTEL_68_OFF, "GRUB_CMDLINE_LINUX_DEFAULT=quiet", 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on iommu=pt"'
    ),
    Words(INTEL_68_ON, "GRUB_CMDLINE_LINUX_DEFAULT='quiet'", "GRUB_CMDLINE_LINUX_DEFAULT='quiet iommu=pt'"),
    Words(AMD_ON, 'GRUB_CMDLINE_LINUX_DEFAULT=""', 'GRUB_CMDLINE_LINUX_DEFAULT="iommu=pt"'),
    Words(AMD_ON, "GRUB_CMDLINE_LINUX_DEFAULT=", "GRUB_CMDLINE_LINUX_DEFAULT=iommu=pt"),
    Words(OTHER_CPU, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"', 'GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=pt"'),
    # Blanks, a comment behind it, export: all that stays.
    Words(
        AMD_ON,
        'export GRUB_CMDLINE_LINUX_DEFAULT="quiet  splash "   # ours',
        'export GRUB_CMDLINE_LINUX_DEFAULT="quiet  splash iommu=pt "   # ours',
    ),
    Words(AMD_ON, 'GRUB_CMDLINE_LINUX_DEFAULT="amd_iommu=off quiet"', 'GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=pt"'),
    Words(AMD_ON, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=off"', 'GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=pt"'),
    Words(
        INTEL_65,
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=off iommu=pt"',
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=pt intel_iommu=on"',
    ),
    # The other vendor's word does nothing here.
    Words(INTEL_68_ON, 'GRUB_CMDLINE_LINUX_DEFAULT="amd_iommu=off iommu=pt"', ""),
    Words(INTEL_65, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on,sm_on iommu=pt"', ""),
    Words(AMD_ON, 'GRUB_CMDLINE_LINUX_DEFAULT="iommu.passthrough=1"', ""),
    Words(AMD_ON, 'GRUB_CMDLINE_LINUX_DEFAULT="iommu=nopt"', ""),
    # Read generously, for nothing needs to change.
    Words(AMD_ON, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet $EXTRA iommu=pt"', ""),
    Words(AMD_ON, 'GRUB_CMDLINE_LINUX_DEFAULT+="quiet iommu=pt"', ""),
]


@pytest.mark.parametrize("row", LINES, ids=lambda row: row.before)
def test_words_are_added_and_removed_only_as_needed(row: Words) -> None:
    plan = decided(row.host, state(with_default(row.before)))
    assert not plan.refusals
    assert line_of(plan) == row.after
    if row.after:
        assert after(plan, GRUB_FILE) == GRUB_DEFAULTS.replace('GRUB_CMDLINE_LINUX_DEFAULT="quiet"', row.after)


UNCERTAIN = [
    ('GRUB_CMDLINE_LINUX_DEFAULT="quiet $EXTRA"', "more than one way"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="quiet `extra`"', "more than one way"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="quiet \\"a b\\""', "more than one way"),
    ("GRUB_CMDLINE_LINUX_DEFAULT='qui'et", "more than one way"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="quiet"; true', "more than one way"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="quiet"\r', "more than one way"),
    ("GRUB_CMDLINE_LINUX_DEFAULT=quiet splash", "more than one way"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="quiet\nsplash"', "does not close there"),
    ('GRUB_CMDLINE_LINUX_DEFAULT+="quiet"', "put together from parts"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT quiet"', "put together from parts"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="a"\nGRUB_CMDLINE_LINUX_DEFAULT="b"', "more than once (lines 7, 8)"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="a"\nunset GRUB_CMDLINE_LINUX_DEFAULT', "more than once"),
    ('if true; then\n  GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nfi', "larger construct"),
    ('true && \\\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"', "does not close there"),
    ('[ -e /x ] && GRUB_CMDLINE_LINUX_DEFAULT="quiet"', "more than once"),
    ("MESSAGE=\"it\nGRUB_CMDLINE_LINUX_DEFAULT='quiet'\n\"", "does not close there"),
]


@pytest.mark.parametrize(("line", "reason"), UNCERTAIN, ids=[line for line, _ in UNCERTAIN])
def test_a_line_that_a_shell_may_read_differently_is_left_to_a_person_with_the_exact_edit(
    line: str, reason: str
) -> None:
    plan = decided(INTEL_65, state(with_default(line)))
    assert GRUB_FILE not in paths(plan)
    (refusal,) = plan.refusals
    assert reason in refusal.problem
    assert "/etc/default/grub line" in refusal.next_step
    assert "add intel_iommu=on iommu=pt, then run update-grub" in refusal.next_step


DROP_INS = [
    # What the installer writes for ZFS adds to the other variable.
    ('GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX root=ZFS=rpool/ROOT/pve-1 boot=zfs"', None),
    ('GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT console=ttyS0"', None),
    ('GRUB_DISTRIBUTOR="Proxmox VE"', None),
    ('#GRUB_CMDLINE_LINUX_DEFAULT="quiet"', None),
    ('GRUB_CMDLINE_LINUX_DEFAULT="quiet"', "it replaces what /etc/default/grub says"),
    ('if true; then GRUB_CMDLINE_LINUX_DEFAULT="x"; fi', "it may change GRUB_CMDLINE_LINUX_DEFAULT"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="${GRUB_CMDLINE_LINUX_DEFAULT} intel_iommu=off"', "it is a file of its own"),
]


@pytest.mark.parametrize(("line", "reason"), DROP_INS, ids=[line for line, _ in DROP_INS])
def test_drop_ins_that_add_are_fine_and_those_that_replace_are_named(line: str, reason: str | None) -> None:
    plan = decided(INTEL_65, state({"/etc/default/grub.d/zz.cfg": f"{line}\n"}))
    if reason is None:
        assert not plan.refusals
        assert line_of(plan) == 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on iommu=pt"'
    else:
        (refusal,) = plan.refusals
        assert reason in refusal.problem
        assert "in /etc/default/grub.d/zz.cfg line 1" in refusal.next_step


def test_a_drop_in_that_has_the_words_already_leaves_nothing_to_do() -> None:
    own = {"/etc/default/grub.d/iommu.cfg": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on iommu=pt"\n'}
    plan = decided(INTEL_65, state(own))
    assert not plan.refusals
    assert GRUB_FILE not in paths(plan)


def test_words_that_count_in_every_boot_count_and_bad_ones_there_go() -> None:
    text = GRUB_DEFAULTS.replace('GRUB_CMDLINE_LINUX=""', 'GRUB_CMDLINE_LINUX="intel_iommu=off iommu=pt"')
    new = after(decided(INTEL_65, state({GRUB_FILE: text})), GRUB_FILE) or ""
    assert 'GRUB_CMDLINE_LINUX="iommu=pt"\n' in new
    assert 'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on"\n' in new


def test_a_defaults_file_without_the_line_gets_one() -> None:
    new = after(decided(AMD_ON, state({GRUB_FILE: "GRUB_DEFAULT=0"})), GRUB_FILE)
    assert new == 'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT="iommu=pt"\n'


PLAIN = [
    ("root=ZFS=rpool/ROOT/pve-1 boot=zfs\n", "root=ZFS=rpool/ROOT/pve-1 boot=zfs iommu=pt\n", None),
    ("root=ZFS=rpool/ROOT/pve-1  boot=zfs", "root=ZFS=rpool/ROOT/pve-1  boot=zfs iommu=pt", None),
    ("\nroot=ZFS=a amd_iommu=off quiet \n\n", "\nroot=ZFS=a quiet iommu=pt \n\n", None),
    ("root=ZFS=a boot=zfs iommu=pt\n", None, None),
    ("root=ZFS=a\nboot=zfs\n", None, "it has 2 lines where one is read"),
    ("# root=ZFS=a\r\n", None, "carriage returns"),
    ("", None, "it has 0 lines where one is read"),
]


@pytest.mark.parametrize(("before", "new", "reason"), PLAIN, ids=[repr(row[0]) for row in PLAIN])
def test_systemd_boots_one_line_is_edited_and_nothing_else(before: str, new: str | None, reason: str | None) -> None:
    machine = host(loader="systemd-boot", cpu="AuthenticAMD", kernel="6.8.12-4-pve", iommu_groups=GROUPS)
    plan = decided(machine, state({SYSTEMD_BOOT_FILE: before}))
    changed = [change.after for change in plan.files if change.path == SYSTEMD_BOOT_FILE]
    assert changed == ([new] if new is not None else [])
    assert GRUB_FILE not in paths(plan)
    assert [refusal.problem for refusal in plan.refusals if reason and reason in refusal.problem] == (
        [plan.refusals[0].problem] if reason else []
    )


def test_a_missing_command_line_file_is_named_with_the_line_to_write() -> None:
    machine = host(loader="systemd-boot")
    seen = state()
    seen = replace(seen, files={path: file for path, file in seen.files.items() if path != SYSTEMD_BOOT_FILE})
    (refusal,) = decided(machine, seen).refusals
    assert refusal.next_step.startswith(
        "write this one line into /etc/kernel/cmdline and run proxmox-boot-tool refresh: "
        "root=ZFS=rpool/ROOT/pve-1 boot=zfs intel_iommu=on iommu=pt"
    )


def test_an_unknown_boot_loader_is_a_refusal_that_says_how_to_find_out() -> None:
    plan = decided(host(cmdline="root=/dev/sda1 ro"), state())
    (refusal,) = plan.refusals
    assert "neither BOOT_IMAGE= nor an initrd" in refusal.problem
    assert "proxmox-boot-tool status" in refusal.next_step
    assert {GRUB_FILE, SYSTEMD_BOOT_FILE}.isdisjoint(paths(plan))


def test_an_unknown_boot_loader_is_no_matter_when_the_running_words_are_right() -> None:
    assert not decided(host(cmdline="root=/dev/sda1 ro intel_iommu=on iommu=pt"), state()).refusals


def test_words_in_the_file_that_nobody_reads_are_mentioned_and_left() -> None:
    seen = state(with_default('GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=on vfio-pci.ids=10de:2204"'))
    plan = decided(host(loader="systemd-boot"), seen)
    (note,) = plan.notes
    assert note.startswith("/etc/default/grub has intel_iommu=on vfio-pci.ids=10de:2204, which nothing reads")
    assert GRUB_FILE not in paths(plan)


@pytest.mark.parametrize("trouble", ["is a link to /srv/grub", "is not UTF-8 text"])
def test_a_file_that_cannot_be_read_as_text_is_not_touched(trouble: str) -> None:
    seen = state()
    seen = replace(seen, files={**seen.files, GRUB_FILE: HostFile(GRUB_FILE, None, trouble=trouble)})
    (refusal,) = decided(host(), seen).refusals
    assert refusal.problem == f"/etc/default/grub cannot be edited by program: it {trouble}"


# --- modules ----------------------------------------------------------------------------------------------------------


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


# --- early binding ----------------------------------------------------------------------------------------------------


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


# --- the console ------------------------------------------------------------------------------------------------------

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


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_a_read_only_folder_and_a_missing_python_are_refused_before_anything() -> None:
    plan = decided(INTEL_65, state(read_only=("/etc",), has_python=False))
    assert [refusal.problem for refusal in plan.refusals] == [
        "there is no /usr/bin/python3, which Ansible needs there",
        "/etc cannot be written",
    ]


def test_a_link_where_our_file_belongs_is_refused() -> None:
    seen = state()
    seen = replace(seen, files={**seen.files, MODULES_FILE: HostFile(MODULES_FILE, None, trouble="is a link to /x")})
    (refusal,) = decided(INTEL_65, seen).refusals
    assert refusal.problem == f"{MODULES_FILE} is in the way: it is a link to /x"


# --- again, cut off, undone -------------------------------------------------------------------------------------------


def test_a_run_that_was_cut_off_is_continued() -> None:
    whole = decided(INTEL_65, state())
    for done in range(len(whole.files) + 1):
        seen = applied(state(), whole, stop_after=done)
        rest = decided(INTEL_65, seen)
        assert paths(rest) == paths(whole)[done:]
        assert [command.line for command in rest.commands] == [command.line for command in whole.commands]
        finished = applied(seen, rest)
        assert texts(finished) == texts(applied(state(), whole))
        assert texts(applied(finished, undoing(finished))) == texts(state())
        # Or taken back from where it stands.
        assert texts(applied(seen, undoing(seen))) == texts(state())
        assert {Refresh.INITRAMFS.value, Refresh.GRUB.value} == {each.line for each in undoing(seen).commands}


def test_undo_leaves_what_somebody_edited_since_and_names_the_original() -> None:
    seen = applied(state(), decided(INTEL_65, state()))
    own = (seen.text(GRUB_FILE) or "").replace("GRUB_TIMEOUT=5", "GRUB_TIMEOUT=1")
    undone = undoing(edited(seen, GRUB_FILE, own))
    assert GRUB_FILE not in paths(undone)
    assert sorted(paths(undone)) == [MODPROBE_FILE, MODULES_FILE]
    (note,) = undone.notes
    assert "/etc/default/grub was edited after our change, so it stays" in note
    copy = note.split("the original is ")[1].split(":")[0]
    assert seen.text(copy) == GRUB_DEFAULTS
    assert [kept.path for kept in undone.record.files] == [GRUB_FILE]


def test_an_edit_between_two_runs_survives_undo_and_the_older_original_is_kept() -> None:
    seen = applied(state(), decided(INTEL_65, state()))
    own = (seen.text(GRUB_FILE) or "").replace("GRUB_TIMEOUT=5", "GRUB_TIMEOUT=1").replace(" iommu=pt", "")
    seen = edited(seen, GRUB_FILE, own)
    seen = applied(seen, decided(INTEL_65, seen))
    assert "intel_iommu=on iommu=pt" in (seen.text(GRUB_FILE) or "")
    undone = undoing(seen)
    assert after(undone, GRUB_FILE) == own
    (note,) = [note for note in undone.notes if "an older original is" in note]
    assert seen.text(note.rpartition(" ")[2]) == GRUB_DEFAULTS


def test_undo_without_a_record_changes_nothing() -> None:
    assert not undoing(state()).is_needed


def test_undo_twice_is_undo_once() -> None:
    seen = applied(state(), decided(INTEL_65, state()))
    once = applied(seen, undoing(seen))
    assert not undoing(once).is_needed
    assert once.record == PreparationRecord()


def test_a_damaged_copy_is_refused_not_restored() -> None:
    seen = applied(state(), decided(INTEL_65, state()))
    (kept,) = [kept for kept in seen.record.files if kept.path == GRUB_FILE]
    assert kept.copy
    undone = undoing(edited(seen, kept.copy, "rubbish"))
    assert GRUB_FILE not in paths(undone)
    assert kept.copy in undone.refusals[0].problem


# Lines as people write them, sensible ones and others.
GRUB_LINES = st.sampled_from(
    [
        "",
        "# GRUB_CMDLINE_LINUX_DEFAULT=x",
        "GRUB_DEFAULT=0",
        'GRUB_CMDLINE_LINUX="root=ZFS=a"',
        'GRUB_CMDLINE_LINUX="intel_iommu=off"',
        "GRUB_DISTRIBUTOR=`lsb_release -i`",
        "GRUB_CMDLINE_LINUX_DEFAULT='quiet  splash'",
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=off"  # why',
        'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT more"',
        "GRUB_CMDLINE_LINUX_DEFAULT=iommu=pt",
        "it's\tbroken",
        "\ufeffodd\x0c",
    ]
)
MODULE_LINES = st.sampled_from(["vfio", "vfio_virqfd", "# x", "", "  vfio-pci", "vfio_virqfd vfio", "loop max_loop=8"])
LISTINGS = st.sampled_from(
    [PORT + IGPU + CARD + BY_NOUVEAU, PORT + CARD + BY_VFIO, ALONE, PORT + CARD + BY_NOUVEAU + TWIN]
)


@st.composite
def hosts(draw: st.DrawFn) -> tuple[HostFacts, HostState, HostChoices]:
    facts = host(
        cpu=draw(st.sampled_from(["GenuineIntel", "AuthenticAMD"])),
        loader=draw(st.sampled_from(["grub", "systemd-boot"])),
        kernel=draw(st.sampled_from(["5.15.1-1-pve", "6.5.11-8-pve", "6.14.8-2-pve"])),
        lspci=draw(LISTINGS),
    )
    end = draw(st.sampled_from(["", "\n"]))
    files = {
        GRUB_FILE: "\n".join(draw(st.lists(GRUB_LINES, max_size=6))) + end,
        SYSTEMD_BOOT_FILE: draw(st.sampled_from([SYSTEMD_LINE, "root=a  intel_iommu=off ", "root=a\nb\n"])),
        "/etc/modules": "\n".join(draw(st.lists(MODULE_LINES, max_size=5))) + end,
    }
    choices = HostChoices(RTX.slots, draw(st.booleans()), draw(st.booleans()))
    return facts, state(files), choices


@given(hosts())
def test_prepare_twice_is_prepare_once_and_undo_brings_back_every_byte(
    case: tuple[HostFacts, HostState, HostChoices],
) -> None:
    facts, before, choices = case
    plan = decided(facts, before, choices)
    seen = applied(before, plan)
    again = decided(facts, seen, choices)
    assert not again.is_needed
    assert again.refusals == plan.refusals
    undone = undoing(seen)
    assert not undone.refusals
    assert not undone.notes
    assert texts(applied(seen, undone)) == texts(before)


@given(hosts(), st.data())
def test_undo_never_loses_an_edit_made_at_any_time(
    case: tuple[HostFacts, HostState, HostChoices], data: st.DataObject
) -> None:
    facts, seen, choices = case
    edits: dict[str, str] = {}
    for step in range(data.draw(st.integers(2, 5))):
        if data.draw(st.booleans()):
            ours = [kept.path for kept in seen.record.files if kept.path in seen.files]
            path = data.draw(st.sampled_from(sorted(ours or texts(seen))))
            # On top of what we wrote, or a file of their own without it.
            base = data.draw(st.sampled_from([seen.text(path) or "", "", 'GRUB_CMDLINE_LINUX_DEFAULT=""\n']))
            edits[path] = f"{base}# edit {step}\n"
            seen = edited(seen, path, edits[path])
        else:
            plan = decided(facts, seen, choices)
            stop = data.draw(st.one_of(st.none(), st.integers(0, 3)))
            seen = applied(seen, plan, stop_after=stop)
    undone = applied(seen, undoing(seen))
    for path, text in edits.items():
        assert f"# edit {text.rsplit('# edit ', 1)[1]}" in (undone.text(path) or ""), path
