"""What `init` says when it is done: what is there, what could not be seen, what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path

import click

from provisioner.adapters.files.fleet_text import one_line
from provisioner.cli.output import print_json, print_table
from provisioner.domain.discovery import HypervisorFound, by_next_step
from provisioner.domain.proposal import FleetProposal, GpuSlot
from provisioner.domain.quantities import GIB, size_text
from provisioner.services.discovering import Proposed

_USUAL_FILE = Path("inventory/fleet.yml")


def print_init_report(proposed: Proposed, path: Path | None, *, as_json: bool) -> None:
    """Print the report; without a path the file itself goes to stdout, and what was not seen to stderr."""
    proposal = proposed.proposal
    if as_json:
        print_json({"result": report(proposed, path)})
    elif path is None:
        click.echo(proposed.text, nl=False)
        for line in _warnings(proposal):
            click.echo(line, err=True)
    else:
        _print(proposal, path)


def report(proposed: Proposed, path: Path | None) -> dict[str, object]:
    """Return the report as plain values."""
    proposal = proposed.proposal
    discovery = proposal.discovery
    return {
        "path": None if path is None else str(path),
        "text": proposed.text if path is None else None,
        "discovery": {key: value for key, value in _fields(discovery).items() if key not in ("permissions", "unseen")},
        "fleet": {
            "cluster": proposal.cluster,
            "storage": plain({"disks": proposal.disks, "images": proposal.images, "iso": proposal.iso}),
            "bridge": plain(proposal.bridge),
            "gpus": plain(proposal.gpus),
            "nodes": plain(proposal.nodes),
        },
        "notes": list(proposal.notes),
        "unseen": plain(proposal.unseen),
        "next_step": None if path is None else next_step(path),
    }


def next_step(path: Path) -> str:
    """Return the command to type next; a file at the usual place needs no naming."""
    return "provisioner doctor" if path == _USUAL_FILE else f"provisioner --fleet {shlex.quote(str(path))} doctor"


def plain(value: object) -> object:
    """Return a value as JSON knows it: entries for dataclasses, lists for collections, text for the rest."""
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (frozenset, set)):
        return sorted(str(each) for each in value)
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _fields(value: object) -> dict[str, object]:
    return {each.name: plain(getattr(value, each.name)) for each in fields(value)}  # type: ignore[arg-type]


def _print(proposal: FleetProposal, path: Path) -> None:
    discovery = proposal.discovery
    name = f", cluster {discovery.cluster_name}" if discovery.cluster_name else ""
    click.echo(f"{discovery.api_url}: Proxmox VE {discovery.version}{name} ({discovery.calls} API calls)")
    print_table(
        ("server", "state", "threads", "memory", "bridges"),
        [[_cell(cell) for cell in _server_row(each)] for each in discovery.hypervisors],
    )
    if proposal.gpus:
        print_table(
            ("gpu", "server", "address", "card", "memory", "mapping", "state"),
            [[_cell(cell) for cell in _gpu_row(each)] for each in proposal.gpus],
        )
    roles = (("disks", proposal.disks), ("images", proposal.images), ("iso", proposal.iso))
    print_table(
        ("for", "storage", "found"),
        [
            (role, _cell(choice.name), _cell("; ".join((choice.found or "not seen", *choice.notes))))
            for role, choice in roles
        ],
    )
    for line in _warnings(proposal):
        click.echo(line)
    click.echo(f"wrote {path}; its comments say what to fill in")
    click.echo(f"next: {next_step(path)}")


def _cell(text: str) -> str:
    from rich.markup import escape  # names of devices have brackets, which rich takes for markup

    return escape(one_line(text))


def _warnings(proposal: FleetProposal) -> list[str]:
    lines = [f"note: {note}" for note in proposal.notes]
    if proposal.unseen:
        lines.append("not seen, so not in the file:")
        for step, unseen in by_next_step(proposal.unseen).items():
            lines += [f"  {each.what}: {each.why}" for each in unseen]
            lines.append(f"    next: {step}")
    return [one_line(line) for line in lines]


def _server_row(found: HypervisorFound) -> tuple[str, ...]:
    bridges = [interface.name for interface in found.interfaces or () if interface.is_bridge]
    return (
        found.name,
        "online" if found.is_online else "offline",
        str(found.threads or ""),
        size_text(found.memory_bytes // GIB * GIB) if found.memory_bytes and found.memory_bytes >= GIB else "",
        ", ".join(bridges) if found.interfaces is not None else "not seen",
    )


def _gpu_row(gpu: GpuSlot) -> tuple[str, ...]:
    return (
        gpu.name,
        gpu.hypervisor,
        gpu.address,
        gpu.title,
        size_text(gpu.vram_bytes) if gpu.vram_bytes else "unknown",
        gpu.mapping if gpu.is_mapped else "to be made",
        _state(gpu),
    )


def _state(gpu: GpuSlot) -> str:
    if gpu.iommu_group is None:
        return "cannot be passed through yet"
    if gpu.used_by:
        return f"also named by VM {', '.join(map(str, gpu.used_by))}"
    return "part of the server" if gpu.is_integrated else "free"
