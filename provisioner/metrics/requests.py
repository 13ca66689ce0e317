"""Counts requests for models as they end, on their way into the ledger."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from provisioner.domain.fleet import FleetSpec
from provisioner.domain.ledger import LedgerEntry
from provisioner.ports.ledger import Ledger

_Key = TypeVar("_Key")

OTHER = "other"
# From a cached answer on a warm GPU to a cold start with a long answer.
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(slots=True)
class Spread:
    """How many fell between which `BOUNDS`."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        # A bound belongs to what is below it.
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value


@dataclass(slots=True)
class Counted:
    """All that was counted since the service began."""

    requests: dict[tuple[str, str, str], int] = field(default_factory=dict)
    fallbacks: dict[tuple[str, str], int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    tokens: dict[tuple[str, str, str], int] = field(default_factory=dict)
    seconds: dict[str, Spread] = field(default_factory=dict)
    first_byte: dict[str, Spread] = field(default_factory=dict)
    waits: Spread = field(default_factory=Spread)


class RequestCounts:
    """Safe to use from several threads; adding one takes microseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted = Counted()

    def add(self, entry: LedgerEntry) -> None:
        """Count one request."""
        model, node = entry.model, entry.node
        with self._lock:
            counted = self._counted
            _more(counted.requests, (model, node, entry.outcome.value))
            if entry.is_fallback:
                _more(counted.fallbacks, (model, node))
            if entry.woke:
                _more(counted.held, model)
                counted.waits.add(entry.waited_seconds)
            if entry.tokens_in:
                _more(counted.tokens, (node, model, "in"), entry.tokens_in)
            if entry.tokens_out:
                _more(counted.tokens, (node, model, "out"), entry.tokens_out)
            if node:
                counted.seconds.setdefault(node, Spread()).add(entry.seconds)
                if entry.first_byte_seconds is not None:
                    counted.first_byte.setdefault(node, Spread()).add(entry.first_byte_seconds)

    def read(self) -> Counted:
        """Return what was counted; it changes no more."""
        with self._lock:
            now = self._counted
            return Counted(
                dict(now.requests),
                dict(now.fallbacks),
                dict(now.held),
                dict(now.tokens),
                _copied(now.seconds),
                _copied(now.first_byte),
                Spread(list(now.waits.counts), now.waits.total),
            )


class CountedLedger:
    """The port `Ledger`: what is added is told to others, too. None of them may block or raise.

    Callers may tell of requests that went to a node directly, in any words. What is counted is grouped by names, whose
    number must be bounded: a model or node that the fleet does not have is ``other`` there.

    Args:
        ledger: keeps it.
        fleet: what there is.
        tell: who is told.
    """

    def __init__(self, ledger: Ledger, fleet: FleetSpec, *tell: Callable[[LedgerEntry], None]) -> None:
        self._ledger = ledger
        self._models = frozenset(model for mode in fleet.modes.values() for model in mode.models)
        self._nodes = frozenset({"", *fleet.nodes})
        self._tell = tell

    def add(self, entry: LedgerEntry) -> None:
        """Keep one."""
        self._ledger.add(entry)
        if entry.model not in self._models:
            entry = replace(entry, model=OTHER)
        if entry.node not in self._nodes:
            entry = replace(entry, node=OTHER)
        for each in self._tell:
            each(entry)

    def last(self, count: int) -> tuple[LedgerEntry, ...]:
        """Return the newest, newest first."""
        return self._ledger.last(count)

    def since(self, at: float) -> tuple[LedgerEntry, ...]:
        """Return those that came at or after a moment, oldest first."""
        return self._ledger.since(at)

    def after(self, number: int, count: int, caller: str = "") -> tuple[tuple[int, LedgerEntry], ...]:
        """Return those with a higher number, oldest first."""
        return self._ledger.after(number, count, caller)

    def close(self) -> None:
        """Write down what was added."""
        self._ledger.close()


def _more(sums: dict[_Key, int], key: _Key, by: int = 1) -> None:
    sums[key] = sums.get(key, 0) + by


def _copied(spreads: Mapping[str, Spread]) -> dict[str, Spread]:
    return {name: Spread(list(each.counts), each.total) for name, each in spreads.items()}
