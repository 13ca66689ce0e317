"""HTTP to engines and orchestrators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class NoAnswer(Exception):
    """Nothing came back: refused, reset or timed out. The text says which."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, whatever its status."""

    status: int
    text: str


class Web(Protocol):
    """A client that keeps connections open between calls to the same place."""

    def get(self, url: str, *, seconds: float) -> Answer:
        """Fetch. Raises NoAnswer."""
        ...

    def post_json(self, url: str, body: object, *, seconds: float) -> Answer:
        """Send a JSON document. Raises NoAnswer."""
        ...
