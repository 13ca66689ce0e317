"""prepare."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.hypervisor.login import is_terminal
from provisioner.cli.output import Progress, print_json

if TYPE_CHECKING:
    from provisioner.cli.hypervisor.prepare_access import AccessHalf
    from provisioner.fleet import Hypervisor
    from provisioner.ports.playbooks import OnTaskEvent
    from provisioner.services.preparing import Arrival, PrepareChoices, PreparePreview, PrepareReport

EPILOG = """\b
Examples:
  provisioner prepare pve1
  provisioner prepare pve1 --yes --reboot --wait-for 15m
  provisioner prepare pve1 --only access --login root@pam
  provisioner prepare pve1 --undo
"""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the command was called, beside what each half needs."""

    is_json: bool
    says_yes: bool
    reboots: bool
    wait_seconds: float


@click.command(short_help="Make a hypervisor ready for GPUs and for our token.", epilog=EPILOG)
@click.argument("hypervisor")
@click.option("--only", type=click.Choice(["host", "access"]), help="Do one half: the server itself, or the rights.")
@click.option("--undo", is_flag=True, help="Take back what earlier runs changed, but for what was edited since.")
@click.option("--yes", is_flag=True, help="Do not ask; for scripts.")
@click.option("--reboot", is_flag=True, help="Reboot afterwards, wait until the server is back, and verify.")
@click.option("--wait-for", default="10m", metavar="TIME", help="How long it may be away [default: 10m].")
@click.option(
    "--i-have-another-console", is_flag=True, help="You reach the server other than by the screen on a fleet's GPU."
)
@click.option("--no-early-binding", is_flag=True, help="Leave cards to the host's drivers until a VM starts.")
@click.option("--gpu", "gpus", multiple=True, metavar="NAME=SLOT", help="Which card it is, such as rtx3090=0000:01:00.")
@click.option(
    "--save-variables",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Change nothing; write what playbooks/prepare-hypervisor.yml needs to be run by hand.",
)
@click.option("--login", metavar="USER@REALM", help="Set the rights as this person through the API, not over SSH.")
@click.option("--password", metavar="env:NAME|file:PATH", help="Where that person's password is [default: asked for].")
@click.option("--otp", metavar="DIGITS", help="That person's second factor.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where a new token's secret goes, when the fleet file takes it from the environment.",
)
@click.option("--show-secret", is_flag=True, help="Print a new token's secret, once.")
@json_option
@pass_session
def prepare(
    session: Session,
    hypervisor: str,
    only: str | None,
    undo: bool,
    yes: bool,
    reboot: bool,
    wait_for: str,
    i_have_another_console: bool,
    no_early_binding: bool,
    gpus: tuple[str, ...],
    save_variables: Path | None,
    login: str | None,
    password: str | None,
    otp: str | None,
    secret_file: Path | None,
    show_secret: bool,
) -> None:
    """Make a hypervisor ready: kernel command line, vfio, early binding; then roles, token and GPU mappings.

    Shows every file and command first and asks. It reboots only with --reboot. A run that was cut off is continued
    by the next one; a second run changes nothing.
    """
    from provisioner.cli.hypervisor import prepare_view as view
    from provisioner.cli.hypervisor.prepare_access import AccessHalf, AccessOptions

    server = session.fleet().hypervisor(hypervisor)
    slots = _slots(gpus, server)
    wishes = Wishes(session.json, yes, reboot, _seconds(wait_for))
    host = _host_preview(server, undo, i_have_another_console, no_early_binding, slots) if only != "access" else None
    if save_variables is not None:
        _save(server, host, save_variables, as_json=session.json)
        return
    options = AccessOptions(undo, login, password, otp, secret_file, show_secret, slots, session.json)
    access = AccessHalf(server, options) if only != "host" else None
    plan = access.preview() if access is not None else None
    if session.json:
        print_json({"plan": {"host": host.as_dict() if host else None, "access": plan.as_dict() if plan else None}})
    else:
        view.show_plan(server.name, host, plan)
    if host is not None:
        host.require_no_refusals()
    if plan is not None and access is not None:
        access.require_nothing_in_the_way(plan)
    is_host_open = host is not None and host.preparation.is_needed
    is_access_open = plan is not None and not plan.is_empty
    if is_host_open or is_access_open:
        if not _agrees(wishes, "Go on?"):
            click.echo("nothing was changed", err=True)
            sys.exit(1)
        if host is not None and is_host_open:
            _change(server, host, wishes)
        if access is not None and plan is not None and is_access_open:
            access.apply(plan)
    arrival = _reboot_if_wanted(server, host, wishes) if host is not None else None
    if arrival is None:
        return
    if not undo:
        if access is not None and not arrival.failed:
            _catch_up(access, wishes)
        _ask_the_doctor(server, wishes)
    if arrival.failed:
        sys.exit(1)


def _host_preview(
    server: Hypervisor,
    undo: bool,
    has_another_console: bool,
    no_early_binding: bool,
    slots: dict[str, tuple[str, ...]],
) -> PreparePreview:
    from provisioner.domain.names import GpuName
    from provisioner.services.preparing import PrepareChoices

    choices: PrepareChoices = PrepareChoices(
        has_another_console, not no_early_binding, {GpuName(name): found for name, found in slots.items()}
    )
    return server.preparation(choices, undo=undo)


def _save(server: Hypervisor, host: PreparePreview | None, path: Path, *, as_json: bool) -> None:
    if host is None or host.is_undo:
        raise click.UsageError("--save-variables is for the changes on the server itself; leave --only and --undo out")
    host.require_no_refusals()
    server.save_variables(path, host)
    if as_json:
        print_json({"result": {"saved": str(path)}})
    else:
        click.echo(f"saved: {path}; nothing was changed. Its use stands at the top of prepare-hypervisor.yml")


def _change(server: Hypervisor, host: PreparePreview, wishes: Wishes) -> None:
    from provisioner.cli.hypervisor import prepare_view as view

    with _progress(server, wishes) as on_event:
        report: PrepareReport = server.prepare(host, on_event)
    if wishes.is_json:
        print_json({"result": {"host": report.as_dict()}})
    else:
        view.show_report(report)
    if report.failed:
        sys.exit(1)


def _reboot_if_wanted(server: Hypervisor, host: PreparePreview, wishes: Wishes) -> Arrival | None:
    """Reboot if there is a reason and the person wants it; say what waits for it otherwise."""
    from provisioner.cli.hypervisor import prepare_view as view

    reasons = host.preparation.reboot_for
    if not reasons:
        if wishes.reboots and not wishes.is_json:
            click.echo("nothing waits for a reboot, so there is none")
        return None
    if not wishes.reboots:
        if not wishes.is_json:
            view.show_reboot_reasons(server.name, reasons, is_undo=host.is_undo)
        return None
    guests = server.running_guests()
    question = view.reboot_question(server.name, guests)
    if not _agrees(wishes, question):
        click.echo("it was not rebooted", err=True)
        return None
    if wishes.says_yes and not wishes.is_json:
        click.echo(question.removesuffix(" Reboot now?"))
    with _progress(server, wishes) as on_event:
        arrival = server.reboot(host, seconds=wishes.wait_seconds, on_event=on_event)
    if wishes.is_json:
        print_json({"result": {"reboot": arrival.as_dict()}})
    else:
        view.show_arrival(arrival)
    return arrival


def _ask_the_doctor(server: Hypervisor, wishes: Wishes) -> None:
    from provisioner.cli.hypervisor import prepare_view as view

    report = server.report()
    if wishes.is_json:
        print_json({"result": {"doctor": report.as_dict()}})
    else:
        view.show_doctor(report)


def _catch_up(access: AccessHalf, wishes: Wishes) -> None:
    """After the reboot there may be groups, and with them mappings that could not be made before."""
    from provisioner.cli.hypervisor import prepare_view as view

    plan = access.preview()
    if plan.is_empty or plan.blocking:
        return
    if wishes.is_json:
        print_json({"plan": {"host": None, "access": plan.as_dict()}})
    else:
        click.echo("\nNow that the server is back, this can be done too:\n")
        view.show_access(plan)
    if _agrees(wishes, "Go on?"):
        access.apply(plan)


def _agrees(wishes: Wishes, question: str) -> bool:
    if wishes.says_yes:
        return True
    if wishes.is_json or not is_terminal():
        raise click.UsageError(
            "there is no terminal to ask on, so nothing more was done; read the plan, then add --yes"
        )
    return click.confirm(question, default=False, err=True)


@contextmanager
def _progress(server: Hypervisor, wishes: Wishes) -> Iterator[OnTaskEvent]:
    """Show tasks as other commands show steps; those that did not apply are not worth a line."""
    from provisioner.domain.names import NodeName
    from provisioner.ports.playbooks import TaskEvent, TaskPhase
    from provisioner.services.events import Event, Phase

    with Progress(as_json=wishes.is_json) as progress:

        def tell(event: TaskEvent) -> None:
            if event.phase is TaskPhase.STARTED:
                progress(Event(NodeName(server.name), event.name, Phase.STARTED))
            elif event.phase is TaskPhase.DONE:
                progress(
                    Event(NodeName(server.name), event.name, Phase.DONE, changed=event.changed, seconds=event.seconds)
                )

        yield tell


def _seconds(text: str) -> float:
    from provisioner.domain.quantities import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--wait-for") from None


def _slots(words: tuple[str, ...], server: Hypervisor) -> dict[str, tuple[str, ...]]:
    """Read ``rtx3090=0000:01:00`` or, as messages say it, ``pve1/rtx3090=0000:01:00``. Raises UsageError."""
    from provisioner.planning.access.gpus import full_slot

    found: dict[str, tuple[str, ...]] = {}
    known = [str(name) for name in server.gpus]
    for word in words:
        name, equals, slot = word.partition("=")
        name = name.removeprefix(f"{server.name}/")
        if not equals or name not in known:
            listed = ", ".join(known) or "none"
            raise click.BadParameter(f"{word!r} is not NAME=SLOT with one of its GPUs ({listed})", param_hint="--gpu")
        found[name] = (*found.get(name, ()), full_slot(slot))
    return found
