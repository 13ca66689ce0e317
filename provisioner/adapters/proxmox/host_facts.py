"""What the API alone shows of a hypervisor's hardware and kernel.

Never a driver: Proxmox does not tell who drives a device. Whatever the token
may not ask for is None in the facts, with the privilege that would open it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from provisioner.adapters.files.host_dump import kernel_log, texts
from provisioner.adapters.files.host_dump.pci import full_address
from provisioner.adapters.proxmox.session import ProxmoxSession
from provisioner.domain.host import HostFacts, HostMemory, KernelLog, PciAddress, PciFunction, Release, Source
from provisioner.domain.names import HypervisorName
from provisioner.errors import PermissionMissingError
from provisioner.ports.clock import Clock

# The kernel's first messages are what is wanted. They are stamped with the time at which the journal took them
# over; the margins leave room for that and for clocks that differ.
_BEFORE_BOOT_SECONDS, _AFTER_BOOT_SECONDS = 600, 900

_HARDWARE, _STATUS, _JOURNAL = (
    ("lspci", "iommu_groups"),
    ("uname", "cpu", "pveversion", "secureboot", "memory"),
    ("dmesg", "cmdline"),
)


def read_host_facts(
    session: ProxmoxSession, clock: Clock, hypervisor: HypervisorName, *, may_read_journal: bool
) -> HostFacts:
    """Return what the API shows of a hypervisor, in two calls, and a third one where the journal may be read.

    Raises:
        HypervisorError: the hypervisor does not answer.
    """
    withheld: dict[str, str] = {}
    status: Mapping[str, Any] = {}
    devices: Sequence[Mapping[str, Any]] | None = None
    try:
        status = session.call("GET", f"nodes/{hypervisor}/status")
    except PermissionMissingError:
        withheld.update(dict.fromkeys(_STATUS, f"Sys.Audit on /nodes/{hypervisor}"))
    try:
        # By default it leaves bridges out, which belong to groups like everything else.
        devices = session.call("GET", f"nodes/{hypervisor}/hardware/pci", pci_class_blacklist="")
    except PermissionMissingError:
        withheld.update(dict.fromkeys(_HARDWARE, "Sys.Audit on /"))
    lines: Sequence[str] | None = None
    uptime = status.get("uptime")
    if may_read_journal and uptime:
        began = clock.now() - float(uptime)
        lines = session.call(
            "GET",
            f"nodes/{hypervisor}/journal",
            since=max(0, round(began - _BEFORE_BOOT_SECONDS)),
            until=round(began + _AFTER_BOOT_SECONDS),
        )
    else:
        withheld.update(dict.fromkeys(_JOURNAL, f"Sys.Syslog on /nodes/{hypervisor}"))
    return host_facts(status, devices, lines, withheld)


def host_facts(
    status: Mapping[str, Any],
    devices: Sequence[Mapping[str, Any]] | None,
    journal: Iterable[str] | None,
    withheld: Mapping[str, str],
) -> HostFacts:
    """Turn the answers into facts; pure.

    Args:
        status: of ``nodes/{node}/status``; empty when it may not be asked for.
        devices: of ``nodes/{node}/hardware/pci``.
        journal: of ``nodes/{node}/journal``, the kernel's lines among others.
        withheld: section of a dump -> the privilege that would tell it.
    """
    cpu = status.get("cpuinfo") or {}
    boot = status.get("boot-info") or {}
    model = str(cpu["model"]) if cpu.get("model") else None
    messages = None if journal is None else list(kernel_log.messages(str(line) for line in journal))
    kernel = (status.get("current-kernel") or {}).get("release")
    rows = [row for row in devices or () if row.get("id")]
    return HostFacts(
        functions={function.address: function for function in map(_function, rows)} or None,
        groups=_groups(rows),
        cpu_vendor=None if model is None else texts.cpu_vendor((f"model name: {model}",)),
        cpu_model=model,
        cpu_flags=frozenset(str(cpu["flags"]).split()) or None if cpu.get("flags") else None,
        threads=_number(cpu.get("cpus")),
        command_line=None if messages is None else texts.logged_command_line(messages),
        kernel=texts.kernel_release((str(kernel),), ()) if kernel else None,
        pve=texts.pve_release((str(status.get("pveversion", "")),)),
        log=_log(messages),
        # Without EFI there is no Secure Boot, and no field that says so.
        is_secure_boot=bool(int(boot.get("secureboot") or 0)) if boot.get("mode") else None,
        boot_mode=str(boot["mode"]) if boot.get("mode") else None,
        memory=_memory(status.get("memory") or {}),
        sources=(Source.API,),
        withheld=withheld,
    )


def release_of(version: Mapping[str, Any]) -> Release | None:
    """Return what ``GET /version`` says."""
    return texts.pve_release((f"pve-manager/{version.get('version', '')}",))


def _function(row: Mapping[str, Any]) -> PciFunction:
    maker, card = _bare(row.get("subsystem_vendor")), _bare(row.get("subsystem_device"))
    names = (str(row.get(name) or "").strip() for name in ("vendor_name", "device_name"))
    return PciFunction(
        address=full_address(str(row["id"])),
        class_code=(_bare(row.get("class")) or "")[:4] or None,
        name=" ".join(name for name in names if name),
        vendor_id=_bare(row.get("vendor")),
        device_id=_bare(row.get("device")),
        subsystem_id=f"{maker}:{card}" if maker and card else None,
        offers_mdev=bool(int(row.get("mdev") or 0)),
    )


def _groups(rows: Sequence[Mapping[str, Any]]) -> Mapping[PciAddress, int] | None:
    """Return the groups; empty, when every device is in none: the IOMMU is off."""
    numbers = {full_address(str(row["id"])): _number(row.get("iommugroup")) for row in rows}
    known = {address: number for address, number in numbers.items() if number is not None}
    return {address: number for address, number in known.items() if number >= 0} if known else None


def _log(messages: list[str] | None) -> KernelLog | None:
    # An empty answer is a journal that does not reach back so far, not a silent kernel.
    return kernel_log.log_from(messages) if messages else None


def _memory(row: Mapping[str, Any]) -> HostMemory | None:
    total = _number(row.get("total"))
    return HostMemory(total, _number(row.get("free")), _number(row.get("available"))) if total else None


def _bare(value: object) -> str | None:
    return str(value).removeprefix("0x").lower() if value else None


def _number(value: object) -> int | None:
    try:
        return None if value is None else int(str(value))
    except ValueError:
        return None
