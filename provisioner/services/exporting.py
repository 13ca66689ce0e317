"""What is played on each node, for those who play it themselves: the same playbooks and variables as `up` would use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provisioner.domain.actions import Plan, RunPlaybook
from provisioner.domain.node_plays import NodePlays
from provisioner.domain.notes import read_notes
from provisioner.errors import NotReadyError, ProvisionerError, RefusedError


def node_plays(plan: Plan) -> NodePlays:
    """Return what a plan would play.

    Raises:
        RefusedError: there is no plan, or nothing that we configure.
        NotReadyError: the node has no guest yet whose key is known.
    """
    node = plan.node
    if plan.refusal is not None:
        raise RefusedError(
            f"cannot export: {plan.refusal.reason}", subject=node.subject, next_step=plan.refusal.next_step
        )
    plays = tuple(
        (step.action.playbook, step.action.variables) for step in plan.steps if isinstance(step.action, RunPlaybook)
    )
    if not plays:
        raise RefusedError(
            "cannot export: nothing is configured on it by us",
            subject=node.subject,
            next_step="name the nodes that we made",
        )
    host_key = read_notes(plan.notes).host_key
    if host_key is None:
        raise NotReadyError(
            "cannot export: its guest's host key is not known before its first boot",
            subject=node.subject,
            next_step=f"provisioner up {node.name}",
        )
    return NodePlays(node, host_key, plays)


def all_plays(
    plans: Mapping[str, Plan | ProvisionerError],
) -> tuple[Sequence[NodePlays], Mapping[str, ProvisionerError]]:
    """Return what is played on the nodes that can be exported, and why the others cannot."""
    found: list[NodePlays] = []
    left_out: dict[str, ProvisionerError] = {}
    for name, plan in plans.items():
        try:
            if isinstance(plan, ProvisionerError):
                raise plan
            found.append(node_plays(plan))
        except ProvisionerError as error:
            left_out[name] = error
    return found, left_out
