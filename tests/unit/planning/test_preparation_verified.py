"""Which card is which GPU before there is a mapping, and what is verified after a preparation and after a reboot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provisioner.domain.fleet import GpuSpec, HypervisorSpec
from provisioner.domain.host_files import HostState, Refresh
from provisioner.domain.host_preparation import Preparation
from provisioner.domain.names import ClusterName, GpuName, HypervisorName, MappingId
from provisioner.planning.host.preparation import checks_after_reboot, checks_before_reboot, gpu_slots
from provisioner.planning.readiness import Check
from tests.unit.planning.preparing import (
    BY_NOUVEAU,
    BY_VFIO,
    CARD,
    GROUPS,
    IGPU,
    PORT,
    TWIN,
    applied,
    decided,
    edited,
    host,
    state,
)

OTHER = (
    "0000:03:00.0 VGA compatible controller [0300]: Advanced Micro Devices, Inc. Navi 21 [Radeon RX 6800] [1002:73bf]\n"
)


def server(*names: str) -> HypervisorSpec:
    gpus = {GpuName(name): GpuSpec(GpuName(name), MappingId(f"map-{name}")) for name in names}
    return HypervisorSpec(HypervisorName("pve1"), ClusterName("homelab"), gpus)


PLACES = [
    ("by its mapping", ["big"], CARD + TWIN, {"map-big": ("0000:02:00",)}, {}, {"big": ("0000:02:00",)}),
    ("as said, whatever is mapped", ["big"], CARD + TWIN, {"map-big": ("0000:02:00",)}, {"big": ("0000:01:00",)},
     {"big": ("0000:01:00",)}),
    ("by its name", ["rtx3090"], CARD + OTHER, None, {}, {"rtx3090": ("0000:01:00",)}),
    ("alike, by address", ["rtx3090-1", "rtx3090-2"], CARD + TWIN, {}, {},
     {"rtx3090-1": ("0000:01:00",), "rtx3090-2": ("0000:02:00",)}),
    ("the only one", ["big"], CARD, None, {}, {"big": ("0000:01:00",)}),
    ("one of two cannot be told", ["rtx3090"], CARD + TWIN, None, {}, {"rtx3090": ()}),
    ("not what another mapping holds", ["big"], CARD + TWIN, {"else": ("0000:01:00",)}, {}, {"big": ("0000:02:00",)}),
    ("nothing there", ["big"], "", {}, {}, {"big": ()}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "cards", "mapped", "said", "slots"), [row[1:] for row in PLACES], ids=[r[0] for r in PLACES]
)
def test_a_gpus_place(
    names: list[str],
    cards: str,
    mapped: dict[str, tuple[str, ...]] | None,
    said: dict[str, tuple[str, ...]],
    slots: dict[str, tuple[str, ...]],
) -> None:
    facts = host(lspci=PORT + cards)
    told = {GpuName(name): found for name, found in said.items()}
    assert gpu_slots(server(*names), facts, state(mapped_slots=mapped), told) == slots


def statuses(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.id: check.status.value for check in checks}


def done() -> tuple[HostState, Preparation]:
    plan = decided(host(), state())
    return applied(state(), plan), plan


ENTRY = "linux /boot/vmlinuz-6.5.11-8-pve root=/dev/mapper/pve-root ro quiet"


def test_what_was_written_refreshed_and_compiled_is_verified_at_once() -> None:
    seen, plan = done()
    good = replace(seen, boot_menu=(f"{ENTRY} intel_iommu=on iommu=pt", f"{ENTRY} single"))
    assert statuses(checks_before_reboot(host(), good, plan)) == {"files": "ok", "refresh": "ok", "boot_menu": "ok"}


def test_a_menu_without_the_words_a_refresh_that_is_due_and_a_file_that_changed_are_failures() -> None:
    seen, plan = done()
    bad = replace(edited(seen, "/etc/default/grub", "x"), boot_menu=(ENTRY,), refresh_needed=(Refresh.GRUB,))
    checks = checks_before_reboot(host(), bad, plan)
    assert statuses(checks) == {"files": "fail", "refresh": "fail", "boot_menu": "fail"}
    assert "update-grub" in checks[1].found
    assert "/boot/grub/grub.cfg has no entry with intel_iommu=on iommu=pt" in checks[2].found


BOOTED = {
    "lspci": PORT + IGPU + CARD + BY_VFIO,
    "cmdline": "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda ro intel_iommu=on iommu=pt",
    "iommu_groups": GROUPS,
}
WANTED = Preparation(words=("intel_iommu=on", "iommu=pt"), bound=("0000:01:00.0",))
LATER = HostState(boot_id="boot-2")

AFTER = [
    ("as it should be", {}, {}),
    ("the words did not arrive", {"cmdline": "BOOT_IMAGE=/boot/vmlinuz ro iommu=pt"}, {"command_line": "fail"}),
    ("the firmware has it off", {"iommu_groups": "", "lspci": PORT + CARD, "dmesg": "DMAR: IOMMU disabled"}, {
        "iommu": "fail", "driver_0000:01:00.0": "unknown"}),
    ("its driver was faster", {"lspci": PORT + CARD + BY_NOUVEAU}, {"driver_0000:01:00.0": "warn"}),
    ("the card is gone", {"lspci": PORT}, {"driver_0000:01:00.0": "fail"}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "troubles"), [row[1:] for row in AFTER], ids=[row[0] for row in AFTER])
def test_after_the_reboot(change: dict[str, str], troubles: dict[str, str]) -> None:
    found = checks_after_reboot(host(**{**BOOTED, **change}), LATER, WANTED, boot_id="boot-1", booted_from="sdb2")
    expected = dict.fromkeys(("rebooted", "command_line", "iommu", "driver_0000:01:00.0"), "ok") | troubles
    assert statuses(found) == expected
    assert all(check.next_step for check in found if check.status.value != "ok")


def test_a_reboot_that_did_not_happen_is_no_success() -> None:
    found = checks_after_reboot(host(**BOOTED), LATER, WANTED, boot_id="boot-2", booted_from="")
    assert statuses(found)["rebooted"] == "fail"


def test_where_it_booted_from_is_part_of_what_is_found() -> None:
    facts = host(**{**BOOTED, "cmdline": "initrd=\\EFI\\proxmox\\6.8\\initrd.img root=ZFS=a"})
    (check,) = [
        check
        for check in checks_after_reboot(
            facts, LATER, WANTED, boot_id="boot-1", booted_from="the firmware booted disk 2"
        )
        if check.id == "command_line"
    ]
    assert "the firmware booted disk 2" in check.found
    assert "proxmox-boot-tool init PARTITION" in check.next_step


def test_after_undoing_only_the_boot_itself_is_looked_at() -> None:
    assert statuses(checks_after_reboot(host(), LATER, None, boot_id="boot-1", booted_from="")) == {"rebooted": "ok"}
