"""doctor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.fleet import THERE_IS_SOMETHING_TO_DO
from provisioner.cli.output import print_error, print_json

if TYPE_CHECKING:
    from provisioner.errors import ProvisionerError


@click.command(
    short_help="Check that hypervisors can take the fleet's nodes.",
    epilog="Examples: provisioner doctor pve1; provisioner doctor pve1 --save pve1.txt; "
    "provisioner doctor --from-file pve1.txt",
)
@click.argument("hypervisor", required=False)
@click.option(
    "--from-file",
    "dump",
    type=click.Path(path_type=Path),
    metavar="DUMP",
    help="Judge a saved dump of a hypervisor instead; needs no fleet file and no network.",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="DUMP",
    help="Log in to the hypervisor and save what it says, in a new file; then judge it.",
)
@json_option
@pass_session
def doctor(session: Session, hypervisor: str | None, dump: Path | None, save: Path | None) -> None:
    """Check that hypervisors can take the fleet's nodes: rights, storages, GPU mappings, memory, passthrough.

    Asks the API and, where the fleet file gives a hypervisor `ssh`, the hypervisor itself. Exit code 3: something
    must be mended.
    """
    if dump is not None:
        if hypervisor is not None:
            raise click.UsageError("--from-file judges a dump; leave the hypervisor's name out")
        if save is not None:
            raise click.UsageError("--from-file judges a dump, --save makes one; use one of them")
        _judge_dump(dump, as_json=session.json)
        return
    _examine(session, hypervisor, save)


def _examine(session: Session, hypervisor: str | None, save: Path | None) -> None:
    from provisioner.errors import ProvisionerError

    fleet = session.fleet()
    names = [hypervisor] if hypervisor else list(fleet.spec.hypervisors)
    if save is not None and len(names) > 1:
        raise click.UsageError(f"--save makes one dump; name one of {', '.join(names)}")
    found = fleet.doctor(names, save=save)
    is_troubled = has_failed = False
    prepare: str | None = None
    for at, (name, report) in enumerate(found.items()):
        if isinstance(report, ProvisionerError):
            if len(found) == 1:
                raise report
            _print_failure(name, report, as_json=session.json)
            has_failed = True
            continue
        is_troubled = is_troubled or report.must_be_mended
        prepare = prepare or (name if report.can_be_prepared else None)
        if session.json:
            print_json(report.as_dict())
        else:
            from provisioner.cli.hypervisor.doctor_view import show_report

            if at:
                click.echo()
            show_report(report)
        if save is not None:
            is_saved = save.exists()  # there was no such file before, or this would have been refused
            has_failed = has_failed or not is_saved
            click.echo(f"saved: {save}" if is_saved else f"error: no dump was saved: {name} did not answer", err=True)
    if not session.json:
        from provisioner.cli.hypervisor.doctor_view import say

        mend = "mend the above from top to bottom, then run `provisioner doctor` again"
        if prepare is not None:
            mend += f"; `provisioner prepare {prepare}` shows what it would mend of it, and asks first"
        say(f"next: {mend if is_troubled or has_failed else 'provisioner plan'}")
    if has_failed:
        sys.exit(1)
    if is_troubled:
        sys.exit(THERE_IS_SOMETHING_TO_DO)


def _print_failure(name: str, error: ProvisionerError, *, as_json: bool) -> None:
    if as_json:
        print_json({"hypervisor": name, **error.as_dict()})
    print_error(error, as_json=False)


def _judge_dump(dump: Path, *, as_json: bool) -> None:
    from provisioner.adapters.files.host_dump import read_host_dump
    from provisioner.planning.host import host_checks, host_verdict

    facts = read_host_dump(dump)
    verdict = host_verdict(facts)
    checks = host_checks(facts)
    has_failed = any(check.status.value == "fail" for check in checks)
    is_troubled = bool(verdict.problems) or has_failed
    if as_json:
        print_json({**verdict.as_dict(), "checks": [check.as_dict() for check in checks]})
    else:
        from provisioner.cli.hypervisor.doctor_view import say, show_host

        show_host(str(dump), facts, verdict, checks)
        again = f"mend the above from top to bottom, dump again, then `provisioner doctor --from-file {dump}`"
        say(f"next: {again if is_troubled else 'provisioner plan'}")
    if is_troubled:
        sys.exit(THERE_IS_SOMETHING_TO_DO)
