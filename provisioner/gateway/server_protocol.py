"""uvicorn's HTTP protocol with the bounds that it lacks: on the size of a head, and on the time that one may take.

Without them a client that sends its head byte by byte, or without end, holds a
connection or memory for as long as it likes; and so does one that goes on with
its body, or with what may stand around one, when it has had its answer, for
which it needs no token. Serves the whole process.

And an answer's head goes out with its first piece: uvloop writes at once, so
each write is a turn of the kernel's, of which a short answer then needs one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 32 * 1024
HEAD_SECONDS = 15.0
# Whoever takes nothing for so long of what is left when its connection is closed does not get it. A slow one takes
# something in that time, though the kernel tells of it in pieces of a megabyte.
UNREAD_SECONDS = 600.0
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedHttp(HttpToolsProtocol):
    """Pass it to ``uvicorn.Config(http=...)``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = True
        self._head_bytes = 0
        self._bytes_beside = 0
        """What has come since a piece of a body did and is none: sizes of chunks, and what may follow a body."""
        self._slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first head its time."""
        super().connection_made(transport)
        self.transport = HeadWithBody(transport)  # type: ignore[assignment]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._head_has_come()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what a head takes."""
        if self._is_in_head:
            # The last piece may hold some of a body too; a body that is that large comes in many pieces.
            self._head_bytes += min(len(data), MOST_HEAD_BYTES)
        else:
            self._bytes_beside += len(data)
        super().data_received(data)
        if not self._is_in_head:
            if self._bytes_beside > MOST_HEAD_BYTES:
                self.transport.close()
            return
        if not self._head_bytes:
            # Most heads come in one piece, and need nobody who counts their time.
            if self.cycle is not None and self.cycle.response_complete:
                self._keep_alive_again()
            return
        if self.transport.is_closing():
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self._end(_TOO_LARGE)
        elif self._slow is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._is_in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; what follows a body is nobody's, and may go on without end."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._head_has_come()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece; whoever reads bodies bounds them."""
        self._bytes_beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        super().on_message_complete()
        # The next head, if one follows; its time begins with its first byte.
        self._is_in_head = True
        self._head_bytes = 0

    def on_response_complete(self) -> None:
        """Give what is left of a request that is answered already its time: nobody reads it."""
        super().on_response_complete()
        if not self._is_in_head and self.cycle.response_complete and not self.transport.is_closing():
            self._slow = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)

    def _keep_alive_again(self) -> None:
        """Begin uvicorn's wait for the next request anew: the rest of one that was answered already has ended it."""
        self._head_has_come()
        self._is_in_head = True
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _await_head(self) -> None:
        self._slow = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._end, _TOO_SLOW)

    def _head_has_come(self) -> None:
        self._is_in_head = False
        self._head_bytes = self._bytes_beside = 0
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _end(self, answer: bytes) -> None:
        self._slow = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is under way, and words of ours would be taken for a part of it. Old clients end a body with an
            # empty line that nobody announced; too many bytes before an answer are nobody's mistake.
            if answer is _TOO_SLOW:
                self._await_head()
            else:
                self.transport.close()
            return
        self.transport.write(answer)
        self.transport.close()


class HeadWithBody:
    """A transport that keeps back what may be an answer's head until more is written, but not beyond this turn."""

    __slots__ = ("_head", "_loop", "_soon", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._soon: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Write, or soon."""
        head = self._head
        if head:
            self._forget()
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._soon = self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close once all is written, or nobody takes it."""
        self._flush()
        self._transport.close()
        left = self._transport.get_write_buffer_size()
        if left:
            self._loop.call_later(UNREAD_SECONDS, self._look, left)

    def is_closing(self) -> bool:
        """Say whether it is being closed."""
        return self._transport.is_closing()

    def _look(self, before: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left == before:
            self._transport.abort()
        elif left:
            self._loop.call_later(UNREAD_SECONDS, self._look, left)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        head = self._head
        self._forget()
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def _forget(self) -> None:
        self._head = b""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
