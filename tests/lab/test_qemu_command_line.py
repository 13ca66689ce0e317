"""The command line and the network of a guest, decided without starting one."""

from __future__ import annotations

import itertools
import socket
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from provisioner.lab.guests.acceleration import Acceleration
from provisioner.lab.guests.base import DataDisk, GuestFailure, GuestHardware
from provisioner.lab.guests.qemu.command_line import Boot, GuestFiles, Limits, command_line
from provisioner.lab.guests.qemu.network import (
    FORWARDED_PORTS,
    GuestNetwork,
    network_of_seed,
    plan_network,
    refuse_taken_ports,
)

HARDWARE = GuestHardware(
    vmid=100,
    name="llm-gpu-01",
    cores=2,
    memory_mib=1024,
    mac="BC:24:11:00:00:01",
    disk=Path("/lab/images/100/disk.qcow2"),
    seed=Path("/lab/iso/seed.iso"),
    pci=("0000:01:00.0", "0000:02:00.0"),
    agent=True,
    config={},
)
FILES = GuestFiles(
    pid=Path("/run/100/qemu.pid"),
    monitor=Path("/run/100.qmp"),
    agent=Path("/run/100.qga"),
    serial=Path("/run/100/serial.log"),
    log=Path("/run/100/qemu.log"),
    variables=Path("/run/100/vars.fd"),
)
DIRECT = Boot(kernel=Path("/lab/bases/x.vmlinuz"), cmdline="root=/dev/nvme0n1 rw")


def line(
    hardware: GuestHardware = HARDWARE,
    *,
    boot: Boot = DIRECT,
    network: GuestNetwork | None = None,
    acceleration: Acceleration = Acceleration.TCG,
    limits: Limits | None = None,
) -> list[str]:
    limits = limits or Limits(cores=8, memory_mib=65536)
    return command_line(hardware, files=FILES, boot=boot, network=network, acceleration=acceleration, limits=limits)


def values(command: list[str], option: str) -> list[str]:
    return [after for before, after in itertools.pairwise(command) if before == option]


def test_a_guest_outlives_the_lab_and_can_be_found() -> None:
    command = line()
    assert "-daemonize" in command
    assert values(command, "-pidfile") == [str(FILES.pid)]


def test_an_image_with_a_kernel_boots_it_from_nvme() -> None:
    command = line()
    assert values(command, "-kernel") == [str(DIRECT.kernel)]
    assert values(command, "-append") == [DIRECT.cmdline]
    assert "nvme,drive=disk0,serial=root" in values(command, "-device")


def test_disks_beside_the_boot_disk_have_their_serial_numbers() -> None:
    models = DataDisk("scsi1", Path("/lab/images/100/vm-100-disk-1.qcow2"), "llm-models")
    command = line(replace(HARDWARE, more_disks=(models,)))
    assert any(f"id=data-scsi1,file={models.path}," in drive for drive in values(command, "-drive"))
    assert "scsi-hd,bus=scsihw.0,drive=data-scsi1,id=scsi1,serial=llm-models" in values(command, "-device")


def test_one_more_may_be_plugged_in_whatever_was_there_at_power_on() -> None:
    assert "virtio-scsi-pci,id=scsihw" in values(line(), "-device")


def test_an_image_without_one_boots_by_firmware_from_virtio() -> None:
    command = line(boot=Boot())
    assert "-kernel" not in command
    assert not any("pflash" in drive for drive in values(command, "-drive"))
    assert "virtio-blk-pci,drive=disk0,bootindex=1" in values(command, "-device")


def test_uefi_brings_its_code_read_only_and_its_variables_writable() -> None:
    code, variables = (d for d in values(line(boot=Boot(uefi=Path("/fw/CODE.fd"))), "-drive") if "pflash" in d)
    assert "readonly=on" in code
    assert variables == "if=pflash,unit=1,format=raw,file=/run/100/vars.fd"


def test_a_guest_reboots_as_on_real_hardware() -> None:
    assert "-no-reboot" not in line()


def test_every_handed_over_card_has_a_stand_in_on_the_bus() -> None:
    cards = [device for device in values(line(), "-device") if device.startswith("pci-testdev")]
    assert cards == ["pci-testdev,addr=0x10", "pci-testdev,addr=0x11"]


def test_the_mac_is_the_configured_one() -> None:
    assert any("mac=BC:24:11:00:00:01" in device for device in values(line(), "-device"))


def test_without_the_agent_option_there_is_no_channel() -> None:
    assert not any("guest_agent" in device for device in values(line(replace(HARDWARE, agent=False)), "-device"))
    assert any("guest_agent" in device for device in values(line(), "-device"))


def test_a_guest_gets_no_more_than_the_machine_can_give() -> None:
    greedy = replace(HARDWARE, cores=64, memory_mib=1 << 20)
    command = line(greedy, limits=Limits(cores=2, memory_mib=2048))
    assert values(command, "-smp") == ["2"]
    assert values(command, "-m") == ["2048"]


def test_kvm_passes_the_processor_through_and_emulation_does_not() -> None:
    assert values(line(acceleration=Acceleration.KVM), "-cpu") == ["host"]
    assert values(line(), "-cpu") == ["max"]
    assert all("kvm" not in part for part in line())


def test_a_comma_in_a_path_does_not_end_the_option() -> None:
    odd = replace(HARDWARE, disk=Path("/lab/a,b.qcow2"))
    assert any("file=/lab/a,,b.qcow2," in drive for drive in values(line(odd), "-drive"))


def test_the_network_is_closed_and_forwards_only_from_loopback() -> None:
    network = plan_network(IPv4Interface("10.10.90.7/24"), IPv4Address("10.10.90.1"))
    (netdev,) = values(line(network=network), "-netdev")
    assert "restrict=on" in netdev
    assert "net=10.10.90.0/24,host=10.10.90.1," in netdev
    forwards = [part for part in netdev.split(",") if part.startswith("hostfwd=")]
    assert "hostfwd=tcp:127.10.90.7:2222-10.10.90.7:22" in forwards
    assert "hostfwd=tcp:127.10.90.7:11434-10.10.90.7:11434" in forwards
    assert len(forwards) == len(FORWARDED_PORTS)
    assert all(part.startswith("hostfwd=tcp:127.") for part in forwards)


def test_without_a_static_address_nothing_is_forwarded() -> None:
    (netdev,) = values(line(network=None), "-netdev")
    assert "hostfwd" not in netdev
    assert "restrict=on" in netdev


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("10.10.90.7/24", "10.10.90.254"),
        ("10.10.90.254/24", "10.10.90.1"),
        ("10.10.90.7/24", None),
        ("10.10.90.7/24", "192.168.1.1"),
        ("10.10.90.7/32", "10.10.90.1"),
        ("10.10.90.2/30", "10.10.90.1"),
        ("172.16.5.9/16", "172.16.0.1"),
    ],
)
def test_everyone_in_a_planned_network_has_an_address_of_their_own(address: str, gateway: str | None) -> None:
    interface = IPv4Interface(address)
    planned = plan_network(interface, IPv4Address(gateway) if gateway else None)
    people = [planned.guest, planned.gateway, planned.name_server, planned.first_lease]
    assert len(set(people)) == 4
    assert all(person in planned.net for person in people)
    assert planned.guest == interface.ip
    if gateway is not None and IPv4Address(gateway) in planned.net:
        assert planned.gateway == IPv4Address(gateway)


def test_a_taken_port_is_named() -> None:
    network = plan_network(IPv4Interface("10.99.98.97/24"), None)
    refuse_taken_ports(network)
    with socket.socket() as other:
        other.bind((network.outside, 8000))
        other.listen()
        with pytest.raises(GuestFailure, match=r"127\.99\.98\.97 port 8000 "):
            refuse_taken_ports(network)


def test_an_iso_that_is_no_seed_gives_no_network(tmp_path: Path) -> None:
    iso = tmp_path / "other.iso"
    iso.write_bytes(b"\0" * 65536)
    assert network_of_seed(iso) is None
    assert network_of_seed(None) is None
