"""How long a node stays up at least once it has been woken: what it cost to wake says what is worth it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from provisioner.domain.quantities import duration_text

LEAST_SECONDS = 120.0
"""Where nothing was measured yet."""
COUNTED_WAKES = 5
"""So many of the last wakes count: an engine that was changed loads faster or slower."""
# The classic bound for renting or buying: who keeps what it cost to get for as long as that took pays at most twice
# what one would who knew when the next request comes. As much again is for the machine's wear.
_TIMES_ITS_WAKE = 2.0


@dataclass(frozen=True, slots=True)
class LeastUptime:
    """Seconds, and why so many; `because` is empty where the fleet file says it."""

    seconds: float
    because: str = ""


def least_uptime(wanted: float | None, wakes: Sequence[float]) -> LeastUptime:
    """Return how long a node is to stay up at least.

    Args:
        wanted: what the fleet file says; it counts whatever was measured. None where it says nothing.
        wakes: how many seconds the node's last wakes took, in any order.
    """
    if wanted is not None:
        return LeastUptime(wanted)
    if not wakes:
        return LeastUptime(LEAST_SECONDS)
    usual = median(wakes)
    if usual * _TIMES_ITS_WAKE <= LEAST_SECONDS:
        return LeastUptime(LEAST_SECONDS)
    return LeastUptime(usual * _TIMES_ITS_WAKE, f": waking it takes {duration_text(usual)}")
