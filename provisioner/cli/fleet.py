"""plan, up, destroy, status, schema."""

from __future__ import annotations

import sys

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.measure import duration
from provisioner.cli.output import Progress, print_error, print_json, print_result, print_table
from provisioner.domain.quantities import duration_text

THERE_IS_SOMETHING_TO_DO = 3


@click.command(epilog="Example: provisioner plan llm-gpu-01")
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@json_option
@pass_session
def plan(session: Session, nodes: tuple[str, ...]) -> None:
    """Show what `up` would do, moving nothing. Exit code 3: there is something to do."""
    from provisioner.cli.plan_view import plan_lines
    from provisioner.errors import ProvisionerError

    fleet = session.fleet()
    # One node is looked at closely; many share what they have in common.
    plans = {nodes[0]: fleet.plan(nodes[0])} if len(nodes) == 1 else fleet.plans(nodes)
    stuck = changes = False
    if not plans and not session.json:
        click.echo(f"the fleet has no node yet; next: add one under nodes in {fleet.spec.path}")
    for name, each in plans.items():
        if isinstance(each, ProvisionerError):
            stuck = True
            print_error(each, as_json=session.json, node=name)
            continue
        stuck, changes = stuck or each.refusal is not None, changes or each.has_changes
        if session.json:
            print_json(each.as_dict())
        else:
            click.echo("\n".join(plan_lines(each)))
    if stuck:
        sys.exit(1)
    if changes:
        sys.exit(THERE_IS_SOMETHING_TO_DO)


@click.command(epilog="Example: provisioner up llm-gpu-01")
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.option(
    "--renew-driver",
    is_flag=True,
    help="Upgrade kernel and NVIDIA driver too, which are held otherwise: reboots, unless a node is busy.",
)
@json_option
@pass_session
def up(session: Session, nodes: tuple[str, ...], *, renew_driver: bool) -> None:
    """Converge nodes: create, boot, configure, prove. Can be killed and run again at any time."""
    from provisioner.errors import ProvisionerError

    if renew_driver and not nodes:
        raise click.UsageError("name the nodes whose kernel and driver are to be renewed")
    fleet = session.fleet()
    with Progress(as_json=session.json) as progress:
        outcomes = fleet.up_all(nodes, on_event=progress, renew_driver=renew_driver)
    failed = False
    for name, outcome in outcomes.items():
        if isinstance(outcome, ProvisionerError):
            failed = True
            print_error(outcome, as_json=session.json, node=name)
            continue
        remark = f"; {outcome.remark}" if outcome.remark else ""
        if outcome.left_for_next_start:
            remark += f"; changes wait for its next start: {outcome.left_for_next_start}"
        did = f"changed: {', '.join(outcome.changed)}" if outcome.changed else "nothing had to change"
        print_result(
            outcome.as_dict(),
            f"{name} serves {outcome.endpoint} ({did}; "
            f"{duration_text(outcome.seconds)}, {outcome.calls} API calls{remark})",
            as_json=session.json,
        )
    if failed:
        sys.exit(1)


@click.command(epilog="Example: provisioner destroy llm-gpu-01")
@click.argument("node", required=False)
@click.option("--confirm", metavar="NAME", help="The node's name again, or `templates`, instead of typing it.")
@click.option("--unused-templates", is_flag=True, help="Delete our templates that nothing is made from any more.")
@json_option
@pass_session
def destroy(session: Session, node: str | None, confirm: str | None, *, unused_templates: bool) -> None:
    """Delete a node's VM, disks and seed. Only a VM that carries our tag; asks for the name. Templates stay."""
    if (node is None) != unused_templates:
        raise click.UsageError("name either a node or --unused-templates")
    if node is None:
        _destroy_unused_templates(session, confirm)
    else:
        _destroy_node(session, node, confirm)


def _destroy_unused_templates(session: Session, confirm: str | None) -> None:
    fleet = session.fleet()
    if confirm is None:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on; add --confirm templates")
        click.echo("This deletes the templates with our tag that no node of the fleet file and no linked disk uses.")
        confirm = click.prompt("Type templates to go on", default="", show_default=False)
    if confirm != "templates":
        raise click.UsageError(f'"{confirm}" is not "templates": nothing was deleted')
    fates = fleet.remove_unused_templates()
    lines = [f"removed {fate}" if fate.removed else str(fate) for fate in fates] or ["there is no template of ours"]
    print_result({"templates": [fate.as_dict() for fate in fates]}, "\n".join(lines), as_json=session.json)


def _destroy_node(session: Session, node: str, confirm: str | None) -> None:
    fleet = session.fleet()
    spec = fleet.spec.node(node)
    if confirm is None:
        if not sys.stdin.isatty():
            raise click.UsageError(f"there is no terminal to ask on; add --confirm {spec.name}")
        click.echo(f"This deletes VM {spec.vmid} on {spec.hypervisor} with its disks. Nothing brings them back.")
        confirm = click.prompt("Type the node's name to go on", default="", show_default=False)
    if confirm != spec.name:
        raise click.UsageError(f'"{confirm}" is not "{spec.name}": nothing was deleted')
    with Progress(as_json=session.json) as progress:
        removed = fleet.destroy(node, on_event=progress)
    sentence = f"removed: {', '.join(removed)}" if removed else f"there was nothing of {spec.name} to remove"
    print_result({"node": spec.name, "removed": list(removed)}, sentence, as_json=session.json)


@click.command(epilog="Example: provisioner status --watch")
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.option("--watch", is_flag=True, help="Show it until Ctrl-C, with the last day, events and what was saved.")
@click.option("--interval", default="5s", show_default=True, callback=duration, help="From one look to the next.")
@json_option
@pass_session
def status(session: Session, nodes: tuple[str, ...], watch: bool, interval: float) -> None:
    """Show the fleet on one screen."""
    if watch:
        from provisioner.cli.status_watch import watch as show

        show(session.fleet(), nodes, interval, as_json=session.json)
        return
    fleet = session.fleet()
    found = fleet.status(nodes)
    told = fleet.registrations()
    if session.json:
        print_json(
            {"nodes": [each.as_dict() for each in found]}
            | ({"orchestrators": [each.as_dict() for each in told]} if told else {})
        )
        return
    print_table(
        ("node", "vm", "on", "state", "model", "up", "why"),
        [
            (
                each.node.name,
                str(each.node.vmid),
                each.node.hypervisor,
                each.state.value,
                each.model,
                duration_text(each.uptime_seconds) if each.uptime_seconds else "",
                "; ".join(words for words in (each.url or each.reason, each.claims) if words),
            )
            for each in found
        ],
    )
    if told:
        from provisioner.planning.registration import words

        present = [each.node.name for each in found if each.state.value not in ("absent", "foreign", "unknown")]
        for registration in told:
            if line := words(registration, registration.orchestrator, present):
                click.echo(line)


@click.command(epilog="Example: provisioner schema > fleet.schema.json")
@json_option
def schema() -> None:
    """Print the JSON Schema of the fleet file, for editors."""
    import json

    from provisioner.adapters.files.fleet_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
