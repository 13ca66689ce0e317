"""HTTP to engines and orchestrators."""

from __future__ import annotations

from collections.abc import Iterator
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

    def send(self, method: str, url: str, body: object, *, seconds: float) -> Answer:
        """Send a JSON document, or nothing where it is None, with any method. Raises NoAnswer."""
        ...

    def lines(self, method: str, url: str, body: object, *, silence_seconds: float) -> Iterator[str]:
        """Send a JSON document and yield the answer's lines as they come.

        Raises:
            NoAnswer: nobody is there, nothing has come for `silence_seconds`, or the answer broke off; also when its
                status is not 200, with the status and its first words.
        """
        ...
