"""Counts what nodes go through, by the entries of the journal: wakes, shutdowns, changes of mode."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from provisioner.domain.events import FAILED_BY_GPU, Entry, Kind, NewEntry
from provisioner.domain.names import NodeName

_RESULTS = {"done": "done", "failed": "failed", "given up": "given_up"}
# As many as say how long a wake usually takes, elsewhere too.
_COUNTED_WAKES = 5


@dataclass(slots=True)
class Tallied:
    """Counts by node and result; `wake_seconds` are those of the latest wakes that started a VM, the newest last."""

    wakes: dict[tuple[NodeName, str], int] = field(default_factory=dict)
    sleeps: dict[tuple[NodeName, str], int] = field(default_factory=dict)
    switches: dict[tuple[NodeName, str], int] = field(default_factory=dict)
    wake_seconds: dict[NodeName, tuple[float, ...]] = field(default_factory=dict)


class Tally:
    """Safe to use from several threads."""

    def __init__(self, wake_seconds: Mapping[NodeName, tuple[float, ...]] | None = None) -> None:
        """Begin; `wake_seconds` is what earlier services saw."""
        self._lock = threading.Lock()
        self._tallied = Tallied(wake_seconds=dict(wake_seconds or {}))

    def see(self, entry: NewEntry) -> None:
        """Count what an entry tells of, if it is something that ended."""
        node, result = entry.node, _RESULTS.get(entry.phase)
        if node is None or result is None:
            return
        with self._lock:
            if entry.kind is Kind.WAKE:
                self._wake(node, result, entry)
            elif entry.kind is Kind.MODE:
                _more(self._tallied.switches, (node, result))
            elif entry.kind is Kind.STEP and entry.facts.get("step") == "shut down" and result != "given_up":
                _more(self._tallied.sleeps, (node, result))

    def read(self) -> Tallied:
        """Return what was counted."""
        with self._lock:
            now = self._tallied
            return Tallied(dict(now.wakes), dict(now.sleeps), dict(now.switches), dict(now.wake_seconds))

    def _wake(self, node: NodeName, result: str, entry: NewEntry) -> None:
        started, seconds = entry.facts.get("started"), entry.facts.get("seconds")
        if result == "done" and not started:
            result = "joined"
        elif result == "failed" and entry.facts.get(FAILED_BY_GPU):
            result = "failed_gpu"
        _more(self._tallied.wakes, (node, result))
        if result == "done" and isinstance(seconds, int | float):
            before = self._tallied.wake_seconds.get(node, ())
            self._tallied.wake_seconds[node] = (*before, float(seconds))[-_COUNTED_WAKES - 1 :]


def earlier_wakes(entries: Iterable[Entry]) -> dict[NodeName, tuple[float, ...]]:
    """Return how long the wakes took that a journal tells of, the newest last; only those that started a VM."""
    found: dict[NodeName, tuple[float, ...]] = {}
    for entry in entries:
        seconds = entry.facts.get("seconds")
        is_wake = entry.kind is Kind.WAKE and entry.phase == "done" and entry.facts.get("started")
        if is_wake and entry.node is not None and isinstance(seconds, int | float):
            found[entry.node] = (*found.get(entry.node, ()), float(seconds))[-_COUNTED_WAKES - 1 :]
    return found


def usual(seconds: tuple[float, ...]) -> float | None:
    """Return the median of all wakes but the last; None where there were none before."""
    return median(seconds[:-1]) if len(seconds) > 1 else None


def _more(sums: dict[tuple[NodeName, str], int], key: tuple[NodeName, str]) -> None:
    sums[key] = sums.get(key, 0) + 1
