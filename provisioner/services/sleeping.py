"""Puts nodes to sleep: on a person's word, or because nobody uses them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from provisioner.domain.activity import EngineActivity
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import ClusterName, NodeName
from provisioner.domain.snapshot import ClusterSnapshot, Power
from provisioner.engines.base import AnswerUnreadable
from provisioner.errors import ProvisionerError, RefusedError, ShutdownIgnoredError
from provisioner.planning.idle import IdleDecision, IdleVerdict, NodeUse, idle_decision
from provisioner.planning.ownership import Act, objection, require
from provisioner.ports.hypervisors import Hypervisors
from provisioner.ports.web import NoAnswer
from provisioner.services.engine_web import engine_web
from provisioner.services.events import OnEvent, running_step
from provisioner.services.looking import find_vm
from provisioner.services.noted_modes import noted
from provisioner.services.proving import EngineProbe
from provisioner.services.world import World

_MOST_PROBES_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class SleepReport:
    """What a sleep did."""

    node: str
    was_running: bool
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {"node": self.node, "was_running": self.was_running, "seconds": round(self.seconds, 3)}


class Sleeping:
    """`sleep` and `idle`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def sleep(self, node: NodeSpec, on_event: OnEvent, *, force: bool = False) -> SleepReport:
        """Shut a node down cleanly.

        Args:
            node: which.
            on_event: told about the steps.
            force: also when it is busy or does not say; power is cut when it will not shut down.

        Raises:
            RefusedError: it is busy, or not ours.
            HypervisorError: the guest did not shut down in time.
        """
        with self._world.locks.held(node.name):
            return self.shut_down(node, on_event, force=force)

    def shut_down(self, node: NodeSpec, on_event: OnEvent, *, force: bool = False) -> SleepReport:
        """Do what `sleep` does for a caller that holds the node's lock already."""
        clock = self._world.clock
        api = self._api(node)
        begun = clock.monotonic()
        vm = find_vm(api, node)
        if vm is None or vm.power is Power.STOPPED:
            return SleepReport(node.name, was_running=False, seconds=clock.monotonic() - begun)
        require(node, vm, Act.SLEEP)
        if not force:
            self.require_quiet(noted(self._fleet, api, node)[0])
        # The tag is read again right before: between look and act the VMID may have changed hands.
        vm = api.vm(node.hypervisor, node.vmid)
        if vm is None:
            return SleepReport(node.name, was_running=False, seconds=clock.monotonic() - begun)
        require(node, vm, Act.SLEEP)
        with running_step(on_event, node, "shut down", clock) as step:
            try:
                warnings = api.shut_down_vm(node.hypervisor, node.vmid, seconds=node.patience.shutdown_seconds)
                step.detail = "; ".join(warnings)
            except ShutdownIgnoredError as error:
                if not force:
                    raise ShutdownIgnoredError(
                        error.summary,
                        subject=node.subject,
                        next_step=f"provisioner sleep {node.name} --force cuts the power",
                    ) from error
                api.stop_vm(node.hypervisor, node.vmid)
                step.detail = "power cut"
        self._world.activity.forget(node.name)
        return SleepReport(node.name, was_running=True, seconds=clock.monotonic() - begun)

    def idle(self, nodes: Sequence[NodeSpec], on_event: OnEvent, *, dry_run: bool = False) -> tuple[IdleDecision, ...]:
        """Make one idle pass; return the decision on every node with its reason.

        One call per cluster tells who is off; only who is put to sleep is looked at more closely.

        Args:
            nodes: whom to judge.
            on_event: told about the steps.
            dry_run: judge and remember, but stop nothing.
        """
        clusters = {name: self._snapshot(name) for name in {self._fleet.cluster_of(node).name for node in nodes}}
        seen = {node.name: clusters[self._fleet.cluster_of(node).name] for node in nodes}
        activities = self._activities([node for node in nodes if _runs(seen[node.name], node)])
        decisions = []
        for node in nodes:
            cluster, (activity, why) = seen[node.name], activities.get(node.name, (None, ""))
            try:
                if isinstance(cluster, ProvisionerError):
                    raise cluster
                last = self._world.activity.last(node.name) if activity is not None else None
                use = NodeUse(node, cluster.vms.get(node.vmid), activity, why, last)
                decisions.append(self._judge(use, on_event, dry_run=dry_run))
            except RefusedError as refusal:
                # A request came in between look and act, or another process works on the node.
                decisions.append(IdleDecision(node, IdleVerdict.STAY, refusal.summary))
            except ProvisionerError as error:
                # The guest hangs, its cluster is away, the token is wrong: told, and the others get their turn.
                reason = f"{error.summary}; next: {error.next_step}"
                decisions.append(IdleDecision(node, IdleVerdict.FAILED, reason))
        return tuple(decisions)

    def _judge(self, use: NodeUse, on_event: OnEvent, *, dry_run: bool) -> IdleDecision:
        decision = idle_decision(use, self._world.clock.now())
        if decision.record is not None:
            self._world.activity.record(use.node.name, decision.record)
        if decision.verdict is IdleVerdict.SLEEP and not dry_run:
            self.sleep(use.node, on_event)
        return decision

    def _snapshot(self, name: ClusterName) -> ClusterSnapshot | ProvisionerError:
        try:
            return self._world.clusters[name].snapshot()
        except ProvisionerError as error:
            return error

    def _activities(self, nodes: Sequence[NodeSpec]) -> dict[NodeName, tuple[EngineActivity | None, str]]:
        if not nodes:
            return {}
        with ThreadPoolExecutor(min(len(nodes), _MOST_PROBES_AT_ONCE)) as pool:
            return dict(zip((node.name for node in nodes), pool.map(self._activity_as_noted, nodes), strict=True))

    def _activity_as_noted(self, node: NodeSpec) -> tuple[EngineActivity | None, str]:
        try:
            return self._activity(noted(self._fleet, self._api(node), node)[0])
        except ProvisionerError as error:
            return None, error.summary

    def _activity(self, node: NodeSpec) -> tuple[EngineActivity | None, str]:
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        probe = EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
        try:
            return engine.activity(probe.activity_text(), self._world.clock.now()), ""
        except (NoAnswer, AnswerUnreadable) as reason:
            return None, str(reason)

    def require_quiet(self, node: NodeSpec, act: Act = Act.SLEEP) -> None:
        """Let an act pass only if nobody uses the node, which is in the mode that is noted. Raises RefusedError."""
        force = f"provisioner sleep {node.name} --force" if act is Act.SLEEP else "the same command with --force"
        activity, why = self._activity(node)
        if activity is None:
            raise RefusedError(
                f"cannot {act.value}: its engine does not say whether it is busy ({why})",
                subject=node.subject,
                next_step=f"{force}, if you know that nobody uses it",
                retryable=True,
            )
        if activity.is_busy:
            raise RefusedError(
                f"cannot {act.value}: {activity.running} requests running, {activity.waiting} waiting",
                subject=node.subject,
                next_step=f"wait for them; {force} cuts them off",
                retryable=True,
            )
        if activity.doubt:
            raise RefusedError(
                f"cannot {act.value}: whether it is in use is not known: {activity.doubt}",
                subject=node.subject,
                next_step=f"wait until it is unloaded; {force}, if you know that nobody uses it",
                retryable=True,
            )

    def _api(self, node: NodeSpec) -> Hypervisors:
        return self._world.clusters[self._fleet.cluster_of(node).name]


def _runs(cluster: ClusterSnapshot | ProvisionerError, node: NodeSpec) -> bool:
    vm = None if isinstance(cluster, ProvisionerError) else cluster.vms.get(node.vmid)
    # Nobody else's guest is asked anything.
    return vm is not None and vm.power is Power.RUNNING and objection(node, vm, Act.SLEEP) is None
