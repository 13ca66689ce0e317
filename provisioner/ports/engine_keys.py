"""The keys that engines ask for; clients never see them."""

from __future__ import annotations

from typing import Protocol

from provisioner.domain.names import EngineName, NodeName
from provisioner.ports.web import Headers


class EngineKeys(Protocol):
    """Keys by node, as the engine that runs there wants them shown."""

    def headers(self, node: NodeName, engine: EngineName, path: str) -> Headers:
        """Return what a request for a path must carry; nothing where that engine asks nobody. Never blocks."""
        ...
