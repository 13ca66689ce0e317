"""What we must remember between two looks because nobody else does: when a node was last used."""

from __future__ import annotations

from typing import Protocol

from provisioner.domain.activity import ActivityRecord
from provisioner.domain.names import NodeName


class ActivityLog(Protocol):
    """Last activity by node; survives kill -9."""

    def last(self, node: NodeName) -> ActivityRecord | None:
        """Return what was last recorded."""
        ...

    def record(self, node: NodeName, record: ActivityRecord) -> None:
        """Replace what was recorded."""
        ...

    def forget(self, node: NodeName) -> None:
        """Drop the record of a node that is gone or was started anew."""
        ...
