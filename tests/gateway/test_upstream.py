"""Connections to engines."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
import uvloop

from provisioner.gateway.deadline import Deadline
from provisioner.gateway.upstream import EngineAway, Engines, Target


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
