"""What we must remember between two looks because nobody else does: when a node was last used."""

from __future__ import annotations

from typing import Protocol

from provisioner.domain.activity import ActivityRecord, HoursServed
from provisioner.domain.names import NodeName


class ActivityLog(Protocol):
    """Last activity by node; survives kill -9."""

    def last(self, node: NodeName) -> ActivityRecord | None:
        """Return what was last recorded."""
        ...

    def record(self, node: NodeName, record: ActivityRecord) -> None:
        """Replace what was recorded."""
        ...

    def hours_served(self, node: NodeName) -> HoursServed | None:
        """Return the awake hours that a node was last on in, or woken for; they outlive its sleep."""
        ...

    def serve_hours(self, node: NodeName, served: HoursServed) -> None:
        """Replace them."""
        ...

    def forget(self, node: NodeName) -> None:
        """Drop the record of a node that is gone or was started anew."""
        ...
