"""Proxmox's options read into values that compare, and written without touching the rest."""

from __future__ import annotations

import pytest

from provisioner.adapters.proxmox.property_strings import joined, network_parts, parts_of
from provisioner.adapters.proxmox.vm_config import both_configs, create_parameters, read_config
from provisioner.adapters.proxmox.vm_traits import change_settings, is_as_asked, passed_devices, traits_of
from provisioner.domain.actions import VmChange
from provisioner.domain.names import MappingId, NodeName, StorageName, Vmid
from provisioner.domain.quantities import GIB
from provisioner.domain.vm_traits import Trait, VmShape, wanted_traits

CARD, OTHER = MappingId("rtx3090"), MappingId("rtx3060")
SHAPE = VmShape(
    vmid=Vmid(5001),
    name=NodeName("llm-gpu-01"),
    cores=12,
    memory_bytes=48 * GIB,
    disk_storage=StorageName("local-lvm"),
    image_storage=StorageName("local"),
    image_volume="image.qcow2",
    iso_storage=StorageName("local"),
    seed_volume="seed.iso",
    bridge="vmbr0",
    mac="BC:24:11:00:13:89",
    gpu_mappings=(CARD,),
)
EVERYTHING = VmChange(SHAPE, frozenset(Trait), notes="notes", known_gpus=frozenset({CARD, OTHER}))


def applied(options: dict[str, object], change: VmChange) -> dict[str, object]:
    settings, deleted = change_settings(options, change)
    return {key: value for key, value in {**options, **settings}.items() if key not in deleted}


STARTS: list[dict[str, object]] = [
    {},
    {"name": "x", "memory": "512", "sockets": 2, "cores": 4, "cpu": "kvm64,flags=+aes", "balloon": 256},
    {"hostpci0": "0000:03:00,pcie=1", "hostpci1": f"mapping={OTHER}", "hostpci7": "mapping=capture,pcie=1"},
    {"machine": "type=pc-i440fx-9.0,viommu=virtio", "vga": "qxl,memory=64", "agent": "0,type=isa", "numa": "1"},
    {"net0": "e1000=AA:BB:CC:DD:EE:FF,bridge=vmbr9,firewall=1,tag=7", "tags": "Zoo zebra", "boot": "cdn"},
    {"scsi0": "local-lvm:vm-5001-disk-0,cache=writeback,discard=ignore,size=3G", "efidisk0": "x:y,efitype=2m"},
]


@pytest.mark.parametrize("options", STARTS, ids=lambda options: " ".join(options) or "nothing")
def test_writing_every_trait_makes_the_wanted_vm_of_any(options: dict[str, object]) -> None:
    after = applied(options, EVERYTHING)
    wanted = wanted_traits(SHAPE) | ({Trait.DISK_OPTIONS: traits_of(after)[Trait.DISK_OPTIONS]})
    seen = traits_of(after)
    assert {trait: seen[trait] for trait in seen if trait in wanted and trait is not Trait.TAGS} == {
        trait: wanted[trait] for trait in seen if trait in wanted and trait is not Trait.TAGS
    }
    assert "provisioner" in seen[Trait.TAGS]
    assert [device.mapping for device in passed_devices(after) if device.mapping in EVERYTHING.known_gpus] == [CARD]
    assert is_as_asked(after, EVERYTHING)
    # A second time changes nothing, but for the firmware's variables, which are a new disk each time.
    again = applied(after, EVERYTHING)
    assert again == after


KEPT = [
    ({"net0": "virtio=AA:BB:CC:DD:EE:FF,bridge=vmbr9,firewall=1,tag=7"}, Trait.NETWORK, "firewall=1,tag=7"),
    ({"scsi0": "a:b,cache=writeback,size=3G"}, Trait.DISK_OPTIONS, "cache=writeback,size=3G"),
    ({"cpu": "kvm64,flags=+aes"}, Trait.CPU, "flags=+aes"),
    ({"agent": "0,fstrim_cloned_disks=1"}, Trait.AGENT, "fstrim_cloned_disks=1"),
    ({"machine": "pc,viommu=virtio"}, Trait.MACHINE, "viommu=virtio"),
    ({"boot": "order=net0;scsi0;ide2"}, Trait.BOOT_DEVICE, "order=scsi0;net0;ide2"),
    ({"tags": "ada;zoo"}, Trait.TAGS, "ada;provisioner;zoo"),
    ({"hostpci0": f"mapping={CARD},rombar=0"}, Trait.GPUS, "rombar=0,pcie=1"),
]


@pytest.mark.parametrize(("options", "trait", "kept"), KEPT, ids=lambda value: str(value))
def test_what_a_person_set_beside_ours_stays(options: dict[str, object], trait: Trait, kept: str) -> None:
    settings, deleted = change_settings(
        options, VmChange(SHAPE, frozenset({trait}), known_gpus=frozenset({CARD, OTHER}))
    )
    assert set(settings) == set(options)
    assert deleted == ()
    assert kept in str(next(iter(settings.values())))


ALIKE = [
    (Trait.CPU, [{"cpu": "host"}, {"cpu": "cputype=host"}, {"cpu": "flags=+aes,cputype=host"}]),
    (Trait.MEMORY, [{"memory": 49152}, {"memory": "49152"}, {"memory": "current=49152"}]),
    (Trait.CORES, [{"cores": 12}, {"cores": "12", "sockets": "1"}]),
    (Trait.MACHINE, [{"machine": "q35"}, {"machine": "type=q35"}, {"machine": "pc-q35-9.2+pve1"}]),
    (Trait.AGENT, [{"agent": "1"}, {"agent": "enabled=1"}, {"agent": 1}, {"agent": "enabled=on,type=virtio"}]),
    (Trait.NUMA, [{}, {"numa": 0}, {"numa": "0"}]),
    (Trait.DISPLAY, [{"vga": "none"}, {"vga": "serial0"}, {"vga": "type=serial0"}]),
    (Trait.NETWORK, [{"net0": "virtio=bc:24:11:00:13:89,bridge=vmbr0"},
                     {"net0": "bridge=vmbr0,macaddr=BC:24:11:00:13:89,model=virtio,tag=7"}]),
    (Trait.SECURE_BOOT, [{"efidisk0": "a:b,efitype=4m,size=4M"},
                         {"efidisk0": "size=4M,efitype=4m,pre-enrolled-keys=0,file=a:b,ms-cert=2023"}]),
    (Trait.TAGS, [{"tags": "a;provisioner"}, {"tags": "provisioner, A"}, {"tags": "provisioner a,,a"}]),
    (Trait.DISK_OPTIONS, [{"scsi0": "a:b,discard=on,iothread=1,ssd=1"},
                          {"scsi0": "ssd=1,iothread=on,file=a:b,discard=on"}]),
]  # fmt: skip


@pytest.mark.parametrize(("trait", "ways"), ALIKE, ids=[row[0].value for row in ALIKE])
def test_one_value_has_many_spellings(trait: Trait, ways: list[dict[str, object]]) -> None:
    assert len({traits_of(options)[trait] for options in ways}) == 1


def test_a_new_vms_parameters_read_back_as_what_was_wanted() -> None:
    options = {key: value for key, value in create_parameters(SHAPE, "notes").items() if key != "vmid"}
    seen, wanted = traits_of(options), wanted_traits(SHAPE)
    assert {trait: seen[trait] for trait in seen if trait in wanted} == {
        trait: value for trait, value in wanted.items() if trait is not Trait.GPUS
    }


def test_what_waits_is_told_from_what_runs() -> None:
    rows = [
        {"key": "digest", "value": "abc"},
        {"key": "cores", "value": "8", "pending": 12},
        {"key": "memory", "value": "4096"},
        {"key": "hostpci0", "value": f"mapping={CARD}", "delete": 1},
        {"key": "hostpci1", "pending": f"mapping={OTHER},pcie=1"},
        {"key": "scsi0", "value": "local-lvm:vm-5001-disk-0,size=3584M"},
        {"key": "ide2", "value": "local:iso/a-5001-seed.iso,media=cdrom,size=376K"},
    ]
    now, settled = both_configs(rows)
    assert "hostpci0" in now
    assert "hostpci0" not in settled
    config = read_config(rows)
    assert [str(drift) for drift in config.waiting] == ["cores 8 → 12"]
    assert [str(device) for device in config.running_devices] == [f"{CARD} (not PCIe)"]
    assert [str(device) for device in config.devices] == [str(OTHER)]
    assert config.disk_bytes == 3584 << 20
    assert config.seed == ("local", "a-5001-seed.iso")
    assert config.digest == "abc"


@pytest.mark.parametrize("drive", ["none,media=cdrom", "local-lvm:vm-5001-cloudinit,media=cdrom", ""])
def test_a_drive_without_an_iso_holds_no_seed(drive: str) -> None:
    assert read_config([{"key": "ide2", "value": drive}]).seed is None


def test_property_strings_are_taken_apart_and_put_together() -> None:
    assert parts_of("host,flags=+aes", "cputype") == {"cputype": "host", "flags": "+aes"}
    assert joined({"flags": "+aes", "cputype": "host"}, "cputype") == "host,flags=+aes"
    assert parts_of(None, "file") == {}
    assert network_parts("virtio,bridge=vmbr0") == {"model": "virtio", "bridge": "vmbr0"}
