"""What a VM's notes and a node's name say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.conventions import conventional_address, conventional_vmid, mac_address
from provisioner.domain.names import NodeName, Vmid
from provisioner.domain.notes import NodeNotes, Serving, noted_address, noted_node, read_notes, write_notes

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ+/=="


@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x0b\x0c\x85\u2028\u2029\x1c\x1d\x1e"))
)
def test_our_lines_are_read_back_whatever_stands_around_them(text: str) -> None:
    notes = NodeNotes(KEY, seed_is_sealed=True)
    written = write_notes(text, "llm-gpu-01", notes)
    assert read_notes(written) == notes
    assert write_notes(written, "llm-gpu-01", notes) == written


@pytest.mark.parametrize("image", [None, "ubuntu-24.04", "debian-13.2"])
@pytest.mark.parametrize("serving", [None, Serving("Qwen/Qwen2.5-7B-Instruct-AWQ", "http://10.10.90.1:8000/v1")])
def test_what_a_node_is_made_from_and_serves_is_read_back(image: str | None, serving: Serving | None) -> None:
    notes = NodeNotes(KEY, seed_is_sealed=False, image=image, serving=serving)
    written = write_notes("Ask Ada.\n", "llm-gpu-01", notes)
    assert read_notes(written) == notes
    assert noted_node(written) == "llm-gpu-01"
    assert noted_address(written) == ("10.10.90.1" if serving else None)
    assert "Ask Ada." in written


def test_a_damaged_key_reads_as_absent() -> None:
    assert read_notes("ssh-host-key: ssh-ed25519 AAAA$(reboot)\n").host_key is None


def test_notes_of_others_say_nothing() -> None:
    assert read_notes("my nextcloud") == NodeNotes(None, seed_is_sealed=False)


@pytest.mark.parametrize(
    ("name", "vmid", "address"),
    [
        ("llm-gpu-01", 5001, "10.10.90.1/16"),
        ("llm-gpu-12", 5012, "10.10.90.12/16"),
        ("llm-cpu-01", 5101, "10.10.90.101/16"),
        ("llm-gpu-00", None, "None"),
        ("llm-gpu-1", None, "None"),
        ("atlas", None, "None"),
    ],
)
def test_a_conventional_name_implies_vmid_and_address(name: str, vmid: int | None, address: str) -> None:
    assert conventional_vmid(NodeName(name)) == vmid
    assert str(conventional_address(NodeName(name))) == address


def test_mac_addresses_differ_by_vmid_and_keep_proxmoxs_prefix() -> None:
    assert mac_address(Vmid(5001)) == "BC:24:11:00:13:89"
    assert len({mac_address(Vmid(vmid)) for vmid in range(100, 6000)}) == 5900
