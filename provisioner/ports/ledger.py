"""The record of requests."""

from __future__ import annotations

from typing import Protocol

from provisioner.domain.ledger import LedgerEntry


class Ledger(Protocol):
    """Requests that have ended, and how. Who adds one never waits."""

    def add(self, entry: LedgerEntry) -> None:
        """Keep one. Never blocks and never raises: a full disk must not cost an answer."""
        ...

    def last(self, count: int) -> tuple[LedgerEntry, ...]:
        """Return the newest, newest first; what was added a moment ago among them."""
        ...

    def since(self, at: float) -> tuple[LedgerEntry, ...]:
        """Return those that came at or after a moment (UNIX seconds), oldest first."""
        ...

    def after(self, number: int, count: int, caller: str = "") -> tuple[tuple[int, LedgerEntry], ...]:
        """Return those with a higher number, oldest first, the first `count` of them; the newest ones for number 0.

        Numbers only grow. One that no request has had yet, because the record was replaced, is as good as 0. With
        `caller`, only what that caller asked.
        """
        ...

    def close(self) -> None:
        """Write down what was added."""
        ...
