"""Makes idle passes: every node is looked at and judged, then what was decided is carried out side by side.

A pass is safe at any moment and in any process. What it decides on old news is
looked at again by whoever acts, under the node's lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from provisioner.domain.activity import HoursServed
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import ClusterName, NodeName
from provisioner.domain.snapshot import ClusterSnapshot
from provisioner.errors import ProvisionerError, RefusedError
from provisioner.planning.idle import IdleDecision, IdleVerdict, idle_decision
from provisioner.services.events import OnEvent
from provisioner.services.sleeping import Sleeping
from provisioner.services.use_looks import UseLooks
from provisioner.services.waking import Waking
from provisioner.services.world import World

Seen = ClusterSnapshot | ProvisionerError
_MOST_AT_ONCE = 32
_ACTS = frozenset({IdleVerdict.SLEEP, IdleVerdict.REST, IdleVerdict.WAKE})


class WakeGivenUp(Exception):
    """Whoever was to wake a node is ending, and nothing was tried."""


class Idling:
    """`idle`. Connections to guests stay open from pass to pass until `close`.

    Args:
        fleet, world: what is wanted, and the outside.
        wake_beside: wakes a node for its hours and returns when it answers; it has a thread of its own, and neither
            this pass nor the next waits for it. Without it a pass wakes them itself and ends once they answer, which
            takes minutes. Raises ProvisionerError, WakeGivenUp.
    """

    def __init__(
        self,
        fleet: FleetSpec,
        world: World,
        *,
        wake_beside: Callable[[NodeName], object] | None = None,
    ) -> None:
        self._fleet = fleet
        self._world = world
        self._looks = UseLooks(fleet, world)
        self._sleeping = Sleeping(fleet, world, self._looks)
        self._waking = Waking(fleet, world)
        self._wake_beside = wake_beside
        self._lock = threading.Lock()
        self._being_woken: set[NodeName] = set()

    def idle(self, nodes: Sequence[NodeSpec], on_event: OnEvent, *, dry_run: bool = False) -> tuple[IdleDecision, ...]:
        """Make one pass; return the decision on every node with its reason.

        Args:
            nodes: whom to judge.
            on_event: told about the steps.
            dry_run: judge and remember, but do nothing.
        """
        decisions = self.judge(nodes)
        if dry_run:
            return decisions
        acts = [each for each in decisions if each.verdict in _ACTS]
        if not acts:
            return decisions
        # One guest that hangs at its shutdown takes minutes, which the others need not wait for.
        with ThreadPoolExecutor(min(len(acts), _MOST_AT_ONCE)) as pool:
            done = dict(
                zip(
                    (each.node.name for each in acts),
                    pool.map(lambda each: self.carry_out(each, on_event), acts),
                    strict=True,
                )
            )
        return tuple(done.get(each.node.name, each) for each in decisions)

    def judge(self, nodes: Sequence[NodeSpec]) -> tuple[IdleDecision, ...]:
        """Look at nodes and judge them; remember what was seen, and do nothing.

        One call per cluster tells who is off; only who runs is looked at more closely.
        """
        clusters: dict[ClusterName, Seen] = {
            name: self._snapshot(name) for name in dict.fromkeys(self._fleet.cluster_of(node).name for node in nodes)
        }
        seen = {node.name: clusters[self._fleet.cluster_of(node).name] for node in nodes}
        told = {
            name: _failed(node, cluster)
            for node in nodes
            if isinstance(cluster := seen[name := node.name], ProvisionerError)
        }
        uses = self._looks.of(
            (node, cluster.vms.get(node.vmid))
            for node in nodes
            if isinstance(cluster := seen[node.name], ClusterSnapshot)
        )
        now = self._world.clock.now()
        judged = {use.node.name: idle_decision(use, now) for use in uses}
        self._remember(judged.values())
        return tuple(judged.get(node.name) or told[node.name] for node in nodes)

    def carry_out(self, decision: IdleDecision, on_event: OnEvent) -> IdleDecision:
        """Do what was decided; return the decision, or what became of it."""
        node = decision.node
        try:
            match decision.verdict:
                case IdleVerdict.SLEEP:
                    self._sleeping.sleep(node, on_event, if_idle=True)
                case IdleVerdict.REST:
                    with self._world.locks.held(node.name):
                        self._sleeping.rest(node, on_event, if_idle=True)
                case IdleVerdict.WAKE:
                    return self._wake_for_hours(decision, on_event)
                case _:
                    pass
        except RefusedError as refusal:
            # A request came in between look and act, or another process works on the node.
            stays = IdleVerdict.ASLEEP if decision.verdict is IdleVerdict.WAKE else IdleVerdict.STAY
            return replace(decision, verdict=stays, reason=refusal.summary)
        except ProvisionerError as error:
            # The guest hangs, its cluster is away, the token is wrong: told, and the others get their turn.
            return _failed(node, error)
        return decision

    @property
    def looks(self) -> UseLooks:
        """The looks at guests, with the connections that stay open."""
        return self._looks

    def close(self) -> None:
        """End the connections to guests."""
        self._looks.close()

    def _wake_for_hours(self, decision: IdleDecision, on_event: OnEvent) -> IdleDecision:
        node = decision.node
        with self._lock:
            if node.name in self._being_woken:
                return replace(decision, verdict=IdleVerdict.STAY, reason=f"{decision.reason}; it is being woken")
            self._being_woken.add(node.name)
        wake_beside = self._wake_beside
        if wake_beside is None:
            self._wake(decision, lambda: self._waking.wake(node, on_event))
        else:

            def wake() -> None:
                # Why it failed was told by its steps, and is remembered.
                with suppress(ProvisionerError, WakeGivenUp):
                    self._wake(decision, lambda: wake_beside(node.name))

            threading.Thread(target=wake, name=f"hours of {node.name}", daemon=True).start()
        return decision

    def _wake(self, decision: IdleDecision, wake: Callable[[], object]) -> None:
        assert decision.occasion is not None  # noqa: S101 - there is no other cause to wake
        begins, node = decision.occasion.begins, decision.node
        try:
            wake()
            self._world.activity.serve_hours(node.name, HoursServed(begins))
        except ProvisionerError:
            self._world.activity.serve_hours(node.name, HoursServed(begins, self._world.clock.now()))
            raise
        finally:
            with self._lock:
                self._being_woken.discard(node.name)

    def _remember(self, decisions: Iterable[IdleDecision]) -> None:
        for decision in decisions:
            node, hours = decision.node, decision.occasion
            if decision.record is not None:
                self._world.activity.record(node.name, decision.record)
            if hours is not None and node.awake.pre_wake_seconds is not None:
                served = HoursServed(hours.begins)
                if decision.verdict is not IdleVerdict.WAKE and self._world.activity.hours_served(node.name) != served:
                    # Who puts it to sleep from now on does so in spite of its hours.
                    self._world.activity.serve_hours(node.name, served)

    def _snapshot(self, name: ClusterName) -> Seen:
        try:
            return self._world.clusters[name].snapshot()
        except ProvisionerError as error:
            return error


def _failed(node: NodeSpec, error: ProvisionerError) -> IdleDecision:
    return IdleDecision(node, IdleVerdict.FAILED, f"{error.summary}; next: {error.next_step}")
