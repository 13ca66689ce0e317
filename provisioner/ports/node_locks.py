"""One writer per node."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from provisioner.domain.names import NodeName


class NodeLocks(Protocol):
    """Locks that end with the process that holds them, however it ends."""

    def held(self, node: NodeName) -> AbstractContextManager[None]:
        """Hold a node. Raises RefusedError when another holds it; not reentrant."""
        ...
