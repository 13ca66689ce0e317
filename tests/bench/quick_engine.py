"""``python -m tests.bench.quick_engine PORT COUNT``: engines that cost next to nothing, on 127.0.0.2 and following.

An answer is a fixed document; a stream is 200 words at 50 a second, each of which is the moment at which it was sent.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import cast

import httptools
import uvloop

WORDS, PAUSE = 200, 0.02
_WANTS_STREAM = re.compile(rb'"stream": *true')
_CHUNK = (
    b'{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{%b},'
    b'"finish_reason":%b}]}'
)
_BODY = (
    b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}}'
)
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: " + str(len(_BODY)).encode() + b"\r\n\r\n"
) + _BODY
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if not _WANTS_STREAM.search(body):
            self.transport.write(_ANSWER)
            return
        self.transport.write(_STREAM)
        self._word(WORDS)

    def _word(self, left: int) -> None:
        if self.transport.is_closing():
            return
        if not left:
            self._event(_CHUNK % (b"", b'"stop"'))
            self._event(b"[DONE]")
            self.transport.write(b"0\r\n\r\n")
            return
        self._event(_CHUNK % (b'"content":"%.6f"' % time.monotonic(), b"null"))
        asyncio.get_running_loop().call_later(PAUSE, self._word, left - 1)

    def _event(self, data: bytes) -> None:
        event = b"data: %b\n\n" % data
        self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))


async def serve(port: int, count: int) -> None:
    """Serve until the input ends."""
    loop = asyncio.get_running_loop()
    for number in range(count):
        server = await loop.create_server(_Connection, f"127.0.0.{number + 2}", port)
        port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
