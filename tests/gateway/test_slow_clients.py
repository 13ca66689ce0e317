"""Clients whose bodies come slowly, or with more behind them than they announced."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

import provisioner.gateway.server_protocol as server_protocol
from provisioner.gateway.limits import Limits
from tests.gateway.site import QUICK, TOKEN, Site, a_site, until

BODY = b'{"model": "tiny"}'


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
