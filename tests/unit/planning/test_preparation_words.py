"""The command line: which words come and go, in which file, and what is left to a person."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from provisioner.domain.host import HostFacts
from provisioner.domain.host_files import HostFile
from provisioner.planning.host.steps import GRUB_FILE, SYSTEMD_BOOT_FILE
from tests.unit.planning.preparing import (
    AMD_ON,
    GROUPS,
    GRUB_DEFAULTS,
    INTEL_65,
    INTEL_68_OFF,
    INTEL_68_ON,
    after,
    decided,
    host,
    line_of,
    paths,
    state,
)


def with_default(line: str) -> dict[str, str]:
    return {GRUB_FILE: GRUB_DEFAULTS.replace('GRUB_CMDLINE_LINUX_DEFAULT="quiet"', line)}


@dataclass(frozen=True)
class Words:
    """A host, a line in its file, and what that line becomes ("" is: it stays)."""

    host: HostFacts
    before: str
    after: str


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
    ('GRUB_CMDLINE_LINUX_DEFAULT="quiet\nsplash"', "does not close here"),
    ('GRUB_CMDLINE_LINUX_DEFAULT+="quiet"', "put together from parts"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT quiet"', "put together from parts"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="a"\nGRUB_CMDLINE_LINUX_DEFAULT="b"', "more than once (lines 7, 8)"),
    ('GRUB_CMDLINE_LINUX_DEFAULT="a"\nunset GRUB_CMDLINE_LINUX_DEFAULT', "more than once"),
    ('if true; then\n  GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nfi', "not every line counts"),
    ('true && \\\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"', "goes on in the next line"),
    ('  GRUB_CMDLINE_LINUX_DEFAULT="quiet"', "larger construct"),
    ('[ -e /x ] && GRUB_CMDLINE_LINUX_DEFAULT="quiet"', "more than once"),
    ("MESSAGE=\"it\nGRUB_CMDLINE_LINUX_DEFAULT='quiet'\n\"", "does not close here"),
]


@pytest.mark.parametrize(("line", "reason"), UNCERTAIN, ids=[line for line, _ in UNCERTAIN])
def test_a_line_that_a_shell_may_read_differently_is_left_to_a_person_with_the_exact_edit(
    line: str, reason: str
) -> None:
    plan = decided(INTEL_65, state(with_default(line)))
    assert GRUB_FILE not in paths(plan)
    (refusal,) = plan.refusals
    assert reason in refusal.problem
    assert refusal.next_step.startswith("in /etc/default/grub")
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


# Lines that people and installers write, and lines made to mislead.
SHELL_LINES = st.sampled_from(
    [
        "",
        "# GRUB_CMDLINE_LINUX_DEFAULT=commented",
        "GRUB_DEFAULT=0",
        "GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Debian} ) 2>/dev/null || echo Debian`",
        'GRUB_CMDLINE_LINUX=""',
        "GRUB_CMDLINE_LINUX='root=ZFS=a  quiet'",
        'GRUB_CMDLINE_LINUX="intel_iommu=off console=ttyS0"',
        "GRUB_CMDLINE_LINUX_DEFAULT=quiet",
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet intel_iommu=off\tsplash"  # "why"',
        "export GRUB_CMDLINE_LINUX_DEFAULT='iommu=off'",
        'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT more"',
        'GRUB_CMDLINE_LINUX_DEFAULT="a b"c',
        'GRUB_CMDLINE_LINUX_DEFAULT="a" true',
        'GRUB_CMDLINE_LINUX_DEFAULT="\\"quoted\\""',
        "GRUB_CMDLINE_LINUX_DEFAULT=\\\nquiet",
        "if false; then",
        "fi",
        "true \\",
        'MORE="',
        '"',
        "cat <<END >/dev/null",
        "END",
        "unset GRUB_CMDLINE_LINUX_DEFAULT",
    ]
)


def sourced(folder: Path, texts: dict[str, str]) -> tuple[int, list[str], list[str]]:
    """Let a shell read the files as grub-mkconfig does; return its exit code and the words of both variables."""
    lines = ["set -e"]
    for number, text in enumerate(texts.values()):
        (folder / str(number)).write_text(text)
        lines.append(f". {folder}/{number}")
    lines.append('printf \'%s\\n%s\\n\' "$GRUB_CMDLINE_LINUX" "$GRUB_CMDLINE_LINUX_DEFAULT"')
    done = subprocess.run(["sh", "-c", "\n".join(lines)], capture_output=True, text=True, env={}, timeout=30)
    always, _, normal = done.stdout.rstrip("\n").partition("\n")
    return done.returncode, always.split(), normal.split()


@settings(max_examples=200)
@given(st.lists(SHELL_LINES, max_size=7), st.lists(SHELL_LINES, max_size=2))
def test_where_a_line_is_edited_a_shell_reads_what_was_meant_and_nothing_else_changed(
    lines: list[str], more: list[str]
) -> None:
    before = {GRUB_FILE: "\n".join([*lines, ""]), "/etc/default/grub.d/more.cfg": "\n".join([*more, ""])}
    plan = decided(INTEL_65, state(before))
    changed = [change for change in plan.files if change.path == GRUB_FILE]
    if not changed:
        return
    with TemporaryDirectory() as folder:
        code, always, normal = sourced(Path(folder), before)
        assume(code == 0)
        code, always_after, normal_after = sourced(Path(folder), {**before, GRUB_FILE: changed[0].after or ""})
    assert code == 0
    bad = {"intel_iommu=off", "iommu=off"}
    assert {"intel_iommu=on", "iommu=pt"} <= {*always_after, *normal_after}
    assert bad.isdisjoint((*always_after, *normal_after))
    assert always_after == [word for word in always if word not in bad]
    assert [word for word in normal_after if word not in ("intel_iommu=on", "iommu=pt")] == [
        word for word in normal if word not in bad
    ]
