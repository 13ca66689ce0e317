"""What a cluster answers, in our words: numbers as text, addresses in every form, refusals, and sheer nonsense."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.proxmox.discovery import discover
from provisioner.adapters.proxmox.session import ProxmoxSession
from provisioner.domain.discovery import Discovery, GuestType, MappingEntry, PassedThrough
from provisioner.errors import (
    HypervisorError,
    LoginRefusedError,
    PermissionMissingError,
    ProvisionerError,
    UnreachableError,
)

URL = "https://10.10.0.2:8006"


class Cluster:
    """Answers by path; an answer that is an error is raised. Counts what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "version": {"version": "9.1.1", "release": "9.1"},
            "access/permissions": {"/": {"Sys.Audit": 1}},
            "cluster/resources": [{"type": "node", "node": "pve1", "status": "online"}],
            "cluster/status": [{"type": "node", "name": "pve1", "ip": "10.10.0.2"}],
            "nodes/pve1/hardware/pci": [],
            "nodes/pve1/network": [],
            "nodes/pve1/dns": {},
            "cluster/mapping/pci": [],
        } | {key.replace("__", "/"): value for key, value in answers.items()}
        self.calls = 0
        self.asked: list[str] = []

    def call(self, method: str, path: str, **parameters: Any) -> Any:
        assert method == "GET"
        self.calls += 1
        self.asked.append(path)
        answer = self.answers[path]
        if isinstance(answer, ProvisionerError):
            raise answer
        return answer

    def look(self) -> Discovery:
        return discover(cast(ProxmoxSession, self), URL)


def with_guest(config: Mapping[str, Any], kind: str = "qemu", **row: Any) -> Cluster:
    rows = [
        {"type": "node", "node": "pve1", "status": "online"},
        {"type": kind, "vmid": "101", "node": "pve1", **row},
    ]
    return Cluster(cluster__resources=rows, **{f"nodes__pve1__{kind}__101__config": config})


def test_the_requests_are_counted_and_few() -> None:
    cluster = with_guest({})
    found = cluster.look()
    assert found.calls == cluster.calls == 4 + 4 + 1
    assert len(set(cluster.asked)) == len(cluster.asked)


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        ("mapping=h100,pcie=1", PassedThrough(mapping="h100")),
        ("pcie=1,mapping=h100", PassedThrough(mapping="h100")),
        ("0000:41:00,pcie=1", PassedThrough(paths=("0000:41:00",))),
        ("41:00.0", PassedThrough(paths=("0000:41:00.0",))),
        ("host=41:00.0;41:00.1,x-vga=1", PassedThrough(paths=("0000:41:00.0", "0000:41:00.1"))),
        ("00AF:41:00", PassedThrough(paths=("00af:41:00",))),
        ("pcie=1", PassedThrough()),
    ],
)
def test_devices_of_a_vm_are_read_in_every_form(value: str, passed: PassedThrough) -> None:
    (guest,) = with_guest({"hostpci0": value, "hostpcix": "not one", "name": "x"}).look().guests
    assert guest.devices == (passed,)


@pytest.mark.parametrize(
    ("kind", "config", "addresses"),
    [
        ("qemu", {"ipconfig0": "ip=10.0.0.5/24,gw=10.0.0.1", "ipconfig1": "ip=dhcp"}, ["10.0.0.5/24"]),
        ("qemu", {"ipconfig0": "ip6=auto"}, []),
        ("qemu", {"net0": "virtio=BC:24:11:00:50:01,bridge=vmbr0"}, []),
        ("lxc", {"net0": "name=eth0,bridge=vmbr0,ip=10.0.0.6/24", "net1": "name=eth1,ip=manual"}, ["10.0.0.6/24"]),
        ("lxc", {"net0": "name=eth0,ip=fd00::1/64"}, []),
        ("qemu", {"ipconfig0": "ip=300.0.0.1/24"}, []),
    ],
)
def test_addresses_that_a_configuration_fixes_are_read(kind: str, config: dict[str, str], addresses: list[str]) -> None:
    (guest,) = with_guest(config, kind).look().guests
    assert guest.addresses == tuple(map(IPv4Interface, addresses))
    assert guest.type is (GuestType.VM if kind == "qemu" else GuestType.CONTAINER)


def test_numbers_may_come_as_text_and_lists_with_any_separator() -> None:
    (guest,) = with_guest({}, name="n", template="1", tags="a;provisioner,b c").look().guests
    assert (guest.vmid, guest.is_template, guest.is_ours) == (101, True, True)
    assert guest.tags == {"a", "provisioner", "b", "c"}


def test_devices_are_read_whatever_is_missing_of_them() -> None:
    rows = [
        {"id": "0000:01:00.0", "class": "0x030000", "vendor": "0x10DE", "device": "0x2204", "iommugroup": "15"},
        {"id": "0000:02:00.0", "class": "0x030000", "iommugroup": -1, "vendor_name": "V", "device_name": "D"},
        {"id": "nonsense"},
        {},
    ]
    (server,) = Cluster(nodes__pve1__hardware__pci=rows).look().hypervisors
    assert [
        (d.address, d.class_code, d.vendor_id, d.device_id, d.name, d.iommu_group) for d in server.devices or ()
    ] == [
        ("0000:01:00.0", "0300", "10de", "2204", "", 15),
        ("0000:02:00.0", "0300", "", "", "V D", None),
    ]


def test_the_network_of_a_server_is_read() -> None:
    rows = [
        {"iface": "vmbr0", "type": "bridge", "active": 1, "cidr": "10.10.0.2/16", "gateway": "10.10.0.1"},
        {"iface": "vmbr1", "type": "OVSBridge", "active": "0"},
        {"iface": "eno1", "type": "eth", "cidr6": "fd00::2/64"},
    ]
    dns = {"dns1": "10.10.0.1", "dns2": "fd00::1", "search": "lan"}
    (server,) = Cluster(nodes__pve1__network=rows, nodes__pve1__dns=dns).look().hypervisors
    assert server.address == IPv4Address("10.10.0.2")
    assert server.nameservers == (IPv4Address("10.10.0.1"),)
    assert [(i.name, i.is_bridge, i.is_active, i.address) for i in server.interfaces or ()] == [
        ("vmbr0", True, True, IPv4Interface("10.10.0.2/16")),
        ("vmbr1", True, False, None),
        ("eno1", False, False, None),
    ]


def test_mappings_are_read_with_what_is_wrong_on_each_server() -> None:
    rows = [
        {
            "id": "big",
            "map": ["node=pve1,path=0000:01:00;0000:02:00.0,id=10de:2204", "node=pve2,path=0000:03:00"],
            "mdev": "1",
            "checks": [
                {"severity": "warning", "message": "No mapping for node pve1."},
                {"severity": "error", "message": "Invalid configuration: changed\n"},
            ],
        },
        {"id": "empty"},
    ]
    big, empty = Cluster(cluster__mapping__pci=rows).look().mappings
    assert big.entries == (
        MappingEntry("pve1", ("0000:01:00", "0000:02:00.0")),
        MappingEntry("pve2", ("0000:03:00",)),
    )
    assert (big.problems, big.is_mediated) == ({"pve1": ("Invalid configuration: changed",)}, True)
    assert empty.entries == ()


def test_a_storages_free_space_is_what_is_not_used() -> None:
    def storage(name: str, **more: Any) -> dict[str, Any]:
        return {"type": "storage", "storage": name, "node": "pve1", "status": "available", "content": "iso", **more}

    rows = [
        {"type": "node", "node": "pve1", "status": "offline"},
        storage("full", maxdisk=10, disk=11),
        storage("unknown", status="unknown", plugintype="nfs"),
        storage("half", maxdisk="100", disk="40", content="images,rootdir"),
    ]
    found = Cluster(cluster__resources=rows).look()
    assert [(s.name, s.free_bytes, s.is_available) for s in found.storages] == [
        ("full", 0, True),
        ("unknown", None, False),
        ("half", 60, True),
    ]
    assert found.storages[2].content == {"images", "rootdir"}
    assert "offline" in found.unseen[0].why


def missing(privilege: str, path: str) -> PermissionMissingError:
    return PermissionMissingError(
        f"cannot GET it: Permission check failed ({path}, {privilege})", subject="x", next_step="y"
    )


def test_a_refusal_is_noted_with_the_privilege_that_opens_it() -> None:
    found = Cluster(
        cluster__status=missing("Sys.Audit", "/"), nodes__pve1__hardware__pci=missing("Sys.Audit|Sys.Modify", "/")
    ).look()
    assert [(each.what, each.why) for each in found.unseen] == [
        ("the servers' addresses and the cluster's name", "this login lacks Sys.Audit on /"),
        ("GPUs of pve1", "this login lacks Sys.Audit or Sys.Modify on /"),
    ]
    (server,) = found.hypervisors
    assert server.devices is None
    assert server.interfaces == ()


def test_a_failure_of_one_thing_is_noted_in_proxmox_own_words() -> None:
    broken = HypervisorError("cannot GET it: disk on fire", subject="x", next_step="put it out")
    (unseen,) = Cluster(nodes__pve1__network=broken).look().unseen
    assert (unseen.why, unseen.next_step) == ("cannot GET it: disk on fire", "put it out")


@pytest.mark.parametrize(
    "end",
    [
        LoginRefusedError("cannot log in: expired", subject="x", next_step="y"),
        UnreachableError("cannot reach Proxmox: gone", subject="x", next_step="y"),
    ],
)
@pytest.mark.parametrize("path", ["version", "cluster__status", "nodes__pve1__hardware__pci", "nodes__pve1__network"])
def test_a_login_that_ends_and_a_server_that_goes_away_end_the_look(path: str, end: ProvisionerError) -> None:
    with pytest.raises(type(end)) as caught:
        Cluster(**{path: end}).look()
    assert caught.value is end


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "node", "vmid", "id", "map", "iface", "cidr", "storage", "status", "name"]), inner
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(Cluster().answers)), _json))
def test_nonsense_is_an_error_in_our_words_and_never_a_traceback(answers: dict[str, Any]) -> None:
    cluster = Cluster()
    cluster.answers |= answers
    with contextlib.suppress(HypervisorError):
        cluster.look()
