"""The API's answers as facts: fields that come and go between versions, numbers as text, nothing as nothing."""

from __future__ import annotations

from typing import Any

import pytest

from provisioner.adapters.proxmox.host_facts import host_facts, release_of
from provisioner.domain.host import AMD_CPU, INTEL_CPU, HostMemory, PciAddress, PciFunction, Release, Source
from provisioner.planning.host import host_verdict

STATUS: dict[str, Any] = {
    "cpuinfo": {"model": "13th Gen Intel(R) Core(TM) i5-13500", "cpus": 20, "sockets": 1, "flags": "fpu vmx avx2"},
    "current-kernel": {"sysname": "Linux", "release": "6.8.12-15-pve", "version": "#1 SMP", "machine": "x86_64"},
    "boot-info": {"mode": "efi", "secureboot": 1},
    "memory": {"total": 67430285312, "free": 1000, "used": 5000, "available": 2000},
    "pveversion": "pve-manager/9.1.1/42db4a6cf33dac83",
    "uptime": 123456,
}
GPU: dict[str, Any] = {
    "id": "0000:01:00.0",
    "class": "0x030000",
    "vendor": "0x10de",
    "device": "0x2204",
    "subsystem_vendor": "0x1462",
    "subsystem_device": "0x3884",
    "vendor_name": "NVIDIA Corporation",
    "device_name": "GA102 [GeForce RTX 3090]",
    "iommugroup": 15,
}
ADDRESS = PciAddress("0000:01:00.0")


def test_a_whole_answer_is_read() -> None:
    facts = host_facts(STATUS, [GPU], None, {})
    assert (facts.cpu_vendor, facts.cpu_model) == (INTEL_CPU, "13th Gen Intel(R) Core(TM) i5-13500")
    assert facts.cpu_flags == {"fpu", "vmx", "avx2"}
    assert facts.threads == 20
    assert facts.kernel == Release(6, 8, "6.8.12-15-pve")
    assert facts.pve == Release(9, 1, "9.1.1")
    assert (facts.boot_mode, facts.is_secure_boot) == ("efi", True)
    assert facts.memory == HostMemory(67430285312, 1000, 2000)
    assert facts.memory.obtainable == 2000
    assert facts.sources == (Source.API,)
    assert facts.functions == {
        ADDRESS: PciFunction(
            ADDRESS, "0300", "NVIDIA Corporation GA102 [GeForce RTX 3090]", "10de", "2204",
            subsystem_id="1462:3884", offers_mdev=False,
        )
    }  # fmt: skip
    assert facts.groups == {ADDRESS: 15}


def test_who_drives_a_device_stays_unknown() -> None:
    verdict = host_verdict(host_facts(STATUS, [GPU], None, {}))
    assert verdict.gpus[0].is_bound_to_vfio is None
    assert verdict.problems == ("unknown_driver",)
    assert verdict.as_dict()["iommu_enabled"] is True


def test_version_8_tells_free_memory_alone() -> None:
    memory = {key: STATUS["memory"][key] for key in ("total", "free", "used")}
    facts = host_facts({**STATUS, "memory": memory}, None, None, {})
    assert facts.memory is not None
    assert facts.memory.obtainable == 1000


def test_nothing_is_known_where_nothing_may_be_asked() -> None:
    facts = host_facts({}, None, None, {"lspci": "Sys.Audit on /"})
    for name in ("functions", "groups", "cpu_vendor", "cpu_flags", "threads", "kernel", "pve", "memory", "log"):
        assert getattr(facts, name) is None, name
    assert facts.is_secure_boot is None
    assert host_verdict(facts).problems == ("unknown_iommu", "unknown_gpus")


@pytest.mark.parametrize(
    ("boot", "expected"),
    [
        ({"mode": "efi", "secureboot": 0}, False),
        ({"mode": "efi", "secureboot": "1"}, True),
        ({"mode": "legacy-bios"}, False),
        ({}, None),
    ],
)
def test_secure_boot(boot: dict[str, object], expected: bool | None) -> None:
    assert host_facts({**STATUS, "boot-info": boot}, None, None, {}).is_secure_boot is expected


def test_no_group_anywhere_means_that_the_iommu_is_off() -> None:
    facts = host_facts(STATUS, [{**GPU, "iommugroup": -1}, {**GPU, "id": "0000:01:00.1", "iommugroup": "-1"}], None, {})
    assert facts.groups == {}
    assert host_verdict(facts).is_iommu_enabled is False
    # One device without a group (an integrated one, say) is no proof.
    facts = host_facts(STATUS, [{**GPU, "iommugroup": -1}, {**GPU, "id": "0000:02:00.0"}], None, {})
    assert host_verdict(facts).is_iommu_enabled is True


@pytest.mark.parametrize("rows", [[], [{}], [{"class": "0x030000"}]])
def test_an_empty_listing_is_no_listing(rows: list[dict[str, object]]) -> None:
    facts = host_facts(STATUS, rows, None, {})
    assert facts.functions is None
    assert facts.groups is None


def test_devices_that_can_be_cut_into_slices_say_so() -> None:
    facts = host_facts(STATUS, [{**GPU, "mdev": 1, "subsystem_vendor": None}], None, {})
    assert facts.functions is not None
    assert facts.functions[ADDRESS].offers_mdev is True
    assert facts.functions[ADDRESS].subsystem_id is None


@pytest.mark.parametrize(
    ("model", "vendor"), [("AMD EPYC 7302P 16-Core Processor", AMD_CPU), ("Intel(R) Xeon(R) W-2245", INTEL_CPU)]
)
def test_whose_cpu_it_is_is_in_its_name(model: str, vendor: str) -> None:
    assert host_facts({**STATUS, "cpuinfo": {"model": model}}, None, None, {}).cpu_vendor == vendor


JOURNAL = [
    "s=cursor",
    "Nov 21 05:10:11 pve1 kernel: Command line: BOOT_IMAGE=/boot/vmlinuz-6.8.12-4-pve ro quiet pcie_acs_override=x",
    "Nov 21 05:10:11 pve1 kernel: DMAR-IR: Enabled IRQ remapping in x2apic mode",
    "Nov 21 05:10:12 pve1 systemd[1]: Started something about vfio.",
]


def test_the_journal_tells_what_the_kernel_said() -> None:
    facts = host_facts(STATUS, [GPU], JOURNAL, {})
    assert facts.command_line == "BOOT_IMAGE=/boot/vmlinuz-6.8.12-4-pve ro quiet pcie_acs_override=x"
    assert facts.log is not None
    assert facts.log.interrupt_remapping_on == "DMAR-IR: Enabled IRQ remapping in x2apic mode"
    assert "acs_override" in host_verdict(facts).problems


def test_a_journal_that_does_not_reach_back_is_not_a_silent_kernel() -> None:
    facts = host_facts(STATUS, None, ["s=cursor"], {})
    assert facts.log is None
    assert facts.command_line is None


def test_the_version_call_is_read() -> None:
    assert release_of({"version": "8.4.1", "release": "8.4", "repoid": "x"}) == Release(8, 4, "8.4.1")
    assert release_of({}) is None
