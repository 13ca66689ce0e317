"""One client's request and the answer to it, over ASGI: reading within bounds, sending, and noticing that it left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from provisioner.gateway.asking import Fields, Headers, header
from provisioner.gateway.deadline import Deadline
from provisioner.gateway.dialects import Dialect, Fault
from provisioner.gateway.limits import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

AT_ONCE = (b"x-accel-buffering", b"no")
"""Asks an nginx before us to hand on what comes; it keeps the header to itself."""
# Most requests are over by then and never need somebody who listens for their client's leaving.
_WATCH_AFTER = 0.02


class ClientLeft(Exception):
    """The client has closed its connection."""


class TooMuch(Exception):
    """The body is not taken; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.summary)
        self.fault = fault


class Client:
    """A request under way.

    While `watched`, its leaving cancels the task that serves it; that sees
    `has_left`. Who takes nothing more of an answer for long has left too.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        # Of several with one name the first.
        self.headers: Fields = dict(reversed(scope["headers"]))
        self.takes_pieces: bool = scope.get("http_version") != "1.0"
        """An answer may be sent to it whose length is not known when it begins."""
        self.has_begun = False
        """Status and headers are on their way."""
        self.is_document = False
        """It has begun as a JSON document, before anything was known of it."""
        self.has_left = False
        self.status = 0
        self.sent = 0
        self._receive = receive
        self._send = send
        self._watch: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._is_sending = False
        self._patience: asyncio.TimerHandle | None = None

    async def body(self, limits: Limits, take: Callable[[int], None]) -> bytes:
        """Read the body. Raises TooMuch, ClientLeft.

        Args:
            limits: bounds.
            take: told of each piece's size before it is kept. Raises TooMuch.
        """
        announced = header(self.headers, b"content-length")
        if announced is not None and int(announced) > limits.body_bytes:
            raise TooMuch(_too_large(limits))
        pieces: list[bytes] = []
        size = 0
        try:
            with Deadline(limits.body_seconds) as patience:
                began = time.monotonic()
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self.has_left = True
                        raise ClientLeft
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > limits.body_bytes:
                        raise TooMuch(_too_large(limits))
                    take(len(piece))
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    patience.move(began + limits.body_seconds + size / limits.body_rate - time.monotonic())
        except TimeoutError:
            words = "cannot read the request: its body comes too slowly"
            raise TooMuch(Fault(408, "body_too_slow", words, "send it faster")) from None

    def watch(self, seconds: float) -> None:
        """From now on its leaving cancels the current task; and so does its taking nothing of an answer for so long."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        taken = -1

        def begin() -> None:
            self._watch = loop.create_task(self._until_left(task))
            self._patience = loop.call_later(seconds, look)

        def look() -> None:
            # One timer for the whole answer, not one for each piece: a stream has many.
            nonlocal taken
            if self._is_sending and self.sent == taken:
                self._has_gone(task)
                return
            taken = self.sent
            self._patience = loop.call_later(seconds, look)

        self._watch = loop.call_later(_WATCH_AFTER, begin)

    def unwatch(self) -> None:
        """Stop that."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    async def begin(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.has_begun = True
        self.status = status
        await self._tell({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes) -> None:
        """Send a piece of the answer; returns when the client takes more."""
        self.sent += len(data)
        await self._tell({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self.sent += len(data)
        await self._tell({"type": "http.response.body", "body": data})

    async def answer(self, status: int, content_type: bytes, body: bytes, more: Headers | None = None) -> None:
        """Send a whole answer."""
        headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *(more or ())]
        await self.begin(status, headers)
        await self.end(b"" if self.method == "HEAD" else body)

    async def refuse(self, dialect: Dialect, fault: Fault, tail: bytes = b"") -> None:
        """Tell what went wrong: as a status, or inside the answer where that has begun.

        A document that has begun is not ended: people read in it why, and programs see that it is no answer.

        Args:
            dialect: how.
            fault: what.
            tail: what has been handed on last of an engine's words.
        """
        if self.is_document:
            await self.send(dialect.fault(fault))
            return
        if self.has_begun:
            await self.end(dialect.late_fault(fault, tail))
            return
        more: Headers = []
        if fault.retry_after is not None:
            more.append((b"retry-after", str(max(1, round(fault.retry_after))).encode()))
        if fault.status == 401:
            more.append((b"www-authenticate", b"Bearer"))
        if fault.status == 405:
            more.append((b"allow", b"GET, POST"))
        if fault.status in (408, 413):
            # What is still on its way of the body is not read.
            more.append((b"connection", b"close"))
        await self.answer(fault.status, b"application/json", dialect.fault(fault), more)

    async def _tell(self, message: Message) -> None:
        self._is_sending = True
        try:
            await self._send(message)
        finally:
            self._is_sending = False

    async def _until_left(self, task: asyncio.Task[Any] | None) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_gone(task)

    def _has_gone(self, task: asyncio.Task[Any] | None) -> None:
        self.has_left = True
        if task is not None:
            task.cancel()


def _too_large(limits: Limits) -> Fault:
    size = f"{limits.body_bytes // (1024 * 1024)} MiB"
    return Fault(413, "body_too_large", f"cannot take the request: its body exceeds {size}", "send less at once")
