"""How long nodes were awake and asleep, and what that took: counted by day, and never lost by a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from provisioner.domain.names import NodeName
from provisioner.domain.savings import CountedTime


class TimeBook(Protocol):
    """Sums per node and day (UTC). What was added survives kill -9. Safe to use from several threads."""

    def add(self, at: float, counted: Mapping[NodeName, CountedTime]) -> None:
        """Add what was counted to the day of a moment (UNIX seconds)."""
        ...

    def total(self, since: float = 0.0) -> Mapping[NodeName, CountedTime]:
        """Return the sums from the day of a moment on."""
        ...

    def begins(self) -> float | None:
        """Return the beginning of the first day in it, in UNIX seconds; None when it is empty."""
        ...
