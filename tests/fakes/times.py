"""How long nodes were awake and asleep, in a dictionary."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.names import NodeName
from provisioner.domain.savings import CountedTime

_DAY_SECONDS = 86400


class MemoryTimeBook:
    """The port `TimeBook`; `fails` is raised by the next additions."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, NodeName], CountedTime] = {}
        self.fails: Exception | None = None

    def add(self, at: float, counted: Mapping[NodeName, CountedTime]) -> None:
        if self.fails is not None:
            raise self.fails
        for node, each in counted.items():
            key = (int(at // _DAY_SECONDS), node)
            self._sums[key] = self._sums.get(key, CountedTime()) + each

    def total(self, since: float = 0.0) -> Mapping[NodeName, CountedTime]:
        found: dict[NodeName, CountedTime] = {}
        for (day, node), each in self._sums.items():
            if day >= int(since // _DAY_SECONDS):
                found[node] = found.get(node, CountedTime()) + each
        return found

    def begins(self) -> float | None:
        return min((float(day * _DAY_SECONDS) for day, _ in self._sums), default=None)
