"""Getting into a guest that is awake, as it is: nothing is started, and nobody waits for a boot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.notes import read_notes
from provisioner.domain.snapshot import Power
from provisioner.errors import GuestError, HypervisorError, NotReadyError, RefusedError
from provisioner.ports.guest_shell import GuestAway, GuestShell
from provisioner.services.guest_access import GuestAccess
from provisioner.services.looking import find_vm
from provisioner.services.world import World

# One that is awake answers at once; this is for one that swaps or has just been woken.
_LOGIN_SECONDS = 15.0


class Entering:
    """Opens shells into guests that run."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    @contextmanager
    def shell(self, node: NodeSpec, *, seconds: float = _LOGIN_SECONDS) -> Iterator[GuestShell]:
        """Log in to a node's guest.

        Raises:
            RefusedError: the node is adopted.
            NotReadyError: it is off, or nobody answers within `seconds`.
            GuestError: the connection broke, or our key is refused.
        """
        self.require_running(node)
        guests = GuestAccess(self._world.shells[self._fleet.cluster_of(node).name], self._world.clock)
        with guests.shell(node, self.host_key(node), seconds=seconds) as shell, told(node):
            yield shell

    def require_running(self, node: NodeSpec) -> None:
        """Make sure that a node is on. Raises NotReadyError."""
        vm = find_vm(self._world.clusters[self._fleet.cluster_of(node).name], node)
        if vm is None:
            raise NotReadyError(
                "cannot look inside: the node has no VM yet",
                subject=node.subject,
                next_step=f"provisioner up {node.name}",
            )
        if vm.power is Power.STOPPED:
            raise NotReadyError(
                "cannot look inside: the node is off",
                subject=node.subject,
                next_step=f"provisioner wake {node.name}",
                retryable=True,
            )

    def host_key(self, node: NodeSpec) -> str:
        """Return the public host key that a guest was given.

        Raises:
            RefusedError: the node is adopted.
            HypervisorError: nothing tells the key.
        """
        if node.adopt:
            raise RefusedError(
                "cannot log in: the node is adopted, so its guest knows neither our key nor we its host key",
                subject=node.subject,
                next_step=f"log in your own way: ssh YOU@{node.reach.address}",
            )
        api = self._world.clusters[self._fleet.cluster_of(node).name]
        host_key = read_notes(api.config(node.hypervisor, node.vmid).notes).host_key
        if host_key is None:
            raise HypervisorError(
                "cannot log in: the node's VM does not exist, or its notes do not hold the guest's host key",
                subject=node.subject,
                next_step=f"provisioner up {node.name}",
            )
        return host_key


@contextmanager
def told(node: NodeSpec) -> Iterator[None]:
    """Tell a connection that broke as an error about the node."""
    try:
        yield
    except GuestAway as gone:
        raise GuestError(
            f"cannot go on inside the guest: {gone}",
            subject=node.subject,
            next_step=f"provisioner status {node.name} says whether it still runs; then try again",
            retryable=True,
        ) from gone
