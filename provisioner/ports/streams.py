"""Answers that come bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from provisioner.ports.web import NO_HEADERS, Headers


class Streams(Protocol):
    """Opens requests whose answers are read line by line while they come."""

    def open(
        self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS
    ) -> AbstractContextManager[Iterator[str]]:
        """Send a JSON document; yield the lines of the answer. Leaving early hangs up.

        Args:
            url: where.
            body: the document.
            seconds: the longest silence to bear.
            headers: sent with it.

        Raises:
            NoAnswer: nobody answers, the answer is an error (its words are in the text), or it breaks off.
        """
        ...
