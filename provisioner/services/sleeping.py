"""Puts nodes to sleep: gate, drain, look again, then down, as far as a node's ladder goes.

From the moment its gate is closed no request is let in to a node; those that
were inside are waited for. Whatever is then seen decides: a node that is in use
after all stays on and its gate opens again, and a request that waited meanwhile
finds the node on, or wakes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.lease import Lease
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import RefusedError, ShutdownIgnoredError
from provisioner.planning.arbiter import Use
from provisioner.planning.idle import IdleVerdict, NodeUse, busy_reasons, idle_decision, unknown_reasons
from provisioner.planning.ownership import Act, require
from provisioner.ports.hypervisors import Hypervisors
from provisioner.services.arbitration import Arbitration, claim_of
from provisioner.services.events import OnEvent, running_step
from provisioner.services.looking import find_vm
from provisioner.services.model_memory import ModelMemory
from provisioner.services.noted_modes import noted
from provisioner.services.together import Together
from provisioner.services.use_looks import UseLooks
from provisioner.services.world import World
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

# Between two looks at our own counters while requests end; asking them costs nothing.
_DRAIN_PACE = Pace(first=0.02, growth=1.5, longest=0.2)
# Weights of tens of GiB go to main memory at a few GiB a second, after what runs has ended.
_REST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class SleepReport:
    """What a sleep did."""

    node: str
    was_running: bool
    seconds: float
    rested: str = ""
    """Why the VM stays on with its model out of memory; empty where it is off."""
    stay_on: tuple[str, ...] = ()
    """Who only computed for this node and is still on, and why; a sentence each."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node,
            "was_running": self.was_running,
            "seconds": round(self.seconds, 3),
            "rested": self.rested or None,
            "stay_on": list(self.stay_on),
        }


class Sleeping:
    """`sleep`.

    Args:
        fleet, world: what is wanted, and the outside.
        looks: whose open connections to use; by default its own, ended after each use.
    """

    def __init__(self, fleet: FleetSpec, world: World, looks: UseLooks | None = None) -> None:
        self._fleet = fleet
        self._world = world
        self._arbitration = Arbitration(fleet, world)
        self._looks = looks or UseLooks(fleet, world)
        self._keeps_looks = looks is not None

    def sleep(
        self,
        node: NodeSpec,
        on_event: OnEvent,
        *,
        force: bool = False,
        may_rest: bool = True,
        lose_gpu: bool = False,
        if_idle: bool = False,
    ) -> SleepReport:
        """Shut a node down cleanly, or only take its model out of memory where its GPU would not survive a stop.

        Args:
            node: which.
            on_event: told about the steps.
            force: also when it is busy or does not say; power is cut when it will not shut down, GPUs may be lost.
            may_rest: out of memory is enough where the VM must stay on; else that is refused.
            lose_gpu: shut down even where a GPU may not come back, to find that out for instance.
            if_idle: only if it still has been quiet for long enough: a pass decides on a look that may be minutes old.

        Raises:
            RefusedError: it is busy, held by somebody, not ours, or would lose a GPU.
            HypervisorError: the guest did not shut down in time.
        """
        others = self._beside(node)
        with self._world.locks.held(node.name):
            if not (force or lose_gpu) and any(not gpu.survives_stop for gpu in self._fleet.gpus_of(node)):
                return self.rest(node, on_event, may_rest=may_rest, if_idle=if_idle)
            report = self.shut_down(node, on_event, force=force, if_idle=if_idle)
        stay_on: list[str] = []
        for other in others:
            # Without their head they serve nobody. What else keeps one on is its own business: an idle pass sees to it.
            try:
                slept = self.sleep(other, on_event, force=force)
            except RefusedError as error:
                stay_on.append(f"{other.name} stays on: {error.summary}")
            else:
                stay_on += [f"{other.name} stays on: {slept.rested}"] if slept.rested else []
        return replace(report, stay_on=tuple(stay_on))

    def _beside(self, node: NodeSpec) -> tuple[NodeSpec, ...]:
        """Return the nodes that only compute for a head, which goes to sleep; none for any other."""
        if not any(mode.nodes[:1] == (node.name,) for mode in self._fleet.modes_of(node)):
            return ()
        if find_vm(self._api(node), node) is None:
            return ()
        now = noted(self._fleet, self._api(node), node)[0]
        return self._fleet.others_beside(now) if self._fleet.answering(now).name == now.name else ()

    def give_way(
        self, node: NodeSpec, leases: tuple[Lease, ...], on_event: OnEvent, *, is_drained: bool = False
    ) -> SleepReport:
        """Shut a node down for another that gets its GPUs, as the arbiter has decided; raises as `sleep`.

        Args:
            node: which.
            leases: its own, as they were when that was decided.
            on_event: told about the steps.
            is_drained: its gate was closed for this; who waits behind it is served after the other, and does not keep
                it on.

        Raises:
            OvertakenError: the leases are no longer the ones that it was decided on.
        """
        with self._world.locks.held(node.name):
            return self.shut_down(node, on_event, yielding=leases, is_drained=is_drained)

    def shut_down(
        self,
        node: NodeSpec,
        on_event: OnEvent,
        *,
        force: bool = False,
        yielding: tuple[Lease, ...] = (),
        is_drained: bool = False,
        look_inside: bool = True,
        if_idle: bool = False,
    ) -> SleepReport:
        """Shut a node down for a caller that holds its lock already; raises as `sleep`.

        Args:
            node: which.
            on_event: told about the steps.
            force: as in `sleep`.
            yielding: the leases of `give_way`.
            is_drained: as in `give_way`.
            look_inside: ask the guest too; not where its host key is being changed and nobody gets in.
            if_idle: as in `sleep`.
        """
        clock = self._world.clock
        api = self._api(node)
        begun = clock.monotonic()
        vm = find_vm(api, node)
        if vm is None or vm.power is Power.STOPPED:
            return SleepReport(node.name, was_running=False, seconds=clock.monotonic() - begun)
        require(node, vm, Act.SLEEP)
        if not force:
            self._require_no_head(node)
        with self.gate_closed(node):
            if not force:
                self._require_no_hold(node)
                self._drain(node)
                if look_inside:
                    use = self._require_unused(node, vm, with_waiting=not is_drained)
                    if if_idle:
                        self._require_verdict(use, IdleVerdict.SLEEP)
                else:
                    self.require_quiet(noted(self._fleet, api, node)[0])
            self._looks.leave(node.name)
            # The tag is read again right before: between look and act the VMID may have changed hands.
            vm = api.vm(node.hypervisor, node.vmid)
            if vm is None:
                return SleepReport(node.name, was_running=False, seconds=clock.monotonic() - begun)
            require(node, vm, Act.SLEEP)
            self._power_off(api, node, on_event, force=force, yielding=yielding)
        self._world.activity.forget(node.name)
        return SleepReport(node.name, was_running=True, seconds=clock.monotonic() - begun)

    def rest(self, node: NodeSpec, on_event: OnEvent, *, may_rest: bool = True, if_idle: bool = False) -> SleepReport:
        """Take a node's model out of its GPUs' memory for a caller that holds the node's lock; the VM stays on.

        Args:
            node: which.
            on_event: told about the steps.
            may_rest: as in `sleep`.
            if_idle: as in `sleep`.

        Raises:
            RefusedError: it is busy, or not ours, or its engine cannot.
            EngineError: its engine does not do what it is told.
        """
        clock, api, begun = self._world.clock, self._api(node), self._world.clock.monotonic()
        vm = find_vm(api, node)
        if vm is None or vm.power is Power.STOPPED:
            return SleepReport(node.name, was_running=False, seconds=clock.monotonic() - begun)
        require(node, vm, Act.SLEEP)
        with self.gate_closed(node):
            self._require_no_hold(node)
            self._drain(node)
            use = self._require_unused(node, vm)
            if if_idle:
                self._require_verdict(use, IdleVerdict.REST, IdleVerdict.SLEEP)
            lost = ", ".join(use.ladder.lost_by_stop)
            why = f"{lost} would not come back from a stop of its VM" if lost else "its VM stays on a while longer"
            if not may_rest or not use.ladder.can_rest:
                cannot = "" if use.ladder.can_rest else ", and its engine cannot let go of its model"
                raise RefusedError(
                    f"cannot put the node to sleep: {why}{cannot}",
                    subject=node.subject,
                    next_step=f"provisioner sleep {node.name} --force stops its VM all the same; the card may then be "
                    "gone until its server restarts",
                )
            if not use.ladder.rests:
                self._let_go(use, on_event)
        return SleepReport(node.name, was_running=True, seconds=clock.monotonic() - begun, rested=why)

    def _let_go(self, use: NodeUse, on_event: OnEvent) -> None:
        node = use.node
        engine = self._world.engines[self._fleet.mode_of(node).engine]
        memory = ModelMemory(self._fleet, node, self._world)
        with running_step(on_event, node, "rest", self._world.clock) as step:
            loaded = tuple(model.name for model in memory.loaded()) or self._fleet.mode_of(node).models
            for request in engine.sleep(loaded):
                memory.ask(request, "take the model out of memory", seconds=_REST_SECONDS)
            step.detail = f"{', '.join(loaded)} out of the GPU's memory"
        last, seen = self._world.activity.last(node.name), self._looks.engine(node)[0]
        if last is not None and seen is not None:
            # What we did ourselves is no use: the quiet time goes on.
            self._world.activity.record(node.name, replace(last, work_total=seen.work_total))

    def _power_off(
        self, api: Hypervisors, node: NodeSpec, on_event: OnEvent, *, force: bool, yielding: tuple[Lease, ...]
    ) -> None:
        claim = claim_of(self._fleet, node)
        freeing = self._arbitration.shutting_down(api, claim, yielding, despite_holds=force)
        with running_step(on_event, node, "shut down", self._world.clock) as step, freeing as require_still_wanted:
            require_still_wanted()
            try:
                warnings = api.shut_down_vm(node.hypervisor, node.vmid, seconds=node.patience.shutdown_seconds)
                step.detail = "; ".join(warnings)
            except ShutdownIgnoredError as error:
                if not (force or node.may_cut_power):
                    raise ShutdownIgnoredError(
                        error.summary,
                        subject=node.subject,
                        next_step=f"provisioner sleep {node.name} --force cuts the power; so does idle by itself with "
                        "may_cut_power: true in the fleet file",
                    ) from error
                # Minutes have passed: whose it is, who uses it or holds it by now, is asked again.
                vm = api.vm(node.hypervisor, node.vmid)
                if vm is not None:
                    require(node, vm, Act.SLEEP)
                    if not force:
                        self._require_not_busy(node, vm)
                    require_still_wanted()
                    api.stop_vm(node.hypervisor, node.vmid)
                step.detail = "power cut"

    @contextmanager
    def gate_closed(self, node: NodeSpec) -> Iterator[None]:
        """Let no request in meanwhile. Whatever comes of it the gate opens: who waits is served or wakes the node."""
        try:
            self._world.in_flight.close(node.name)
            yield
        finally:
            self._world.in_flight.open(node.name)
            if not self._keeps_looks:
                self._looks.close()

    @contextmanager
    def undisturbed(self, node: NodeSpec) -> Iterator[None]:
        """Keep a node to ourselves for work on its guest that may reboot it.

        An engine that does not answer serves nobody, and is perhaps what the work is for; so only what is known to use
        the node is a reason against it.

        Raises:
            RefusedError: it is busy, or held by somebody.
        """
        way_out = f"; provisioner release {node.name}, if it is yours"
        self._arbitration.require_no_hold(node, Act.PROVISION, way_out=way_out)
        with self.gate_closed(node):
            self._drain(node)
            use, why = self.use_of(node)
            if use is Use.BUSY:
                raise RefusedError(
                    f"cannot work on its kernel and driver: {why}",
                    subject=node.subject,
                    next_step="wait for that to end, or put it to sleep and wake it, then run the same command again",
                    retryable=True,
                )
            yield

    def _drain(self, node: NodeSpec) -> None:
        """Let the requests end that go through us. Raises RefusedError when they take too long."""
        in_flight = self._world.in_flight

        def look() -> bool | NotYet:
            running = in_flight.of(node.name).running
            return NotYet(f"{running} requests through us running") if running else True

        seconds = self._fleet.service.drain_seconds
        try:
            wait_until(look, clock=self._world.clock, seconds=seconds, pace=_DRAIN_PACE)
        except WaitedInVain as waited:
            raise RefusedError(
                f"cannot put the node to sleep: {waited.last_seen} after {seconds:g} s",
                subject=node.subject,
                next_step=f"wait for them; provisioner sleep {node.name} --force cuts them off",
                retryable=True,
            ) from waited

    def _require_no_head(self, node: NodeSpec) -> None:
        if any(mode.nodes for mode in self._fleet.modes_of(node)):
            now = noted(self._fleet, self._api(node), node)[0]
            Together(self._fleet, self._world).require_head_off(now, Act.SLEEP.value)

    def _require_no_hold(self, node: NodeSpec) -> None:
        way_out = f"; provisioner sleep {node.name} --force does not ask"
        self._arbitration.require_no_hold(node, Act.SLEEP, way_out=way_out)

    def use_of(self, node: NodeSpec) -> tuple[Use, str]:
        """Return whether requests are with a node that runs, which is in the mode that is noted; and that in words.

        Asked again and again while somebody waits for its GPU: who is logged in is asked when it is to go. Who waits
        behind a closed gate does not count: else one that is drained would never be quiet.
        """
        activity, why = self._looks.engine(node)
        is_open = self._world.in_flight.of(node.name).is_open
        busy = busy_reasons(activity, self._looks.traffic(node, with_waiting=is_open))
        if busy:
            return Use.BUSY, "; ".join(busy)
        if activity is None:
            return Use.UNKNOWN, why
        return (Use.UNKNOWN, activity.doubt) if activity.doubt else (Use.QUIET, "nobody uses it")

    def _require_unused(self, node: NodeSpec, vm: VmSeen, *, with_waiting: bool = True) -> NodeUse:
        """Look again at everything that may be using a node. Raises RefusedError."""
        use = self._looks.look(node, vm, with_waiting=with_waiting)
        self._refuse(use, Act.SLEEP)
        return use

    def _require_not_busy(self, node: NodeSpec, vm: VmSeen) -> None:
        """Look once more before the power of a guest is cut that has ignored its shutdown. Raises RefusedError.

        Half shut down it may well answer nothing any more: only what is known to use it keeps it on. Who waits behind
        its gate is served after its next start.
        """
        use = self._looks.look(node, vm, with_waiting=False)
        self._looks.leave(node.name)
        busy = busy_reasons(use.activity, use.signals)
        if busy:
            raise RefusedError(
                f"cannot cut its power: it did not shut down, and {'; '.join(busy)}",
                subject=node.subject,
                next_step=f"wait for that to end; provisioner sleep {node.name} --force cuts it off",
                retryable=True,
            )

    def _require_verdict(self, use: NodeUse, *verdicts: IdleVerdict) -> None:
        """Judge a node again as a pass does, on what it shows now. Raises RefusedError for any other verdict."""
        again = idle_decision(use, self._world.clock.now())
        if again.verdict not in verdicts:
            raise RefusedError(
                f"cannot {Act.SLEEP.value}: {again.reason}",
                subject=use.node.subject,
                next_step=f"wait for the next pass; provisioner sleep {use.node.name} does not ask for how long",
                retryable=True,
            )

    def require_quiet(self, node: NodeSpec, act: Act = Act.SLEEP) -> None:
        """Let an act pass only if no request is with the node, which is in the mode that is noted. Raises RefusedError.

        For acts that leave the guest on: who is logged in is not asked.
        """
        activity, why = self._looks.engine(node)
        self._refuse(NodeUse(node, None, activity, why, None, self._looks.traffic(node)), act)

    def _refuse(self, use: NodeUse, act: Act) -> None:
        node = use.node
        force = f"provisioner sleep {node.name} --force" if act is Act.SLEEP else "the same command with --force"
        busy = busy_reasons(use.activity, use.signals)
        if busy:
            raise RefusedError(
                f"cannot {act.value}: {'; '.join(busy)}",
                subject=node.subject,
                next_step=f"wait for that to end; {force} cuts it off",
                retryable=True,
            )
        unknown = unknown_reasons(use.activity, use.why_unknown, use.signals)
        if unknown:
            raise RefusedError(
                f"cannot {act.value}: {'; '.join(unknown)}",
                subject=node.subject,
                next_step=f"{force}, if you know that nobody uses it",
                retryable=True,
            )
        if use.activity is not None and use.activity.doubt:
            raise RefusedError(
                f"cannot {act.value}: whether it is in use is not known: {use.activity.doubt}",
                subject=node.subject,
                next_step=f"wait until it is unloaded; {force}, if you know that nobody uses it",
                retryable=True,
            )

    def _api(self, node: NodeSpec) -> Hypervisors:
        return self._world.clusters[self._fleet.cluster_of(node).name]
