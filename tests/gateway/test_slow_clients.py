"""Clients whose bodies come slowly, or with more behind them than they announced."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

import provisioner.gateway.server_protocol as server_protocol
from provisioner.domain.ledger import Outcome
from provisioner.domain.names import NodeName
from provisioner.gateway.limits import Limits
from tests.gateway.site import QUICK, TOKEN, Site, a_site, until

BODY = b'{"model": "tiny"}'
STREAM = b'{"model": "tiny", "stream": true}'


def head(length: int) -> bytes:
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}")
    return "\r\n".join((*lines, f"Content-Length: {length}", "\r\n")).encode()


@contextlib.asynccontextmanager
async def connected(site: Site):  # type: ignore[no-untyped-def]
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


def test_bodies_count_while_they_are_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(held_bytes=200_000)
        async with a_site(tmp_path, limits=limits) as site, connected(site) as (_, one), connected(site) as (read, two):
            one.write(head(150_000) + b"x" * 120_000)
            await until(lambda: site.gateway.parts.held == 120_000)
            two.write(head(150_000) + b"x" * 120_000)
            assert b" 429 " in await read.readline()
            one.close()
            await until(lambda: site.gateway.parts.held == 0)

    asyncio.run(scenario())


def test_a_long_body_may_take_longer_than_a_short_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(body_seconds=0.2, body_rate=10.0)
        async with a_site(tmp_path, limits=limits) as site, connected(site) as (read, write):
            write.write(head(len(BODY)) + BODY[:-1])
            await asyncio.sleep(0.4)
            write.write(BODY[-1:])
            assert b" 200 " in await read.readline()

    asyncio.run(scenario())


def test_an_empty_line_behind_a_body_does_not_cut_off_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_protocol, "HEAD_SECONDS", 0.05)

    async def scenario() -> None:
        async with a_site(tmp_path, limits=QUICK) as site, connected(site) as (read, write):
            site.engines["llm-gpu-01"].delay = 0.3
            write.write(head(len(BODY)) + BODY)
            await until(lambda: site.engines["llm-gpu-01"].running == 1)
            write.write(b"\r\n")
            assert b" 200 " in await read.readline()

    asyncio.run(scenario())


def test_a_client_that_takes_nothing_more_of_its_answer_does_not_keep_its_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(silence_seconds=0.2)
        async with a_site(tmp_path, limits=limits) as site, connected(site) as (_, writer):
            engine = site.engines["llm-gpu-01"]
            engine.is_endless, engine.words = True, ("x" * 65536,)
            writer.write(head(len(STREAM)) + STREAM)
            await until(lambda: [entry.outcome for entry in site.ledger.entries] == [Outcome.LEFT])
            await until(lambda: engine.left == 1)
            assert not site.flight.of(NodeName("llm-gpu-01")).is_busy

    asyncio.run(scenario())


def test_a_client_that_takes_its_time_gets_all_of_its_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(silence_seconds=0.5)
        async with a_site(tmp_path, limits=limits) as site, connected(site) as (reader, writer):
            site.engines["llm-gpu-01"].words = ("x" * 65536,) * 200
            writer.write(head(len(STREAM)) + STREAM)
            said = b""
            while not said.endswith(b"\r\n0\r\n\r\n"):
                said = said[-5:] + await reader.read(65536)
                await asyncio.sleep(0.005)
            await until(lambda: site.ledger.entries)
            assert site.ledger.entries[-1].outcome is Outcome.ANSWERED

    asyncio.run(scenario())


UNKNOWN = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
"""Nobody with a token: the answer comes before the body."""


async def refused(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 401 " in head
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


@pytest.mark.parametrize("beside", [b"y" * 1000, b"X-Name: y\r\n" * 100], ids=["a value", "headers"])
def test_what_follows_a_body_without_end_is_cut_off(tmp_path: Path, beside: bytes) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path) as site, connected(site) as (reader, writer):
            writer.write(UNKNOWN + b"Transfer-Encoding: chunked\r\n\r\n")
            await refused(reader)
            writer.write(b"0\r\nX-First: ")
            # It may be cut off while we still write.
            with contextlib.suppress(ConnectionError):
                for _ in range(2000):
                    writer.write(beside)
                    await writer.drain()
                async with asyncio.timeout(5):
                    assert await reader.read() == b""

    asyncio.run(scenario())


def test_what_follows_a_body_lets_nobody_in(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path) as site, connected(site) as (reader, writer):
            body = b"%x\r\n%b\r\n0\r\nAuthorization: Bearer %b\r\n\r\n" % (len(BODY), BODY, TOKEN.encode())
            writer.write(UNKNOWN + b"Transfer-Encoding: chunked\r\n\r\n" + body)
            await refused(reader)

    asyncio.run(scenario())


def test_a_body_that_does_not_come_after_its_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_protocol, "HEAD_SECONDS", 0.1)

    async def scenario() -> None:
        async with a_site(tmp_path) as site, connected(site) as (reader, writer):
            writer.write(UNKNOWN + b"Content-Length: 1000000\r\n\r\n")
            await refused(reader)
            writer.write(b"x")
            async with asyncio.timeout(5):
                assert await reader.read() == b""

    asyncio.run(scenario())


def test_a_body_that_comes_after_its_answer_costs_nobody_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_protocol, "HEAD_SECONDS", 0.3)

    async def scenario() -> None:
        async with a_site(tmp_path) as site, connected(site) as (reader, writer):
            for _ in range(2):
                writer.write(UNKNOWN + b"Content-Length: 10\r\n\r\n")
                await refused(reader)
                writer.write(b"x" * 10)
            await asyncio.sleep(0.5)
            writer.write(head(len(BODY)) + BODY)
            assert b" 200 " in await reader.readline()

    asyncio.run(scenario())


def test_what_a_chunked_body_says_of_its_pieces_does_not_cut_it_off(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path) as site, connected(site) as (reader, writer):
            body = BODY[:-1] + b" " * 9000 + BODY[-1:]
            writer.write(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
            for at in range(len(body)):
                writer.write(b"1\r\n" + body[at : at + 1] + b"\r\n")
            writer.write(b"0\r\nX-Sum: 1\r\n\r\n")
            assert b" 200 " in await reader.readline()
            (headers,) = site.engines["llm-gpu-01"].headers
            assert "x-sum" not in headers

    asyncio.run(scenario())
