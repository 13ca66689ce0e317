"""`prepare` as a whole: as it is shown, twice, cut off, taken back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.host import HostFacts
from provisioner.domain.host_files import HostFile, HostState, PreparationRecord, Refresh
from provisioner.planning.host.preparation import HostChoices, undoing
from provisioner.planning.host.preparation.binding import MODPROBE_FILE
from provisioner.planning.host.preparation.modules import MODULES_FILE
from provisioner.planning.host.steps import GRUB_FILE, SYSTEMD_BOOT_FILE
from tests.golden_files import assert_golden
from tests.unit.planning.preparing import (
    BY_NOUVEAU,
    BY_VFIO,
    CARD,
    GROUPS,
    GRUB_DEFAULTS,
    IGPU,
    INTEL_65,
    PORT,
    RTX,
    SYSTEMD_LINE,
    TWIN,
    after,
    applied,
    decided,
    edited,
    host,
    paths,
    state,
    texts,
)

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
    [PORT + IGPU + CARD + BY_NOUVEAU, PORT + CARD + BY_VFIO, PORT + CARD + BY_NOUVEAU, PORT + CARD + BY_NOUVEAU + TWIN]
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
