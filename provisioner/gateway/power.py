"""The narrow port between the gateway and the synchronous rest: what is awake, and please wake this.

Behind it stand the arbiter, the wake and the control loop; here nobody knows
of Proxmox.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from provisioner.domain.names import NodeName
from provisioner.domain.serving import NodeNow


class Power(Protocol):
    """What the gateway may ask about nodes and of them."""

    def seen(self) -> Mapping[NodeName, NodeNow]:
        """Return every node of the fleet as last seen; at once, without asking anybody. Never blocks."""
        ...

    async def wake(self, node: NodeName) -> None:
        """Return when the node's model has answered.

        All who ask for the same node join one wake. Who no longer wants it
        cancels; when the last one has, and the VM was not started yet, nothing
        is started.

        Raises:
            ProvisionerError: it did not come; the cause is named. While a failed wake is not yet to be tried again,
                that of the last try is raised at once.
        """
        ...

    def retry_seconds(self, node: NodeName) -> float | None:
        """Return how long a failed wake of a node is not tried again; None when it may be tried. Never blocks."""
        ...

    def doubt(self, node: NodeName) -> None:
        """Say that a node that passes for ready does not answer, so that it is looked at again. Never blocks."""
        ...
