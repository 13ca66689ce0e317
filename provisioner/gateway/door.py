"""Who may come in, as the gateway needs to know it: a token, a name, what that one may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

ROUTE, WAKE, READ = "route", "wake", "read"
"""Scopes: use models that answer now; have nodes woken for it; list what there is."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose token is known."""

    name: str
    may: frozenset[str]


class Door(Protocol):
    """Knows the tokens."""

    def caller(self, token: str | None) -> Caller | None:
        """Return whose token it is, None for nobody's; compares in constant time. None is: no token was shown."""
        ...
