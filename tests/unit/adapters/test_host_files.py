"""What the script about a hypervisor's files prints, how it is read back, and what the playbook is given."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.ansible.host_variables import host_variables
from provisioner.adapters.ssh.host_boot import booted_from
from provisioner.adapters.ssh.host_files import SCRIPT, host_state, read_record, render_record
from provisioner.domain.host_files import HostState, KeptFile, PreparationRecord, Refresh, RunningGuest, sha256
from provisioner.domain.host_preparation import FileChange, Preparation
from provisioner.errors import HypervisorError


def word(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def file(path: str, content: str | bytes, owned: str = "600 root:0 root:0") -> str:
    return f"file {word(path)} {owned} {word(content)}"


def state(*lines: str) -> HostState:
    return host_state("\n".join(("boot abc", *lines, "end", "")), name="pve1", subject="hypervisor pve1")


def test_files_come_with_mode_and_owner_and_odd_ones_with_their_trouble() -> None:
    seen = state(
        file("/etc/modules", "vfio\n", "644 UNKNOWN:1001 adm:4"),
        file("/etc/empty", ""),
        file("/etc/binary", b"\xff\xfe"),
        f"odd {word('/etc/link')} {word('is a link to ../modules')}",
    )
    modules = seen.files["/etc/modules"]
    assert (modules.content, modules.mode, modules.owner, modules.group) == ("vfio\n", "0644", "1001", "adm")
    assert seen.files["/etc/empty"].content == ""
    assert (seen.files["/etc/binary"].content, seen.files["/etc/binary"].trouble) == (None, "is not UTF-8 text")
    assert (seen.files["/etc/link"].content, seen.files["/etc/link"].trouble) == (None, "is a link to ../modules")


def test_the_clusters_name_of_the_server_is_told_where_there_is_one() -> None:
    assert state(f"node {word('pve2')}").node == "pve2"
    assert state().node is None


def test_mappings_and_guests_are_those_of_this_hypervisor() -> None:
    mappings = [
        {"id": "a", "map": ["node=pve1,path=0000:01:00,id=10de:2204", "node=pve2,path=0000:09:00"]},
        {"id": "b", "map": ["node=pve1,path=0000:02:00.0;0000:02:00.1"]},
    ]
    guests = [
        {"node": "pve1", "status": "running", "vmid": 101, "name": "web", "type": "lxc"},
        {"node": "pve1", "status": "stopped", "vmid": 102, "name": "off", "type": "qemu"},
        {"node": "pve2", "status": "running", "vmid": 103, "name": "far", "type": "qemu"},
        {"node": "pve1", "status": "running", "vmid": 100, "type": "qemu"},
    ]
    seen = state(f"mappings {word(json.dumps(mappings))}", f"guests {word(json.dumps(guests))}")
    assert seen.mapped_slots == {"a": ("0000:01:00",), "b": ("0000:02:00", "0000:02:00")}
    assert seen.guests == (RunningGuest(100, ""), RunningGuest(101, "web", is_container=True))
    assert [str(guest) for guest in seen.guests] == ["VM 100 (unnamed)", "container 101 (web)"]


def test_a_proxmox_that_says_nothing_leaves_both_unknown() -> None:
    seen = state("mappings ", "guests ")
    assert seen.mapped_slots is None
    assert seen.guests is None


@pytest.mark.parametrize("printed", ["", "boot abc\n", "boot abc\nfile %%\nend\n", "end\n", "boot\nend\n"])
def test_an_answer_that_broke_off_is_no_answer(printed: str) -> None:
    with pytest.raises(HypervisorError, match="its answer broke off"):
        host_state(printed, name="pve1", subject="hypervisor pve1")


def test_a_mark_that_cannot_be_read_means_everything() -> None:
    mark = "/var/lib/provisioner/prepared/refresh-needed"
    assert state(file(mark, "update-grub\n")).refresh_needed == (Refresh.GRUB,)
    assert state(file(mark, "half a li")).refresh_needed == tuple(Refresh)
    assert state().refresh_needed == ()


SUMS = st.one_of(st.none(), st.text("0123456789abcdef", min_size=64, max_size=64))
KEPT = st.builds(
    KeptFile,
    path=st.sampled_from(["/etc/default/grub", "/etc/kernel/cmdline"]),
    before=SUMS,
    after=SUMS,
    copy=st.one_of(st.none(), st.just("/var/lib/provisioner/prepared/originals/x.1")),
    mode=st.just("0644"),
    owner=st.just("root"),
    group=st.just("root"),
    refresh=st.lists(st.sampled_from(list(Refresh)), unique=True).map(tuple),
    earlier_copies=st.lists(st.just("/y"), max_size=2).map(tuple),
)


@given(st.lists(KEPT, max_size=3).map(tuple), st.one_of(st.none(), st.just("boot-1")))
def test_a_record_is_read_as_it_was_written(files: tuple[KeptFile, ...], boot_id: str | None) -> None:
    record = PreparationRecord(files, boot_id)
    assert read_record(render_record(record), subject="x") == record


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"boot_id": null, "files": [{"path": 1}]}', '{"files": [1], "boot_id": ""}']
)
def test_a_damaged_record_says_where_the_originals_are(text: str) -> None:
    with pytest.raises(HypervisorError, match=r"record\.json is damaged") as caught:
        read_record(text, subject="x")
    assert "/var/lib/provisioner/prepared/originals" in caught.value.next_step


def test_the_script_runs_in_a_plain_shell_and_reads_this_machines_own_files(tmp_path: Path) -> None:
    """Nothing of a hypervisor is needed for it to end well."""
    done = subprocess.run(["sh", "-eu", "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("end\n"), done.stderr
    seen = host_state(done.stdout, name="pve1", subject="this machine")
    assert seen.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class _Loader(yaml.SafeLoader):
    """Reads what Ansible reads."""


_Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_reaches_the_playbook_byte_for_byte_and_is_no_template(text: str) -> None:
    change = FileChange("/etc/default/grub", None, text, "why")
    kept = KeptFile(change.path, None, sha256(text), None, "0644", "root", "root")
    given_ = host_variables(Preparation((change,), record=PreparationRecord((kept,), "b")), HostState("b"))
    read = yaml.load(given_, Loader=_Loader)
    assert read["prepared_files"][0]["content"] == text
    assert read["prepared_files"][0]["after"] == sha256(text)
    assert "content: !unsafe" in given_


BOOTS = [
    ("", ""),
    (
        "BootCurrent: 0001\nBoot0000* UEFI Shell\tFv(x)\nBoot0001* Linux Boot Manager\tHD(2,GPT)\n"
        "Partition: 11-22\nPlace: /dev/sdb2\nUuid: AAAA-BBBB\nKept: CCCC-DDDD\n",
        "the firmware booted Linux Boot Manager HD(2,GPT); systemd-boot came from /dev/sdb2 (AAAA-BBBB); "
        "proxmox-boot-tool keeps CCCC-DDDD; which is not that one",
    ),
    ("Kept: AAAA-BBBB\nMissing: AAAA-BBBB\n", "proxmox-boot-tool keeps AAAA-BBBB; of which there is no AAAA-BBBB"),
    ("Partition: 11-22\nUuid: A\nKept: A\n", "systemd-boot came from 11-22 (A); proxmox-boot-tool keeps A"),
]


@pytest.mark.parametrize(("printed", "sentence"), BOOTS)
def test_where_it_was_booted_from_is_a_sentence(printed: str, sentence: str) -> None:
    assert booted_from(printed) == sentence
