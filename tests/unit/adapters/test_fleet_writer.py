"""The written fleet file: it loads as it is, whatever the cluster calls things; it is put into place whole or not."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.adapters.files import fleet_writer
from provisioner.adapters.files.fleet_file import FleetFileError
from provisioner.adapters.files.fleet_text import fleet_text, one_line, scalar
from provisioner.domain.discovery import (
    Discovery,
    GuestFound,
    GuestType,
    HypervisorFound,
    Interface,
    MappingEntry,
    MappingFound,
    PassedThrough,
    PciDevice,
    StorageFound,
    Unseen,
)
from provisioner.domain.fleet import SecretReference, SecretSource, TlsTrust
from provisioner.domain.host import PciAddress
from provisioner.domain.name_rules import HYPERVISOR, fits
from provisioner.domain.names import GpuName, HypervisorName, NodeName
from provisioner.domain.proposal import TokenChoice
from provisioner.domain.quantities import GIB
from provisioner.errors import HypervisorError, InputError
from provisioner.planning.proposal import propose_fleet
from tests.discoveries import TOKEN, WRITER, card, cluster, loaded, mapping, proposed, server, text_of, vm, with_offers

FINGERPRINT = ":".join(["AB"] * 32)


def test_the_file_loads_as_it_is_with_every_gpu_and_no_node() -> None:
    found = cluster(server(devices=(*card(1), *card(2))), mappings=(mapping("rtx3090", "0000:01:00"),))
    fleet = loaded(text_of(found))
    gpus = fleet.hypervisors[HypervisorName("pve1")].gpus
    assert {name: gpu.vram_bytes for name, gpu in gpus.items()} == {"rtx3090": 24 * GIB, "rtx3090-2": 24 * GIB}
    assert (dict(fleet.modes), dict(fleet.nodes)) == ({}, {})


def test_every_offer_taken_makes_a_fleet_with_a_node_for_each_card() -> None:
    windows = vm(200, "Gaming PC", "0000:02:00")
    found = cluster(server(devices=(*card(1), *card(2))), guests=(windows,))
    fleet = with_offers(text_of(found))
    assert list(fleet.nodes) == ["llm-gpu-01", "llm-gpu-02", "llm-cpu-01", "gaming-pc"]
    node = fleet.nodes[NodeName("llm-gpu-01")]
    assert (node.vmid, str(node.address), node.gpus) == (5001, "10.10.90.1/16", (GpuName("rtx3090"),))
    assert (node.gateway, node.nameservers) == (IPv4Address("10.10.0.1"), (IPv4Address("10.10.0.1"),))
    assert (node.cores, node.memory_bytes, node.disk_bytes) == (12, 48 * GIB, 200 * GIB)
    assert fleet.nodes[NodeName("gaming-pc")].adopt


def test_how_the_cluster_is_reached_stands_in_the_file_and_no_secret() -> None:
    secret = SecretReference(SecretSource.FILE, "tokens/fleet")
    found = propose_fleet(cluster(server()), TokenChoice("it's@pve!no", secret), TlsTrust(fingerprint=FINGERPRINT))
    (spec,) = loaded(fleet_text(found)).clusters.values()
    assert (spec.token_id, spec.tls.fingerprint) == ("it's@pve!no", FINGERPRINT)
    # Relative on the command line is relative to where one stands, not to where the file will lie.
    assert spec.token_secret.name == str(Path("tokens/fleet").absolute())


def test_a_ca_file_and_a_home_folder_keep_their_meaning(tmp_path: Path) -> None:
    secret = SecretReference(SecretSource.FILE, "~/fleet.token")
    found = propose_fleet(cluster(server()), replace(TOKEN, secret=secret), TlsTrust(ca_file=Path("ca.pem")))
    (spec,) = loaded(fleet_text(found)).clusters.values()
    assert spec.tls.ca_file == Path("ca.pem").absolute()
    assert spec.token_secret.name == str(Path("~/fleet.token").expanduser())


ODD_NAMES = ["no", "ON", "1e3", "0x10", "007", "null", "y", "1-1", "123", "e1", "NaN"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(name: str) -> None:
    found = replace(
        cluster(server(name, devices=card(1))),
        storages=(StorageFound("no.1", name, "dir", frozenset({"iso", "import", "images"}), True),),
        cluster_name=name,
    )
    fleet = loaded(text_of(found))
    assert list(fleet.hypervisors) == [name]
    assert list(fleet.clusters) == [name]
    assert {each.storage.disks for each in fleet.clusters.values()} == {"no.1"}


NASTY = [
    "a: b # c",
    "'quoted\" \\ name'",
    "line\nnext: entry",
    "next\u2028line: 1\x85more: 2",
    "\x1b[31mred\x1b[0m \x00 bell\x07",
    "{flow: [1, 2",
    "gpu \ud800 lone",
    "名前 & *anchor !tag %dir",
    "- list",
    "x" * 5000,
    "\ufeffbom \ufffe",
]  # fmt: skip


@pytest.mark.parametrize("words", NASTY)
def test_words_from_outside_stay_in_their_comment(words: str) -> None:
    device = replace(card(1)[0], name=words)
    found = replace(
        cluster(server(devices=(device,)), guests=(vm(200, words, "0000:01:00"),)),
        version=words,
        unseen=(Unseen(words, words, words),),
    )
    fleet = loaded(text_of(found))
    assert list(fleet.hypervisors) == ["pve1"]
    with_offers(text_of(found))


@given(st.text())
def test_a_scalar_is_read_back_as_the_text_it_was(text: str) -> None:
    printable = text.encode("utf-8", "replace").decode()
    assert yaml.safe_load(f"key: {scalar(text)}") == {"key": printable}
    assert yaml.safe_load(f"{{key: [{scalar(text)}]}}") == {"key": [printable]}


@given(st.text())
def test_a_comment_is_one_line_that_no_reader_minds(text: str) -> None:
    assert yaml.safe_load(f"# {one_line(text)}\nkey: 1") == {"key": 1}


# Anything that Proxmox could answer, and much that it could not.
_words = st.text(max_size=12) | st.sampled_from([*ODD_NAMES, *NASTY[:-2], "pve1", "local", "vmbr0", "llm-gpu-01"])
_ips = st.integers(0, 2**32 - 1).map(IPv4Address)
_interfaces_of = st.builds(lambda ip, prefix: IPv4Interface(f"{ip}/{prefix}"), _ips, st.integers(0, 32))
_addresses = st.builds(
    lambda bus, slot, function: PciAddress(f"0000:{bus:02x}:{slot:02x}.{function}"),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 3),
)
_paths = _addresses.map(lambda address: address[:-2]) | _addresses | _words
_cards = _addresses.map(lambda address: (address[:-2],))
_servers = st.sampled_from(["pve1", "pve2", "no", "PVE-3"]) | _words
_sizes = st.none() | st.integers(0, 2**50)


def _unique(devices: list[PciDevice]) -> tuple[PciDevice, ...]:
    return tuple({device.address: device for device in devices}.values())


_devices = st.lists(
    st.builds(
        PciDevice,
        address=_addresses,
        class_code=st.sampled_from(["0300", "0302", "0403", "0604", "0200", ""]),
        vendor_id=st.sampled_from(["10de", "1002", "8086", "1a03", ""]),
        device_id=st.sampled_from(["2204", "2684", "ffff", ""]),
        name=_words | st.sampled_from(["GA102 [GeForce RTX 3090]", "A100 80GB", "0GB"]),
        iommu_group=st.none() | st.integers(0, 5),
    ),
    max_size=8,
).map(_unique)
_discoveries = st.builds(
    Discovery,
    api_url=st.just("https://10.10.0.2:8006"),
    version=_words | st.sampled_from(["8.4.1", "9.1.1"]),
    cluster_name=st.none() | _words,
    hypervisors=st.lists(
        st.builds(
            HypervisorFound,
            name=_servers,
            is_online=st.booleans(),
            address=st.none() | _ips,
            threads=_sizes,
            memory_bytes=_sizes,
            devices=st.none() | _devices,
            interfaces=st.none()
            | st.lists(
                st.builds(
                    Interface,
                    name=st.sampled_from(["vmbr0", "vmbr1", "no", "br.1"]) | _words,
                    is_bridge=st.booleans(),
                    is_active=st.booleans(),
                    address=st.none() | _interfaces_of,
                    gateway=st.none() | _ips,
                ),
                max_size=3,
            ).map(tuple),
            nameservers=st.lists(_ips, max_size=2).map(tuple),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda each: each.name,
    ).map(tuple),
    storages=st.lists(
        st.builds(
            StorageFound,
            name=st.sampled_from(["local", "local-lvm", "no", "nas.1"]) | _words,
            hypervisor=_servers,
            kind=st.sampled_from(["dir", "lvmthin", "zfspool", "nfs", "unknown"]) | _words,
            content=st.frozensets(st.sampled_from(["images", "iso", "import", "backup"])),
            is_available=st.booleans(),
            free_bytes=_sizes,
        ),
        max_size=5,
    ).map(tuple),
    mappings=st.lists(
        st.builds(
            MappingFound,
            name=st.sampled_from(["rtx3090", "no", "a1", "x"]) | _words,
            entries=st.lists(
                st.builds(MappingEntry, hypervisor=_servers, paths=st.lists(_paths, max_size=2).map(tuple))
                | st.builds(MappingEntry, hypervisor=st.just("pve1"), paths=_cards),
                max_size=4,
            ).map(tuple),
            problems=st.dictionaries(_servers, st.lists(_words, max_size=1).map(tuple), max_size=1),
            is_mediated=st.booleans(),
        ),
        max_size=4,
        unique_by=lambda each: each.name,
    ).map(tuple),
    guests=st.lists(
        st.builds(
            GuestFound,
            vmid=st.integers(100, 999_999_999) | st.integers(5000, 5004),
            name=_words,
            hypervisor=_servers,
            type=st.sampled_from(GuestType),
            is_template=st.booleans(),
            tags=st.frozensets(st.sampled_from(["provisioner", "other"])),
            devices=st.lists(
                st.builds(PassedThrough, mapping=st.none() | st.sampled_from(["rtx3090", "no"]) | _words)
                | st.builds(PassedThrough, paths=st.lists(_paths, max_size=2).map(tuple)),
                max_size=2,
            ).map(tuple),
            addresses=st.lists(_interfaces_of, max_size=2).map(tuple),
        ),
        max_size=5,
        unique_by=lambda each: each.vmid,
    ).map(tuple),
    permissions=st.just({}),
    unseen=st.lists(st.builds(Unseen, _words, _words, _words), max_size=2).map(tuple),
)


@settings(max_examples=300)
@given(_discoveries)
def test_whatever_a_cluster_shows_the_file_loads_and_every_card_has_its_slot(found: Discovery) -> None:
    named = {each.name for each in found.hypervisors if fits(HYPERVISOR, each.name)}
    if not named:
        with pytest.raises(HypervisorError):
            proposed(found)
        return
    proposal = proposed(found)
    text = fleet_text(proposal)
    fleet = loaded(text)
    assert set(fleet.hypervisors) == named
    slots = {(gpu.hypervisor, gpu.name) for gpu in proposal.gpus if not gpu.is_integrated}
    assert {(server.name, gpu) for server in fleet.hypervisors.values() for gpu in server.gpus} == slots
    given_out = [node.address.ip for node in proposal.nodes if node.address is not None and not node.is_adopted]
    assert len(set(given_out)) == len(given_out)
    assert len({node.vmid for node in proposal.nodes}) == len(proposal.nodes)
    assert len({node.name for node in proposal.nodes}) == len(proposal.nodes)


def test_a_pools_cards_share_its_mapping_in_the_file() -> None:
    pool = mapping("pool", "0000:01:00", "0000:02:00")
    (spec,) = loaded(text_of(cluster(server(devices=(*card(1), *card(2))), mappings=(pool,)))).hypervisors.values()
    assert [(gpu.name, gpu.mapping, gpu.pool) for gpu in spec.gpus.values()] == [
        ("rtx3090", "pool", True),
        ("rtx3090-2", "pool", True),
    ]


def draft_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_is_placed_with_its_folders_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "fleet.yml"
    fleet = WRITER.write(text_of(cluster(server(devices=card(1)))), path)
    assert fleet.path == path
    assert draft_names(path.parent) == ["fleet.yml"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text("mine")
    for act in (lambda: WRITER.require_absent(path), lambda: WRITER.write(text_of(cluster(server())), path)):
        with pytest.raises(InputError, match="there is one already") as caught:
            act()
        assert "--output" in caught.value.next_step
    assert path.read_text() == "mine"
    assert draft_names(tmp_path) == ["fleet.yml"]


def test_a_dangling_link_is_something_too(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is one already"):
        WRITER.write(text_of(cluster(server())), path)


def test_a_file_made_in_the_last_moment_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fleet.yml"
    load = fleet_writer.load_fleet

    def somebody_else_is_quicker(draft: Path, **keywords: Any) -> Any:
        path.write_text("theirs")
        return load(draft, **keywords)

    monkeypatch.setattr(fleet_writer, "load_fleet", somebody_else_is_quicker)
    with pytest.raises(InputError, match="there is one already"):
        WRITER.write(text_of(cluster(server())), path)
    assert path.read_text() == "theirs"
    assert draft_names(tmp_path) == ["fleet.yml"]


def test_without_hard_links_it_is_placed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    WRITER.write(text_of(cluster(server())), tmp_path / "fleet.yml")
    assert draft_names(tmp_path) == ["fleet.yml"]
    with pytest.raises(InputError, match="there is one already"):
        WRITER.write(text_of(cluster(server())), tmp_path / "fleet.yml")


@pytest.mark.parametrize("broken", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_ends_the_work_early_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: BaseException | type[BaseException]
) -> None:
    def break_off(draft: Path, path: Path) -> None:
        assert draft.exists()
        raise broken

    monkeypatch.setattr(fleet_writer, "_place", break_off)
    with pytest.raises((KeyboardInterrupt, InputError)):
        WRITER.write(text_of(cluster(server())), tmp_path / "a" / "b" / "fleet.yml")
    assert draft_names(tmp_path) == []


def test_a_text_that_does_not_load_is_not_placed(tmp_path: Path) -> None:
    with pytest.raises(FleetFileError):
        WRITER.write("clusters: {}\n", tmp_path / "new" / "fleet.yml")
    assert draft_names(tmp_path) == []


def test_a_place_that_cannot_be_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the fleet file"):
        WRITER.write(text_of(cluster(server())), tmp_path / "file" / "fleet.yml")
