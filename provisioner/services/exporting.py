"""What is played on each node, for those who play it themselves: the same playbooks and variables as `up` would use.

Which driver a node gets its cards tell, as far as their mappings name them; what else the guest would show only `up`
looks at, so that the driver of cards that no mapping names is not among what is exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from provisioner.domain.actions import Action, ConvergeGuest, InstallDriver, Plan, RunPlaybook
from provisioner.domain.fleet import NodeSpec
from provisioner.domain.gpu_driver import DriverChoice
from provisioner.domain.node_plays import NodePlays
from provisioner.domain.notes import read_notes
from provisioner.errors import NotReadyError, ProvisionerError, RefusedError
from provisioner.planning.gpu.driver import choose_driver
from provisioner.planning.gpu.installing import DriverWork, driver_playbooks


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
    plays = tuple(play for step in plan.steps for play in _plays(step.action, node))
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


def _plays(action: Action, node: NodeSpec) -> Iterator[tuple[str, Mapping[str, object]]]:
    match action:
        case RunPlaybook(playbook, variables) | ConvergeGuest(playbook, variables):
            yield playbook, variables
        case InstallDriver(wish, ids, toolkit) if ids:
            choice = choose_driver(wish, ids, secure_boot=node.options.secure_boot, node=node.name)
            if isinstance(choice, DriverChoice):
                work = DriverWork(choice, ("it is played by hand",), needs_toolkit=toolkit is not None)
                yield from driver_playbooks(work, action)


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
