"""Reads and writes host dumps: text files that hold what a hypervisor's commands print, section by section.

Nothing is judged here. What a dump does not show becomes None in the facts;
what is no dump at all becomes an InputError.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from provisioner.adapters.files.host_dump import kernel_log, pci, texts
from provisioner.adapters.files.host_dump.sections import (
    Dump,
    encoding_of,
    lines_of,
    render_dump,
    require_size,
    split_dump,
    split_lines,
)
from provisioner.domain.host import ConfigLine, HostFacts, KernelLog, PciAddress
from provisioner.errors import InputError

__all__ = ["facts_from_dump", "read_host_dump", "render_dump", "require_new", "write_host_dump"]


def read_host_dump(path: Path) -> HostFacts:
    """Read a dump. Raises InputError when the file cannot be read, or is no dump."""
    subject = f"host dump {path}"
    try:
        with (
            path.open("rb") as file,
            io.TextIOWrapper(file, encoding=encoding_of(file.peek(4)), errors="replace") as text,
        ):
            require_size(path.stat().st_size, subject)
            dump = split_lines(lines_of(text, subject), subject, {"dmesg": kernel_log.Sieve})
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"cannot read the dump: {reason}",
            subject=subject,
            next_step="give a readable text file with sections such as `=== lspci`",
        ) from error
    return _facts(dump)


def require_new(path: Path) -> None:
    """See early that a dump could be written here. Raises InputError."""
    if os.path.lexists(path):
        raise _unwritable(path, "there is a file of that name")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(path, "its directory does not exist or cannot be written")


def write_host_dump(path: Path, sections: Mapping[str, str]) -> None:
    """Write a dump that only its owner may read.

    Raises:
        InputError: a section is unknown, the file exists or cannot be written.
    """
    text = render_dump(sections)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text.encode())
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _unwritable(path, reason) from error


def _unwritable(path: Path, reason: str) -> InputError:
    return InputError(
        f"cannot write the dump: {reason}",
        subject=f"host dump {path}",
        next_step="name a new file in a directory that can be written",
    )


def facts_from_dump(text: str, subject: str = "host dump") -> HostFacts:
    """Return the facts that a dump's text tells. Raises InputError when it has no section."""
    return _facts(split_dump(text, subject))


def _facts(dump: Dump) -> HostFacts:
    cpu = dump.lines("cpu")
    versions = dump.lines("pveversion")
    modules = dump.lines("lsmod")
    messages = _messages(dump)
    listing = dump.lines("lspci")
    groups = dump.lines("iommu_groups")
    command_line = texts.command_line(dump.lines("cmdline") or ()) or texts.logged_command_line(messages or ())
    file = dump.lines("kernel_cmdline_file")
    is_cut = dump.last == "lspci" and not dump.is_last_line_whole
    # An empty answer shows no device; one that cannot be read shows nothing.
    functions = pci.functions_from(listing, is_last_line_whole=not is_cut) if listing else {}
    return HostFacts(
        functions=None if listing is None else functions,
        groups=_groups(dump),
        group_listing=None if groups is None else pci.functions_from(groups),
        groups_are_whole=not _is_cut(dump, "iommu_groups"),
        cpu_vendor=None if cpu is None else texts.cpu_vendor(cpu),
        cpu_model=None if cpu is None else texts.cpu_model(cpu),
        command_line=command_line,
        kernel=texts.kernel_release(dump.lines("uname"), [*(versions or ()), command_line or "", *(messages or ())]),
        pve=None if versions is None else texts.pve_release(versions),
        loaded_modules=None if modules is None else texts.loaded_modules(modules) or None,
        boot_modules=_config(dump, "modules"),
        modprobe=_config(dump, "modprobe"),
        log=_log(dump, messages),
        memory_map=None if (ranges := dump.lines("iomem")) is None else texts.memory_map(ranges),
        boot_loader=None if (loader := dump.lines("bootloader")) is None else texts.boot_loader(loader),
        boot_file=None if file is None else texts.boot_file(file),
        is_secure_boot=None if (secure := dump.lines("secureboot")) is None else texts.secure_boot(secure),
        huge_pages=None if (pages := dump.lines("hugepages")) is None else texts.huge_pages(pages),
        cut_sections=dump.cut,
    )


def _groups(dump: Dump) -> Mapping[PciAddress, int] | None:
    lines = dump.lines("iommu_groups")
    groups = None if lines is None else pci.groups_from(lines)
    # "/sys/kernel/iommu_g", where a copy broke off, does not say that there are none.
    return groups or (None if dump.last == "iommu_groups" and not dump.is_last_line_whole else groups)


def _messages(dump: Dump) -> list[str] | None:
    lines = dump.lines("dmesg")
    return None if lines is None else list(kernel_log.messages(lines))


def _log(dump: Dump, messages: list[str] | None) -> KernelLog | None:
    if messages is None:
        return None
    return replace(kernel_log.log_from(messages), is_whole=not _is_cut(dump, "dmesg"))


def _is_cut(dump: Dump, name: str) -> bool:
    return name in dump.cut or (dump.last == name and not dump.is_last_line_whole)


def _config(dump: Dump, name: str) -> tuple[ConfigLine, ...] | None:
    lines = dump.lines(name)
    return None if lines is None else texts.config_lines(lines)
