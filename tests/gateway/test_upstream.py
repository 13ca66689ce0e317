"""Connections to engines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from provisioner.gateway.deadline import Deadline
from provisioner.gateway.upstream import EngineAway, Engines, Exchange, Target


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_guest_whose_power_is_cut_is_not_waited_for_for_ever(loop: object) -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connection = await Engines().connect(Target("127.0.0.1", port))
        opened = connection.transport.get_extra_info("socket")
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, pause, count = (
            opened.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + pause * count <= 30
        connection.transport.abort()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        runner.run(scenario())


def test_a_request_whose_reconnect_was_cut_fails_when_it_is_waited_for_again() -> None:
    async def scenario() -> None:
        loop, engines = asyncio.get_running_loop(), Engines()
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            listening.setblocking(False)
            target = Target(*listening.getsockname())
            sending = asyncio.create_task(engines.send(target, "GET", "/"))
            kept, _ = await loop.sock_accept(listening)
            sent = await sending
            await loop.sock_recv(kept, 4096)
            await loop.sock_sendall(kept, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            assert await sent.read() == b""
            # Nobody takes these up, and the kernel hears nobody else meanwhile.
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((target.host, target.port))
            again = await engines.send(target, "GET", "/")
            kept.close()
            with pytest.raises(TimeoutError), Deadline(0.2):
                await again.head()
            async with asyncio.timeout(2):
                with pytest.raises(EngineAway, match="no new one came in time"):
                    await again.head()
            again.abort()
            engines.close()

    asyncio.run(scenario())


STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@contextlib.asynccontextmanager
async def asked(says: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[Exchange]:
    """Send a request to an engine that answers as told, until its connection is gone."""

    has_ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            await says(writer)
            await reader.read()
        writer.close()
        has_ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    exchange = await Engines().send(Target(*server.sockets[0].getsockname()), "GET", "/")
    try:
        async with asyncio.timeout(5):
            yield exchange
    finally:
        exchange.abort()
        await has_ended.wait()
        server.close()
        await server.wait_closed()


async def all_of(exchange: Exchange) -> None:
    while await exchange.read():
        pass


@pytest.mark.parametrize(
    "beside", [b"0\r\nX-Sum: ", b"0\r\nX: y\r\n", b"5;name=", b"0000000000000000"], ids=lambda beside: beside.decode()
)
def test_an_answer_that_does_not_end_is_garbage(beside: bytes) -> None:
    async def says(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + beside)
        for _ in range(100):
            writer.write(b"X-More: yes\r\n" * 400 if beside.endswith(b"\n") else b"0" * 5000)
            await writer.drain()

    async def scenario() -> None:
        async with asked(says) as exchange:
            assert (await exchange.head()).status == 200
            with pytest.raises(EngineAway, match=r"more than 64 KiB|is not HTTP"):
                await all_of(exchange)

    asyncio.run(scenario())


def test_what_is_no_word_of_an_answer_does_not_break_its_silence() -> None:
    async def says(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"5;name=")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def scenario() -> None:
        async with asked(says) as exchange:
            exchange.limit_silence(0.3)
            with pytest.raises(EngineAway, match=r"silent for 0\.3 s"):
                await all_of(exchange)

    asyncio.run(scenario())


def test_a_status_that_http_does_not_know_is_garbage() -> None:
    async def says(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 700 Odd\r\nContent-Length: 2\r\n\r\nok")

    async def scenario() -> None:
        async with asked(says) as exchange:
            with pytest.raises(EngineAway, match="status is 700"):
                await exchange.head()

    asyncio.run(scenario())
