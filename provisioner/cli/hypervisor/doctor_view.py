"""What doctor shows a person: the GPUs, then findings worst first, then what is not known."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence

import click

from provisioner.cli.output import print_table
from provisioner.domain.host import HostFacts, PciAddress, Source
from provisioner.planning.doctor import DoctorReport
from provisioner.planning.host import GpuVerdict, HostVerdict
from provisioner.planning.readiness import Check, CheckStatus

# Below this the table of GPUs would fold its cells; a list reads better.
_TABLE_WIDTH = 120
_INDENT = "  "

_MAKERS = (
    ("NVIDIA Corporation", "NVIDIA"),
    ("Advanced Micro Devices, Inc. [AMD/ATI]", "AMD"),
    ("Intel Corporation", "Intel"),
)
_MARKETING_NAME = re.compile(r"\[([^\[\]]+)\]$")
_COMMAND = re.compile(r"`[^`]*`")
_HARD_SPACE = "\u00a0"
_COLOURS = {CheckStatus.FAIL: "red", CheckStatus.WARN: "yellow"}


def show_report(report: DoctorReport) -> None:
    """Show one hypervisor of the fleet."""
    asked = {Source.API: f"the API ({report.calls} calls)", Source.SSH: "the hypervisor itself"}
    sources = " and ".join(asked[source] for source in report.sources) or "nobody"
    alone = "" if Source.SSH in report.sources else " alone, which shows no drivers and no boot files"
    show_host(report.hypervisor, report.host, report.verdict, report.checks, uses=report.uses)
    passed = sum(check.status is CheckStatus.OK for check in report.checks)
    say(f"{passed} of {len(report.checks)} checks are fine (--json shows them all); asked: {sources}{alone}")


def show_host(
    name: str,
    facts: HostFacts,
    verdict: HostVerdict,
    checks: Sequence[Check],
    *,
    uses: Mapping[PciAddress, str] | None = None,
) -> None:
    """Show a hypervisor and what was found."""
    iommu = {True: "on", False: "off", None: "unknown"}[verdict.is_iommu_enabled]
    system = f"Proxmox VE {facts.pve.text}, " if facts.pve else ""
    kernel = f"kernel {facts.kernel.text}" if facts.kernel else "kernel unknown"
    cpu = facts.cpu_model or verdict.cpu_vendor or "unknown"
    say(f"{name}: {system}{kernel}, CPU {cpu}, IOMMU {iommu}", stressed=name)
    _show_gpus(verdict.gpus, uses or {})
    for status in (CheckStatus.FAIL, CheckStatus.WARN):
        for check in checks:
            if check.status is status:
                _show_finding(check)
    unknown = [check for check in checks if check.status is CheckStatus.UNKNOWN]
    _show_unknown(unknown)
    if facts.sources == (Source.DUMP,) and len(unknown) > 1:
        say(f"{_INDENT}all sections at once: `provisioner doctor HYPERVISOR --save DUMP`", indent=4)
    say(f"problems: {', '.join(verdict.problems) or 'none'}")


def _show_gpus(gpus: Sequence[GpuVerdict], uses: Mapping[PciAddress, str]) -> None:
    if not gpus:
        return
    if _width() >= _TABLE_WIDTH:
        from rich.markup import escape  # names of devices have brackets, which rich takes for markup

        columns = ("gpu", "name", "ids", "group", "shares it with", "driver", "verdict", "used as")
        rows = [(gpu.address, short_name(gpu.name), gpu.ids, *_state(gpu), uses.get(gpu.address, "")) for gpu in gpus]
        used = bool(uses)
        print_table(columns if used else columns[:-1], [[escape(c) for c in (r if used else r[:-1])] for r in rows])
        return
    for gpu in gpus:
        group, mates, driver, state = _state(gpu)
        use = f", used as {uses[gpu.address]}" if gpu.address in uses else ""
        say(f"{_INDENT}{gpu.address} {short_name(gpu.name)} ({gpu.ids}){use}", indent=4)
        shared = f", shared with {mates}" if gpu.iommu_group is not None else ""
        say(f"{_INDENT * 2}{state}: group {group}{shared}; driver {driver}", indent=6, stressed=state)
    click.echo()


def short_name(name: str) -> str:
    """Return what is printed on the box: ``NVIDIA GeForce RTX 3090`` for ``NVIDIA Corporation GA102 [GeForce ...]``."""
    for words, maker in _MAKERS:
        if name.startswith(words):
            rest = name[len(words) :].strip()
            match = _MARKETING_NAME.search(rest)
            model = match[1] if match else rest
            return model if model.startswith(maker) else f"{maker} {model}".strip()
    return name


def _state(gpu: GpuVerdict) -> tuple[str, str, str, str]:
    """Return a GPU's group, group mates, driver, and what that comes to."""
    if gpu.foreign_devices:
        verdict = "cannot go alone"
    elif gpu.has_host_driver:
        verdict = "in use by the host"
    elif gpu.is_group_clean and gpu.is_bound_to_vfio:
        verdict = "ready"
    elif gpu.is_group_clean and gpu.is_bound_to_vfio is False:
        verdict = "free"
    elif gpu.is_group_clean:
        # Who drives it is not known, and Proxmox takes it from most drivers at the VM's start.
        verdict = "can go alone"
    else:
        verdict = "unknown"
    mates = ", ".join(gpu.foreign_devices) or ("nobody" if gpu.is_group_clean else "unknown")
    driver = gpu.driver or ("none" if gpu.is_bound_to_vfio is False else "unknown")
    group = "unknown" if gpu.iommu_group is None else str(gpu.iommu_group)
    return group, mates, driver, verdict


def _show_finding(check: Check) -> None:
    label = f"[{check.status.value}]"
    say(f"{label} {check.id}: {check.found}", indent=4, stressed=label, colour=_COLOURS[check.status])
    say(f"{_INDENT}why: {check.why}", indent=7)
    say(f"{_INDENT}next: {check.next_step}", indent=8)


def _show_unknown(checks: Sequence[Check]) -> None:
    if not checks:
        return
    click.echo("not known, so neither fine nor broken:")
    by_step: dict[str, list[str]] = {}
    for check in checks:
        by_step.setdefault(check.next_step, []).append(check.id)
    for step, ids in by_step.items():
        say(f"{_INDENT}{', '.join(ids)}: {step}", indent=4)


def _width() -> int:
    if not sys.stdout.isatty():
        return 200
    from rich.console import Console

    return Console().width


def say(text: str, *, indent: int = 2, stressed: str = "", colour: str | None = None) -> None:
    """Print a paragraph: wrapped on a terminal, in one line elsewhere.

    Args:
        text: what to say. Commands in backticks are not broken: they are there to be copied.
        indent: of all lines but the first.
        stressed: the part of the first line that stands out.
        colour: of that part.
    """
    lines = [text]
    if sys.stdout.isatty():
        lead = text[: len(text) - len(text.lstrip())]
        whole = _COMMAND.sub(lambda command: command[0].replace(" ", _HARD_SPACE), text.strip())
        lines = textwrap.wrap(
            whole,
            _width(),
            initial_indent=lead,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    shown = "\n".join(lines).replace(_HARD_SPACE, " ")
    click.echo(shown.replace(stressed, click.style(stressed, fg=colour, bold=True), 1) if stressed else shown)
