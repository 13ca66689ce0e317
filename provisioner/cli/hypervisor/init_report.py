"""What `init` says when it is done: what is there, what could not be seen, what comes next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path

import click

from provisioner.adapters.files.fleet_text import one_line
from provisioner.cli.output import print_json, print_table
from provisioner.domain.access_plan import AccessPlan
from provisioner.domain.discovery import HypervisorFound, by_next_step
from provisioner.domain.host import slot_of
from provisioner.domain.proposal import FleetProposal, GpuSlot
from provisioner.domain.quantities import GIB, size_text
from provisioner.errors import ProvisionerError
from provisioner.services.discovering import Proposed

_USUAL_FILE = Path("inventory/fleet.yml")


@dataclass(frozen=True, slots=True)
class InitReport:
    """What was proposed, where it was written (None: nowhere), and what it takes an administrator for."""

    proposed: Proposed
    path: Path | None
    privileged: AccessPlan | ProvisionerError | None = None
    """The plan, or why there is none; None when nobody who could carry it out has logged in."""
    person: str | None = None
    """Who has logged in, if it was a person."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        proposal = self.proposed.proposal
        discovery = _fields(proposal.discovery)
        return {
            "path": None if self.path is None else str(self.path),
            "text": self.proposed.text if self.path is None else None,
            "discovery": {key: value for key, value in discovery.items() if key not in ("permissions", "unseen")},
            "fleet": {
                "cluster": proposal.cluster,
                "storage": plain({"disks": proposal.disks, "images": proposal.images, "iso": proposal.iso}),
                "bridge": plain(proposal.bridge),
                "gpus": plain(proposal.gpus),
                "nodes": plain(proposal.nodes),
            },
            "notes": list(proposal.notes),
            "unseen": plain(proposal.unseen),
            "privileged_step": self.privileged.as_dict() if self.privileged is not None else None,
            "next_step": _next_step(self),
        }


def print_init_report(report: InitReport, *, as_json: bool) -> None:
    """Print the report; where nothing was written the file itself goes to stdout, and the rest to stderr."""
    if as_json:
        print_json({"result": report.as_dict()})
        return
    proposal = report.proposed.proposal
    if report.path is None:
        click.echo(report.proposed.text, nl=False)
        _say([*_warnings(proposal), *_privileged(report)], err=True)
        return
    _print_tables(proposal)
    _say(_warnings(proposal))
    click.echo(f"wrote {report.path}; its comments say what to fill in")
    _say(_privileged(report))
    click.echo(f"next: {_next_step(report)}")


def _privileged(report: InitReport) -> list[str]:
    plan = report.privileged
    if plan is None:
        return []
    if isinstance(plan, ProvisionerError):
        return [f"the privileged step is not planned: {plan.summary}", f"  next: {plan.next_step}"]
    if plan.is_empty and not plan.obstacles:
        return ["the token has its rights and the GPUs their mappings already: no privileged step is left"]
    return ["", "The privileged step, for review; nothing of it is done yet:", *str(plan).splitlines(), ""]


def _say(lines: Iterable[str], *, err: bool = False) -> None:
    for line in lines:
        click.echo(one_line(line), err=err)


def _next_step(report: InitReport) -> str | None:
    """Return the command to type next."""
    if report.path is None:
        return None
    # A file at the usual place needs no naming.
    words = ["provisioner"] if report.path == _USUAL_FILE else ["provisioner", "--fleet", str(report.path)]
    if isinstance(report.privileged, AccessPlan) and not report.privileged.is_empty:
        server = _prepared_first(report.proposed.proposal)
        words += ["prepare", server, "--only", "access", "--login", report.person or "root@pam"]
        for gpu in report.proposed.proposal.gpus:
            if gpu.hypervisor == server and _can_be_mapped(gpu):
                words += ["--gpu", f"{gpu.name}={slot_of(gpu.address)}"]
    else:
        words.append("doctor")
    return shlex.join(words)


def _prepared_first(proposal: FleetProposal) -> str:
    """Return the server to begin with: one that answers, best one with a card that can get its mapping now."""
    online = {found.name for found in proposal.discovery.hypervisors if found.is_online}
    return min(
        proposal.hypervisors, key=lambda each: (each.name not in online, not any(map(_can_be_mapped, each.gpus)))
    ).name


def _can_be_mapped(gpu: GpuSlot) -> bool:
    return not gpu.is_mapped and not gpu.is_integrated and gpu.iommu_group is not None


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


def _print_tables(proposal: FleetProposal) -> None:
    discovery = proposal.discovery
    name = f", cluster {discovery.cluster_name}" if discovery.cluster_name else ""
    _say([f"{discovery.api_url}: Proxmox VE {discovery.version}{name} ({discovery.calls} API calls)"])
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
    return lines


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
