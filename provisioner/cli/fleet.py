"""plan, up, destroy, status, schema."""

from __future__ import annotations

import sys

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import Progress, print_error, print_json, print_result, print_table
from provisioner.domain.quantities import duration_text

THERE_IS_SOMETHING_TO_DO = 3


@click.command(epilog="Example: provisioner plan llm-gpu-01")
@click.argument("node", required=False)
@json_option
@pass_session
def plan(session: Session, node: str | None) -> None:
    """Show what `up` would do, moving nothing. Exit code 3: there is something to do."""
    fleet = session.fleet()
    plans = [fleet.plan(name) for name in ([node] if node else fleet.spec.nodes)]
    for each in plans:
        if session.json:
            print_json(
                {
                    "node": each.node.name,
                    "vmid": each.node.vmid,
                    "refused": each.refusal.reason if each.refusal else None,
                    "next_step": each.refusal.next_step if each.refusal else None,
                    "remark": each.remark,
                    "steps": [
                        {"name": step.name, "kind": step.kind.value, "reason": step.reason} for step in each.steps
                    ],
                }
            )
        else:
            click.echo(str(each))
    if any(each.refusal for each in plans):
        sys.exit(1)
    if any(each.has_changes for each in plans):
        sys.exit(THERE_IS_SOMETHING_TO_DO)


@click.command(epilog="Example: provisioner up llm-gpu-01")
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@json_option
@pass_session
def up(session: Session, nodes: tuple[str, ...]) -> None:
    """Converge nodes: create, boot, configure, prove. Can be killed and run again at any time."""
    from provisioner.errors import ProvisionerError

    fleet = session.fleet()
    with Progress(as_json=session.json) as progress:
        outcomes = fleet.up_all(nodes, on_event=progress)
    failed = False
    for name, outcome in outcomes.items():
        if isinstance(outcome, ProvisionerError):
            failed = True
            print_error(outcome, as_json=session.json)
            continue
        remark = f"; {outcome.remark}" if outcome.remark else ""
        did = f"changed: {', '.join(outcome.changed)}" if outcome.changed else "nothing had to change"
        print_result(
            outcome.as_dict(),
            f"{name} serves {outcome.endpoint.model} at {outcome.endpoint.url} ({did}; "
            f"{duration_text(outcome.seconds)}, {outcome.calls} API calls{remark})",
            as_json=session.json,
        )
    if failed:
        sys.exit(1)


@click.command(epilog="Example: provisioner destroy llm-gpu-01")
@click.argument("node")
@click.option("--confirm", metavar="NODE", help="The node's name again, instead of typing it when asked.")
@json_option
@pass_session
def destroy(session: Session, node: str, confirm: str | None) -> None:
    """Delete a node's VM, disks and seed. Only a VM that carries our tag; asks for the name."""
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


@click.command(epilog="Example: provisioner status --json")
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@json_option
@pass_session
def status(session: Session, nodes: tuple[str, ...]) -> None:
    """Show the fleet on one screen."""
    found = session.fleet().status(nodes)
    if session.json:
        print_json({"nodes": [each.as_dict() for each in found]})
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
                each.url or each.reason,
            )
            for each in found
        ],
    )


@click.command(epilog="Example: provisioner schema > fleet.schema.json")
@json_option
def schema() -> None:
    """Print the JSON Schema of the fleet file, for editors."""
    import json

    from provisioner.adapters.files.fleet_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
