"""Nodes that serve a mode together: whether the others of one are there, and in the same mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.snapshot import Power, VmSeen
from provisioner.errors import NotReadyError, RefusedError
from provisioner.services.looking import find_vm
from provisioner.services.noted_modes import noted
from provisioner.services.world import World

# The others may be brought up beside this one; a look costs a call or two for each.
_LOOK_SECONDS = 10.0


def all_of(*looks: Callable[[], None]) -> Callable[[], None]:
    """Return a look that is several of them, one after another."""

    def look() -> None:
        for each in looks:
            each()

    return look


class Together:
    """The nodes of one assignment, seen from one of them."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def others(self, node: NodeSpec) -> tuple[tuple[NodeSpec, VmSeen], ...]:
        """Return the others that serve a node's mode with it, each as noted, with its VM.

        Raises:
            RefusedError: one of them has no VM, or is in another mode.
        """
        found = []
        for other, vm in self._look(node):
            if vm is None:
                mode = self._fleet.mode_of(node)
                raise RefusedError(
                    f'cannot serve mode "{mode.name}": {other.name} is part of it and has no VM yet',
                    subject=node.subject,
                    next_step=f"provisioner up {' '.join(mode.nodes)}",
                )
            found.append((other, vm))
        return tuple(found)

    def _look(self, node: NodeSpec) -> Iterator[tuple[NodeSpec, VmSeen | None]]:
        """Yield the others with their VMs. Raises RefusedError for one in another mode."""
        mode, head = self._fleet.mode_of(node), self._fleet.answering(node)
        for other in self._fleet.others_beside(node):
            api = self._world.clusters[self._fleet.cluster_of(other).name]
            vm = find_vm(api, other)
            if vm is None:
                yield other, None
                continue
            now = noted(self._fleet, api, self._fleet.nodes[other.name])[0]
            if now.mode != mode.name:
                raise RefusedError(
                    f'cannot serve mode "{mode.name}": {other.name} is part of it and is in mode "{now.mode}"',
                    subject=node.subject,
                    next_step=f"provisioner mode {head.name} {mode.name} brings all of its nodes into it",
                )
            yield now, vm

    def head_serves(self, node: NodeSpec) -> bool:
        """Say whether the head of a node's mode is on in that mode, so that this node computes for it.

        Of a node that serves alone, or is the head itself, it says no. Raises HypervisorError.
        """
        head = self._fleet.answering(node)
        if head.name == node.name:
            return False
        api = self._world.clusters[self._fleet.cluster_of(head).name]
        vm = find_vm(api, head)
        if vm is None or vm.power is Power.STOPPED:
            return False
        return noted(self._fleet, api, self._fleet.nodes[head.name])[0].mode == head.mode

    def require_head_off(self, node: NodeSpec, what: str, next_step: str = "") -> None:
        """Let an act pass only if a node does not compute for a head. Raises RefusedError."""
        if not self.head_serves(node):
            return
        head = self._fleet.answering(node)
        raise RefusedError(
            f'cannot {what}: {head.name} serves mode "{head.mode}" with it',
            subject=node.subject,
            next_step=next_step or f"provisioner sleep {head.name} puts all of its nodes to sleep",
            retryable=True,
        )

    def watch(self, node: NodeSpec, *, seconds: float) -> Callable[[], None]:
        """Return a look that ends the wait for an answer to which others are needed that do not come.

        It raises NotReadyError once one of them has been off for `seconds`, and RefusedError at once where one is in
        another mode. For a node that serves alone it looks at nothing.
        """
        clock = self._world.clock
        is_alone = not self._fleet.others_beside(node)
        deadline = clock.monotonic() + seconds
        next_look = [float("-inf")]

        def look() -> None:
            now = clock.monotonic()
            if is_alone or now < next_look[0]:
                return
            next_look[0] = min(now + _LOOK_SECONDS, deadline) if now < deadline else now + _LOOK_SECONDS
            missing = [str(other.name) for other, vm in self._look(node) if vm is None or vm.power is Power.STOPPED]
            if missing and now >= deadline:
                mode = self._fleet.mode_of(node)
                raise NotReadyError(
                    f'cannot get an answer: mode "{mode.name}" needs {", ".join(missing)} too, and nobody brought '
                    f"that up within {seconds:g} s",
                    subject=node.subject,
                    next_step=f"provisioner up {' '.join(mode.nodes)}",
                    retryable=True,
                )

        return look
