"""Brings several nodes into a mode that they serve together, and back when it does not answer.

All of them are asked first whether they may be switched, with the locks of all
held to the end. Then the notes are written, and a wake of the head does the
rest as it does after any boot: those that are off are started, each guest is
told of its mode, the head is proved.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ModeSpec
from provisioner.domain.names import ModeName
from provisioner.domain.snapshot import Power
from provisioner.errors import EngineError, OutsideError, ProvisionerError, RefusedError
from provisioner.planning.ownership import Act
from provisioner.services.arbitration import Arbitration
from provisioner.services.events import OnEvent, running_step
from provisioner.services.mode_notes import note_mode
from provisioner.services.noted_modes import noted
from provisioner.services.proving import Endpoint
from provisioner.services.sleeping import Sleeping
from provisioner.services.switchable import switchable_vm
from provisioner.services.waking import Waking
from provisioner.services.world import World


@dataclass(frozen=True, slots=True)
class _Member:
    """A node as it was before: its mode, and whether it ran."""

    node: NodeSpec
    is_on: bool


@dataclass(frozen=True, slots=True)
class TogetherReport:
    """What became of a switch. `endpoint` is the head's; None where it is off and was only noted."""

    previous: ModeName
    reason: str
    endpoint: Endpoint | None


class SwitchingTogether:
    """Part of `mode`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world
        self._sleeping = Sleeping(fleet, world)

    def switch(self, node: NodeSpec, mode: ModeSpec, on_event: OnEvent, *, force: bool) -> TogetherReport:
        """Bring all nodes of a mode into it; raises as `ModeSwitching.switch`.

        The locks of the nodes are this method's own business: who calls holds none of them. A wake takes none of those
        that it wakes.
        """
        head = self._fleet.nodes[mode.nodes[0]]
        if node.name != head.name:
            raise RefusedError(
                f'cannot switch the mode: {head.name} leads {", ".join(mode.nodes)} in mode "{mode.name}"',
                subject=node.subject,
                next_step=f"provisioner mode {head.name} {mode.name}",
            )
        with ExitStack() as held:
            # All or none, before anything is looked at: what is found stays so until the last one has answered.
            for name in mode.nodes:
                held.enter_context(self._world.locks.held(name))
            members = [self._member(self._fleet.nodes[name]) for name in mode.nodes]
            # Closed before they are asked: a request that came in between would be cut off.
            for member in members:
                if member.is_on and member.node.mode != mode.name:
                    held.enter_context(self._sleeping.gate_closed(member.node))
                    self._require_willing(member.node, members[0], force=force)
            return self._switch_all(members, mode, on_event)

    def _switch_all(self, members: list[_Member], mode: ModeSpec, on_event: OnEvent) -> TogetherReport:
        head, reason = members[0].node, f"{', '.join(mode.nodes)} serve it together"
        begun: list[_Member] = []
        try:
            with running_step(on_event, head, "note", self._world.clock) as step:
                step.detail = reason
                for member in members:
                    begun.append(member)
                    self._note(member.node, mode.name)
            if not members[0].is_on:
                return TogetherReport(head.mode, f"{reason}; {head.name} is off: its next start brings it", None)
            endpoint = Waking(self._fleet, self._world).wake(self._fleet.nodes[head.name], on_event).endpoint
        except ProvisionerError as failure:
            raise self._rolled_back(failure, begun, mode, on_event) from failure
        return TogetherReport(head.mode, reason, endpoint)

    def _member(self, node: NodeSpec) -> _Member:
        api = self._world.clusters[self._fleet.cluster_of(node).name]
        vm = switchable_vm(self._fleet, self._world, node)
        now = noted(self._fleet, api, node)[0]
        release = self._fleet.release_of(now)
        if release is not None:
            raise RefusedError(
                f"cannot switch the mode: the GPUs of {node.name} are given to VM {release.vmid}",
                subject=node.subject,
                next_step=f"provisioner mode {node.name} {self._fleet.mode_of(now).name} takes them back",
            )
        return _Member(now, vm.power is not Power.STOPPED)

    def _require_willing(self, node: NodeSpec, head: _Member, *, force: bool) -> None:
        """Raise RefusedError unless a node that runs may leave what it does now."""
        if not head.is_on:
            raise RefusedError(
                f'cannot switch the mode: {node.name} serves mode "{node.mode}", and {head.node.name} is off',
                subject=head.node.subject,
                next_step=f"provisioner sleep {node.name}, or provisioner wake {head.node.name}; then the same "
                "command again",
            )
        if not force:
            way_out = "; the same command with --force does not ask"
            Arbitration(self._fleet, self._world).require_no_hold(node, Act.SWITCH, way_out=way_out)
            self._sleeping.require_quiet(node, Act.SWITCH)

    def _note(self, node: NodeSpec, mode: ModeName) -> None:
        note_mode(self._fleet, self._world, self._fleet.in_mode(node, mode), waits=True)
        self._world.activity.forget(node.name)

    def _rolled_back(
        self, failure: ProvisionerError, members: list[_Member], mode: ModeSpec, on_event: OnEvent
    ) -> ProvisionerError:
        """Bring those back that were in another mode before, and return the error that tells of all."""
        if members[0].node.mode == mode.name:
            return failure
        told, back = [], []
        for member in members:
            try:
                self._note(member.node, member.node.mode)
            except ProvisionerError as second:
                told.append(
                    f'{member.node.name} was in mode "{member.node.mode}", and that could not be noted again: '
                    f"{second.summary}"
                )
            else:
                back.append(member)
        for member in back:
            if not member.is_on:
                continue
            try:
                Waking(self._fleet, self._world).wake(self._fleet.nodes[member.node.name], on_event)
            except ProvisionerError as second:
                told.append(f'mode "{member.node.mode}" of {member.node.name} did not come back: {second.summary}')
            else:
                told.append(f'mode "{member.node.mode}" of {member.node.name} is back and answers')
        error = EngineError(
            "\n".join((f'cannot switch to mode "{mode.name}": {failure.summary.removeprefix("cannot ")}', *told)),
            subject=members[0].node.subject,
            next_step=failure.next_step,
            retryable=failure.retryable,
        )
        error.diagnosis = failure.diagnosis if isinstance(failure, OutsideError) else None
        return error
