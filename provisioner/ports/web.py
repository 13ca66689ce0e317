"""HTTP to engines and orchestrators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

Headers = Mapping[str, str]
"""Of a request; values may be secrets, so nobody shows them."""
NO_HEADERS: Headers = MappingProxyType({})


class NoAnswer(Exception):
    """Nothing came back: refused, reset or timed out; or an error, with its `status`. The text says which."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, whatever its status."""

    status: int
    text: str


class Web(Protocol):
    """A client that keeps connections open between calls to the same place."""

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Fetch. Raises NoAnswer."""
        ...

    def post_json(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Send a JSON document. Raises NoAnswer."""
        ...

    def send(self, method: str, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        """Send a JSON document, or nothing where it is None, with any method. Raises NoAnswer."""
        ...

    def lines(
        self, method: str, url: str, body: object, *, silence_seconds: float, headers: Headers = NO_HEADERS
    ) -> Iterator[str]:
        """Send a JSON document and yield the answer's lines as they come.

        Raises:
            NoAnswer: nobody is there, nothing has come for `silence_seconds`, or the answer broke off; also when its
                status is not 200, with the status and its first words.
        """
        ...
