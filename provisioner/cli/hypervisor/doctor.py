"""doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.fleet import THERE_IS_SOMETHING_TO_DO
from provisioner.cli.output import print_json, print_table

if TYPE_CHECKING:
    from provisioner.domain.host import HostFacts
    from provisioner.planning.host import GpuVerdict, HostVerdict
    from provisioner.planning.readiness import Check


@click.command(epilog="Examples: provisioner doctor pve1; provisioner doctor --from-file pve1.txt")
@click.argument("hypervisor", required=False)
@click.option(
    "--from-file",
    "dump",
    type=click.Path(path_type=Path),
    metavar="DUMP",
    help="Judge a saved dump of a hypervisor instead; needs no fleet file and no network.",
)
@json_option
@pass_session
def doctor(session: Session, hypervisor: str | None, dump: Path | None) -> None:
    """Check, through the API, that hypervisors can take the fleet's nodes. Exit code 3: something must be mended."""
    if dump is not None:
        if hypervisor is not None:
            raise click.UsageError("--from-file judges a dump; leave the hypervisor's name out")
        _judge_dump(dump, as_json=session.json)
        return
    fleet = session.fleet()
    names = [hypervisor] if hypervisor else list(fleet.spec.hypervisors)
    troubled = False
    for name in names:
        checks = fleet.hypervisor(name).doctor()
        troubled = troubled or any(check.status.value == "fail" for check in checks)
        if session.json:
            print_json({"hypervisor": name, "checks": _rows(checks)})
        else:
            click.echo(name)
            for check in checks:
                click.echo("  " + str(check).replace("\n", "\n  "))
    if troubled:
        sys.exit(THERE_IS_SOMETHING_TO_DO)


def _rows(checks: Sequence[Check]) -> list[dict[str, str]]:
    return [
        {
            "id": check.id,
            "status": check.status.value,
            "found": check.found,
            "why": check.why,
            "next_step": check.next_step,
        }
        for check in checks
    ]


def _judge_dump(dump: Path, *, as_json: bool) -> None:
    from provisioner.adapters.files.host_dump import read_host_dump
    from provisioner.planning.host import host_checks, host_verdict

    facts = read_host_dump(dump)
    verdict = host_verdict(facts)
    checks = host_checks(facts)
    has_failed = any(check.status.value == "fail" for check in checks)
    if as_json:
        print_json({**verdict.as_dict(), "checks": _rows(checks)})
    else:
        _show(dump, facts, verdict, checks)
    if verdict.problems or has_failed:
        sys.exit(THERE_IS_SOMETHING_TO_DO)


def _show(dump: Path, facts: HostFacts, verdict: HostVerdict, checks: Sequence[Check]) -> None:
    iommu = {True: "on", False: "off", None: "unknown"}[verdict.is_iommu_enabled]
    system = f"Proxmox VE {facts.pve.text}, " if facts.pve else ""
    kernel = f"kernel {facts.kernel.text}" if facts.kernel else "kernel unknown"
    click.echo(f"{dump}: {system}{kernel}, CPU {facts.cpu_model or verdict.cpu_vendor or 'unknown'}, IOMMU {iommu}")
    if verdict.gpus:
        from rich.markup import escape  # names of devices have brackets, which rich takes for markup

        columns = ("gpu", "name", "ids", "group", "shares it with", "driver", "verdict")
        print_table(columns, [[escape(cell) for cell in _gpu_row(gpu)] for gpu in verdict.gpus])
    for check in checks:
        if check.status.value in ("fail", "warn"):
            click.echo(str(check))
    unknown = [check for check in checks if check.status.value == "unknown"]
    if unknown:
        click.echo("not known, so neither fine nor broken:")
        by_step: dict[str, list[str]] = {}
        for check in unknown:
            by_step.setdefault(check.next_step, []).append(check.id)
        for step, ids in by_step.items():
            more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
            click.echo(f"  {', '.join(ids[:3])}{more}: {step}")
    click.echo(f"problems: {', '.join(verdict.problems) or 'none'}")
    if verdict.problems or any(check.status.value == "fail" for check in checks):
        click.echo(f"next: mend the above from top to bottom, dump again, then provisioner doctor --from-file {dump}")
    else:
        click.echo("next: provisioner plan")


def _gpu_row(gpu: GpuVerdict) -> tuple[str, ...]:
    if gpu.foreign_devices:
        verdict = "cannot go alone"
    elif gpu.has_host_driver:
        verdict = "in use by the host"
    elif gpu.is_group_clean and gpu.is_bound_to_vfio:
        verdict = "ready"
    elif gpu.is_group_clean and gpu.is_bound_to_vfio is False:
        verdict = "free"
    else:
        verdict = "unknown"
    mates = ", ".join(gpu.foreign_devices) or {True: "nobody", None: "unknown"}.get(gpu.is_group_clean, "unknown")
    driver = gpu.driver or ("none" if gpu.is_bound_to_vfio is False else "unknown")
    group = "unknown" if gpu.iommu_group is None else str(gpu.iommu_group)
    return (gpu.address, gpu.name, gpu.ids, group, mates, driver, verdict)
