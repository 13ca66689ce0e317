"""Makes a node ready: started if it is off, and answering when this returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from provisioner.domain.actions import subject_of
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.snapshot import Power
from provisioner.errors import NotReadyError
from provisioner.planning.wake import WakeNeed, wake_decision
from provisioner.ports.hypervisors import Hypervisors, Ticket
from provisioner.services.events import OnEvent, running_step
from provisioner.services.proving import Endpoint, EngineProbe
from provisioner.services.world import World

# Between two looks at the start's task while the engine is being probed: quick at first, since a start
# that fails fails early, then rare.
_TASK_LOOKS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_POWER_LOOK_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class WakeReport:
    """What a wake did.

    `added_seconds` is the time from the first look that found the engine
    ready to the return: model list, one chat, and nothing else.
    """

    endpoint: Endpoint
    started: bool
    seconds: float
    added_seconds: float
    calls: int

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "endpoint": self.endpoint.as_dict(),
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "added_seconds": round(self.added_seconds, 3),
            "api_calls": self.calls,
        }


class Waking:
    """`wake`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def wake(self, node: NodeSpec, on_event: OnEvent) -> WakeReport:
        """Return when the node's model has answered.

        Raises:
            RefusedError: there is no VM of ours to start.
            HypervisorError: Proxmox could not start it; its words are in the summary.
            NotReadyError, EngineError: it started and did not come to answer.
        """
        clock, subject = self._world.clock, subject_of(node.name, node.vmid, node.hypervisor)
        api = self._world.clusters[self._fleet.cluster_of(node).name]
        calls, begun = api.calls, clock.monotonic()
        decision = wake_decision(node, api.vm(node.hypervisor, node.vmid), subject)
        ticket: Ticket | None = None
        if decision.need is WakeNeed.START:
            with running_step(on_event, node, "start", clock) as step:
                ticket = api.start_vm(node.hypervisor, node.vmid)
                step.detail = "accepted"
        probe = EngineProbe(
            self._fleet, node, self._world.engines[self._fleet.mode_of(node).engine], self._world.web, clock
        )
        with running_step(on_event, node, "answer", clock) as step:
            proof = probe.prove(
                seconds=node.patience.boot_seconds + node.patience.engine_seconds,
                subject=subject,
                still_worth_it=self._watch(api, node, ticket, subject),
            )
            step.detail, step.changed = proof.endpoint.url, False
        if ticket is not None:
            self._world.activity.forget(node.name)
        ended = clock.monotonic()
        return WakeReport(
            endpoint=proof.endpoint,
            started=ticket is not None,
            seconds=ended - begun,
            added_seconds=ended - proof.healthy_at,
            calls=api.calls - calls,
        )

    def _watch(self, api: Hypervisors, node: NodeSpec, ticket: Ticket | None, subject: str) -> Callable[[], None]:
        """Return a look, cheap in API calls, that raises once waiting for the engine is pointless."""
        clock = self._world.clock
        looks = iter(_TASK_LOOKS)
        state = {"task": ticket is not None, "next": clock.monotonic() + next(looks)}

        def look() -> None:
            if clock.monotonic() < state["next"]:
                return
            if state["task"] and ticket is not None:
                state["task"] = not ticket.is_done()
                state["next"] = clock.monotonic() + (
                    next(looks, _TASK_LOOKS[-1]) if state["task"] else _POWER_LOOK_SECONDS
                )
                return
            state["next"] = clock.monotonic() + _POWER_LOOK_SECONDS
            vm = api.vm(node.hypervisor, node.vmid)
            if vm is None or vm.power is Power.STOPPED:
                raise NotReadyError(
                    "cannot wake the node: its VM went off while it was starting",
                    subject=subject,
                    next_step=f"look at Proxmox > VM {node.vmid} > Task History, then: provisioner wake {node.name}",
                    retryable=True,
                )

        return look
