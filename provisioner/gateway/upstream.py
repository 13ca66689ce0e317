"""HTTP/1.1 to engines: kept connections, answers handed on as they come, nothing buffered that nobody reads.

A client of our own, because the client is what a proxy in Python costs: on one
core it carries two and a half times the requests of the next best one. It
speaks to inference servers only: no TLS, no redirects, no compression, no
cookies. Its parser is llhttp; what that does not understand is garbage.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import cast

import httptools

# A dropped SYN is sent again after a second; a node on this network answers within milliseconds or is gone.
CONNECT_SECONDS = 0.8
# A guest whose power is cut says nothing any more, and an answer that is long in coming would be waited for for ever;
# within 10 + 3 * 5 seconds its connections are known to be dead. The kernel of a guest whose engine is busy answers.
# That is for connections on which all that we sent was acknowledged. What was not is sent again for a quarter of an
# hour, and nobody probes meanwhile: whoever waits for an answer looks at the node besides. TCP_USER_TIMEOUT is shorter,
# and would also cut off an engine that is slow to read a large body.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
# uvicorn, which vLLM runs on, closes a connection that has been idle for five seconds.
_IDLE_SECONDS = 4.0
_MOST_IDLE = 128
# Of a head; and of what may stand between the pieces of a body and behind it, and is none.
_MOST_BYTES_BESIDE = 64 * 1024
# What uvicorn has a line for; HTTP knows no others.
_LARGEST_STATUS = 599
# An answer that its client does not take is left in the kernel's buffers beyond this.
_HIGH_WATER = 256 * 1024


class Trouble(Enum):
    """How an engine failed a request."""

    REFUSED = "refused"
    SILENT = "silent"
    BROKEN = "broken"
    GARBAGE = "garbage"
    FULL = "full"
    """It is well, and has no room for this one."""


class EngineAway(Exception):
    """No usable answer came; the text says how."""

    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Target:
    """Where an engine listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers, names in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    def get(self, name: bytes) -> bytes | None:
        """Return the first header of that name."""
        return next((value for each, value in self.headers if each == name), None)


class _Connection(asyncio.Protocol):
    """One connection; at most one exchange at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self.is_open = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self.transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            # Nobody has asked.
            self.transport.abort()
            return
        self.exchange.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self.exchange is not None:
            self.exchange.lost()


class Exchange:
    """One request and its answer.

    Await `head`, then `read` until it returns nothing; `abort` at any time.
    """

    def __init__(self, engines: Engines, target: Target, request: bytes) -> None:
        self._engines = engines
        self._target = target
        self._request = request
        self._connection: _Connection | None = None
        self._is_reused = False
        self._heard_at = 0.0
        self._silence: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._head: Head | None = None
        self._bytes_beside = 0
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._is_paused = False
        self._is_complete = False
        self._failure: EngineAway | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._has_answered = False

    async def start(self) -> None:
        """Send the request. Raises EngineAway."""
        connection = self._engines.idle(self._target)
        self._is_reused = connection is not None
        if connection is None:
            connection = await self._engines.connect(self._target)
        connection.exchange = self
        self._connection = connection
        connection.transport.write(self._request)

    async def head(self) -> Head:
        """Return status and headers once they have come. Raises EngineAway."""
        while True:
            while self._head is None and self._failure is None:
                await self._wait()
            if self._head is not None:
                return self._head
            if not (self._is_reused and not self._has_answered):
                assert self._failure is not None  # noqa: S101 - the loop's condition
                raise self._failure
            # The engine closed a kept connection just as it was used again; the request has not been looked at.
            self._begin()
            self._engines.forget_idle(self._target)
            try:
                await self.start()
            except BaseException:
                # Who waited had a limit, and asks again: nothing was sent, so nothing would ever come.
                self._failure = EngineAway(Trouble.SILENT, "it closed its connection, and no new one came in time")
                raise

    async def first(self) -> None:
        """Return once a piece of the body has come, or that it has none. Raises EngineAway."""
        while not self._pieces and not self._is_complete:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    async def read(self) -> bytes:
        """Return what has come since the last call, as soon as something has; nothing at the end. Raises EngineAway."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._is_complete:
                return b""
            await self._wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._is_paused and self._connection is not None:
            self._is_paused = False
            self._connection.transport.resume_reading()
        return data

    @property
    def is_over(self) -> bool:
        """All of it has been read."""
        return self._is_complete and not self._pieces

    def limit_silence(self, seconds: float) -> None:
        """From now on let an engine that says nothing for so long fail.

        One timer for the whole answer, not one for each piece: a stream has many. Time in which nobody reads is not the
        engine's silence.
        """
        if self._is_complete:
            return
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()

        def look() -> None:
            left = self._heard_at + seconds - loop.time()
            if left <= 0 and self._waiter is not None:
                self._silence = None
                self._fail(EngineAway(Trouble.SILENT, f"it was silent for {seconds:g} s"))
            else:
                self._silence = loop.call_later(left if left > 0 else seconds, look)

        self._silence = loop.call_later(seconds, look)

    def abort(self) -> None:
        """End it; an engine that still works on it sees its client leave."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.exchange = None
            connection.transport.abort()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def feed(self, data: bytes) -> None:
        """Take what the engine sent."""
        self._has_answered = True
        self._bytes_beside += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(EngineAway(Trouble.GARBAGE, f"what it answers is not HTTP ({error})"))
            return
        if not self._bytes_beside:
            # It said something; sizes of pieces that do not come are nothing.
            if self._silence is not None:
                self._heard_at = asyncio.get_running_loop().time()
        elif self._bytes_beside > _MOST_BYTES_BESIDE and not self._is_complete:
            what = "headers exceed" if self._head is None else "pieces have between them more than"
            self._fail(EngineAway(Trouble.GARBAGE, f"its answer's {what} {_MOST_BYTES_BESIDE // 1024} KiB"))

    def lost(self) -> None:
        """Learn that the connection is gone."""
        self._connection = None
        if self._is_complete or self._failure is not None:
            return
        if self._head is not None and not self._is_framed:
            # Such an answer ends with its connection.
            self._is_complete = True
            self._tell()
            return
        told = "in the midst of its answer" if self._has_answered else "without an answer"
        self._failure = EngineAway(Trouble.BROKEN, f"it closed the connection {told}")
        self._tell()

    @property
    def _is_framed(self) -> bool:
        return self._head is not None and (
            self._head.get(b"content-length") is not None or self._head.get(b"transfer-encoding") is not None
        )

    def _fail(self, failure: EngineAway) -> None:
        self._failure = failure
        self.abort()
        self._tell()

    # The parser's callbacks.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; what follows a body is nobody's, and may go on without end."""
        if self._head is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take the head; an interim one (100, 103) is not the answer."""
        status = self._parser.get_status_code()
        if status > _LARGEST_STATUS:
            self._fail(EngineAway(Trouble.GARBAGE, f"its answer's status is {status}"))
        elif status >= 200:
            self._head = Head(status, tuple(self._headers))
            # It is not sent again, and its answer may take minutes.
            self._request = b""
            self._tell()
        else:
            self._headers.clear()

    def on_body(self, body: bytes) -> None:
        """Take a piece."""
        self._bytes_beside = 0
        self._pieces.append(body)
        self._held += len(body)
        if self._held > _HIGH_WATER and not self._is_paused and self._connection is not None:
            self._is_paused = True
            self._connection.transport.pause_reading()
        self._tell()

    def on_message_complete(self) -> None:
        """Keep the connection for the next, where the engine lets us."""
        if self._head is None:
            return
        self._is_complete = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.exchange = None
            if self._is_paused:
                connection.transport.resume_reading()
            if self._parser.should_keep_alive():
                self._engines.keep(self._target, connection)
            else:
                connection.transport.close()
        self._tell()


class Engines:
    """Connections to all engines. Belongs to one event loop."""

    def __init__(self) -> None:
        self._idle: dict[Target, deque[_Connection]] = {}

    async def send(
        self, target: Target, method: str, path: str, *, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
    ) -> Exchange:
        """Send a request. Raises EngineAway, ValueError for what must not stand in a head."""
        exchange = Exchange(self, target, request_bytes(target, method, path, body, headers))
        await exchange.start()
        return exchange

    async def status(self, target: Target, path: str, *, headers: tuple[tuple[str, str], ...] = ()) -> int:
        """Fetch a small thing and return its status. Raises EngineAway."""
        exchange = await self.send(target, "GET", path, headers=headers)
        try:
            head = await exchange.head()
            while await exchange.read():
                pass
        except BaseException:
            exchange.abort()
            raise
        return head.status

    def idle(self, target: Target) -> _Connection | None:
        """Return a kept connection that is still good."""
        kept = self._idle.get(target)
        oldest = time.monotonic() - _IDLE_SECONDS
        while kept:
            connection = kept.pop()
            if connection.is_open and connection.idle_since >= oldest:
                return connection
            connection.transport.close()
        return None

    async def connect(self, target: Target) -> _Connection:
        """Open a connection. Raises EngineAway."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(_Connection, target.host, target.port)
        except TimeoutError:
            raise EngineAway(Trouble.SILENT, f"nobody answers at {target} within {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise EngineAway(Trouble.REFUSED, f"no connection to {target}: {reason}") from None
        opened = connection.transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection

    def keep(self, target: Target, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        kept = self._idle.setdefault(target, deque())
        connection.idle_since = time.monotonic()
        kept.append(connection)
        if len(kept) > _MOST_IDLE:
            kept.popleft().transport.close()

    def forget_idle(self, target: Target) -> None:
        """Close every kept connection: one of them has turned out to be dead."""
        for connection in self._idle.pop(target, ()):
            connection.transport.close()

    def close(self) -> None:
        """Close all that are kept."""
        for target in tuple(self._idle):
            self.forget_idle(target)


def request_bytes(target: Target, method: str, path: str, body: bytes, headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return a request as it is sent. Raises ValueError for what would smuggle in another header or request."""
    if " " in path or not path.startswith("/"):
        raise ValueError("not a path")
    lines = [f"{method} {path} HTTP/1.1", f"host: {target}", *[f"{name}: {value}" for name, value in headers]]
    if body or method not in ("GET", "HEAD", "DELETE"):
        lines.append(f"content-length: {len(body)}")
    head = "\n".join(lines)
    # Looked at as a whole, which is quicker: between the lines there is one sign each, and no other of its kind.
    if not head.isascii() or head.count("\n") != len(lines) - 1 or "\r" in head or "\0" in head:
        raise ValueError("a line break or a sign beyond ASCII")
    return head.replace("\n", "\r\n").encode("ascii") + b"\r\n\r\n" + body
