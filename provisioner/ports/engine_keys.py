"""The keys that engines ask for; clients never see them."""

from __future__ import annotations

from typing import Protocol

from provisioner.domain.names import NodeName


class EngineKeys(Protocol):
    """Keys by node."""

    def key(self, node: NodeName) -> str:
        """Return what a node's engine asks for; empty where it asks for nothing. Never blocks."""
        ...
