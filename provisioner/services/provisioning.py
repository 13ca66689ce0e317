"""Brings a node into being, repairs it, takes it away.

Nothing is remembered between runs: every run looks at Proxmox, plans from
what it sees and goes on from there, so a run killed anywhere is continued by
the next.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from provisioner.domain.actions import Plan, RunPlaybook, UploadSeed
from provisioner.domain.fleet import ClusterSpec, FleetSpec, NodeSpec
from provisioner.domain.models.model import Subject
from provisioner.domain.names import NodeName
from provisioner.domain.snapshot import NodeSeen
from provisioner.engines.base import InferenceEngine
from provisioner.errors import HypervisorError, ProvisionerError, RefusedError
from provisioner.planning.plans import what_outdates
from provisioner.planning.provision import plan_node
from provisioner.ports.hypervisors import Hypervisors
from provisioner.services.destroying import Destroying
from provisioner.services.engine_web import engine_key, engine_web
from provisioner.services.events import OnEvent, ignore, running_step
from provisioner.services.executor import Executor
from provisioner.services.guest_access import GuestAccess
from provisioner.services.looking import Looker, look
from provisioner.services.noted_modes import noted
from provisioner.services.playbook_secrets import with_secrets
from provisioner.services.proving import Endpoint
from provisioner.services.sleeping import Sleeping
from provisioner.services.slot_taking import SlotTaking
from provisioner.services.templates import TemplateMaker
from provisioner.services.together import Together
from provisioner.services.vm_maker import VmMaker
from provisioner.services.world import World

# A plan is made anew when the world moved under it; more than this many times is a loop.
_MOST_ROUNDS = 4
# Each has a connection of its own. More make nothing quicker: one Python computes at a time.
_MOST_LOOKS_AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class UpReport:
    """What `up` did for one node. `calls` counts Proxmox API requests, `remark` is the plan's."""

    node: str
    changed: tuple[str, ...]
    endpoint: Endpoint
    reply: str
    seconds: float
    calls: int
    remark: str = ""
    left_for_next_start: str = ""
    """Why changes that were written have not taken effect yet."""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node,
            "changed": list(self.changed),
            "endpoint": self.endpoint.as_dict(),
            "reply": self.reply,
            "seconds": round(self.seconds, 3),
            "api_calls": self.calls,
            "remark": self.remark,
            "left_for_next_start": self.left_for_next_start,
        }


class Provisioning:
    """`plan`, `up`, `destroy`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        # Who wants the same image on the same storage waits for the first to fetch it; nobody else waits.
        self._image_locks: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
        self._templates = TemplateMaker(fleet, world.clock)

    def plan(self, node: NodeSpec, *, renew_driver: bool = False) -> Plan:
        """Look, and return what `up` would do."""
        return self._planned(node, look(self._fleet, self._api(node), node), renew_driver=renew_driver)

    def _planned(self, node: NodeSpec, seen: NodeSeen, *, renew_driver: bool = False) -> Plan:
        seen = replace(seen, models=self._models(node))
        plan = plan_node(self._fleet, node, seen, self._world.engines, renew_driver=renew_driver)
        if any(isinstance(step.action, UploadSeed) for step in plan.steps):
            # Before anything is done. A node whose first boot is over needs nothing of this any more.
            self._world.seeds.verify(node)
        return plan

    def _models(self, node: NodeSpec) -> dict[str, Subject]:
        """Return what the files here tell of the models that a node is to have."""
        names = {name for mode in self._fleet.modes_of(node) for name in mode.models if name in self._fleet.models}
        paths = {name: path for name in names if (path := self._fleet.models[name].local_path) is not None}
        found = {name: self._world.model_files.subject(path) for name, path in paths.items()}
        return {name: subject for name, subject in found.items() if subject is not None}

    def plans(self, nodes: Sequence[NodeSpec]) -> dict[NodeName, Plan | ProvisionerError]:
        """Look at several nodes and return what `up` would do, or why that cannot be told; in the order given.

        What nodes share is asked for once, and their power is what the cluster last reported, some seconds old.
        """
        looker = Looker(self._fleet)

        def one(node: NodeSpec) -> Plan | ProvisionerError:
            try:
                return self._planned(node, looker.look(self._api(node), node))
            except ProvisionerError as error:
                return error

        if not nodes:
            return {}
        with ThreadPoolExecutor(min(len(nodes), _MOST_LOOKS_AT_ONCE), thread_name_prefix="plan") as pool:
            return dict(zip((node.name for node in nodes), pool.map(one, nodes), strict=True))

    def apply(self, plan: Plan, on_event: OnEvent) -> UpReport:
        """Carry out what a plan has shown, or what is left of it; nothing else.

        Raises:
            RefusedError: the plan is a refusal, or no longer the plan: the summary says what changed meanwhile.
            ProvisionerError: a step failed; the next run continues there.
        """
        node = plan.node
        with self._world.locks.held(node.name):
            calls = self._api(node).calls
            if plan.refusal is None:
                now = self.plan(node, renew_driver=plan.renews_driver)
                outdated = what_outdates(plan, now)
                if outdated is not None:
                    raise RefusedError(
                        f"cannot carry out the plan: the VM is not what it was made for: {outdated}",
                        subject=node.subject,
                        next_step=f"provisioner plan {node.name} shows what is to do now; then: "
                        f"provisioner up {node.name}",
                    )
                plan = now
            return self._apply(plan, on_event, calls)

    def with_others(self, nodes: Sequence[NodeSpec]) -> tuple[NodeName, ...]:
        """Return nodes with those that their modes need beside them, each once.

        Which mode a node is in is asked for only where one of its modes is served together; where that cannot be
        told, bringing the node itself up tells why.
        """
        names: list[NodeName] = []
        for node in nodes:
            names.append(node.name)
            if not any(mode.nodes for mode in self._fleet.modes_of(node)):
                continue
            with suppress(ProvisionerError):
                api = self._api(node)
                exists = api.vm(node.hypervisor, node.vmid) is not None
                now = noted(self._fleet, api, node)[0] if exists else node
                names += [each.name for each in self._fleet.others_beside(now)]
        return tuple(dict.fromkeys(names))

    def up(self, node: NodeSpec, on_event: OnEvent, *, renew_driver: bool = False) -> UpReport:
        """Plan and apply under one lock, so that no other writer comes between the two."""
        with self._world.locks.held(node.name):
            calls = self._api(node).calls
            return self._apply(self.plan(node, renew_driver=renew_driver), on_event, calls)

    def _apply(self, plan: Plan, on_event: OnEvent, calls_before: int) -> UpReport:
        node = plan.node
        api = self._api(node)
        clock = self._world.clock
        started = clock.monotonic()
        executor = self._executor(node)
        if plan.refusal is None:
            self._require_secrets(plan)
        changed: list[str] = []
        for _ in range(_MOST_ROUNDS):
            executor.maker.take_back_seed(plan)
            if plan.refusal:
                raise RefusedError(
                    f"cannot provision the node: {plan.refusal.reason}",
                    subject=node.subject,
                    next_step=plan.refusal.next_step,
                )
            if self._carry_out(plan, executor, changed, on_event):
                break
            plan = self.plan(node, renew_driver=plan.renews_driver)
        if executor.proof is None:
            raise HypervisorError(
                f"cannot provision the node: its VM kept changing under {_MOST_ROUNDS} plans",
                subject=node.subject,
                next_step="see who else works on it (Proxmox > Tasks), then run the same command again",
                retryable=True,
            )
        return UpReport(
            node.name,
            tuple(changed),
            executor.proof.endpoint,
            executor.proof.reply,
            clock.monotonic() - started,
            api.calls - calls_before,
            plan.remark,
            executor.left_for_next_start,
        )

    def _require_secrets(self, plan: Plan) -> None:
        """Make sure, before anything is begun, that what later steps need can be read. Raises InputError."""
        engine_key(self._fleet, self._world, plan.node).require()
        for step in plan.steps:
            if isinstance(step.action, RunPlaybook):
                with_secrets(
                    step.action.variables,
                    lambda reference: self._world.secret(reference, subject=plan.node.subject),
                )

    def destroy(self, node: NodeSpec, on_event: OnEvent) -> tuple[str, ...]:
        """Delete a node's VM, disks and seed; return what was removed, in words.

        Raises:
            RefusedError: the VM is not ours, or must not be deleted.
        """
        return Destroying(self._fleet, self._world).destroy(node, on_event)

    def _api(self, node: NodeSpec) -> Hypervisors:
        return self._world.clusters[self._cluster(node).name]

    def _cluster(self, node: NodeSpec) -> ClusterSpec:
        return self._fleet.cluster_of(node)

    def _engine(self, node: NodeSpec) -> InferenceEngine:
        return self._world.engines[self._fleet.mode_of(node).engine]

    def _executor(self, node: NodeSpec) -> Executor:
        world, cluster = self._world, self._cluster(node).name
        engine, api = self._engine(node), world.clusters[cluster]
        return Executor(
            fleet=self._fleet,
            node=node,
            engine=engine,
            hypervisors=api,
            guests=GuestAccess(world.shells[cluster], world.clock),
            playbooks=world.playbooks[cluster],
            seeds=world.seeds,
            web=engine_web(self._fleet, world, node),
            clock=world.clock,
            maker=VmMaker(self._fleet, node, engine, api, world.seeds, world.clock, self._templates),
            image_lock=lambda storage, image: self._image_locks[cluster, storage, image],
            secret=lambda reference: world.secret(reference, subject=node.subject),
            shut_down=lambda look_inside: self._shut_down(node, look_inside=look_inside),
            start=lambda say: SlotTaking(self._fleet, world).start_node(node, say),
            undisturbed=lambda: Sleeping(self._fleet, world).undisturbed(node),
            others=lambda seconds: Together(self._fleet, world).watch(node, seconds=seconds),
        )

    def _shut_down(self, node: NodeSpec, *, look_inside: bool) -> None:
        """Shut a node down to start it again. Raises RefusedError while it is busy, or where it would lose a GPU."""
        lost = [f"GPU {gpu.name}" for gpu in self._fleet.gpus_of(node) if not gpu.survives_stop]
        if lost:
            raise RefusedError(
                f"cannot restart the node: {', '.join(lost)} would not come back from a stop of its VM",
                subject=node.subject,
                next_step=f"restart {node.hypervisor} when it suits; its next start takes the changes over",
            )
        Sleeping(self._fleet, self._world).shut_down(node, ignore, look_inside=look_inside)

    def _carry_out(self, plan: Plan, executor: Executor, changed: list[str], on_event: OnEvent) -> bool:
        """Run a plan's steps; return False when the rest must be planned anew."""
        executor.begin(plan)
        for step in plan.steps:
            with running_step(on_event, executor.node, step.name, self._world.clock) as running:
                outcome = executor.carry_out(step.action, running.say)
                running.detail, running.changed = outcome.detail, outcome.changed
            if outcome.changed:
                changed.append(step.name)
            if outcome.replan:
                return False
        return True
