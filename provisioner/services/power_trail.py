"""What GPUs drew over the last day, minute by minute, in memory: a picture for people. Energy is counted elsewhere."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from provisioner.domain.names import NodeName
from provisioner.ports.clock import Clock

_MINUTE = 60.0
_MINUTES_KEPT = 24 * 60 + 1


@dataclass(slots=True)
class _Minute:
    begins: float
    sums: dict[NodeName, tuple[float, int]] = field(default_factory=dict)

    def watts(self, node: NodeName | None) -> float | None:
        """Return the mean draw of a node, or of all together for None."""
        chosen = self.sums if node is None else {node: self.sums[node]} if node in self.sums else {}
        return sum(total / count for total, count in chosen.values()) if chosen else None


class PowerTrail:
    """Remembers. `turn` is called by one thread, the rest by any."""

    def __init__(self, watts: Callable[[], Mapping[NodeName, float]], clock: Clock) -> None:
        """Begin with nothing.

        Args:
            watts: what the GPUs of nodes draw now; a node that nobody could ask is missing.
            clock: tells the minute.
        """
        self._watts = watts
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes: deque[_Minute] = deque(maxlen=_MINUTES_KEPT)

    def turn(self) -> None:
        """Take down what is drawn now."""
        found, now = self._watts(), self._clock.now()
        begins = now // _MINUTE * _MINUTE
        with self._lock:
            # A clock that was set back adds to the minute that was last; it is a picture.
            if not self._minutes or self._minutes[-1].begins < begins:
                self._minutes.append(_Minute(begins))
            sums = self._minutes[-1].sums
            for node, watts in found.items():
                total, count = sums.get(node, (0.0, 0))
                sums[node] = (total + watts, count + 1)

    @property
    def is_empty(self) -> bool:
        """Nobody has told a figure yet."""
        with self._lock:
            return not any(minute.sums for minute in self._minutes)

    def steps(self, *, count: int, seconds: float, node: NodeName | None = None) -> tuple[float | None, ...]:
        """Return the mean draw in steps of time up to now, in watts; None where nobody told."""
        begins = (self._clock.now() // seconds - count + 1) * seconds
        sums = [(0.0, 0)] * count
        with self._lock:
            for minute in self._minutes:
                at, watts = int((minute.begins - begins) // seconds), minute.watts(node)
                if 0 <= at < count and watts is not None:
                    sums[at] = (sums[at][0] + watts, sums[at][1] + 1)
        return tuple(total / number if number else None for total, number in sums)
