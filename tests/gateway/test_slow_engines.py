"""Engines that send a head at once and then nothing for long, as vLLM does while it reads a prompt; or half a word."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import provisioner.gateway.handing_on as handing_on
from provisioner.domain.ledger import Outcome
from provisioner.domain.names import NodeName
from provisioner.domain.quantities import MIB
from provisioner.domain.serving import Phase
from provisioner.gateway.limits import Limits
from tests.gateway.engines import Garbler
from tests.gateway.site import TOKEN, NodeAt, Site, a_site, until

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@contextlib.asynccontextmanager
async def another_engine(site: Site, says: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[None]:
    """Put an engine in the place of the first node's that is healthy, and answers whatever else is asked so."""
    engine = site.engines["llm-gpu-01"]
    await engine.stop()
    answering: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(writer)
        with contextlib.suppress(ConnectionError):
            said = await reader.readuntil(b"\r\n\r\n")
            if said.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                await says(writer)
        writer.close()
        answering.remove(writer)

    server = await asyncio.start_server(answer, engine.host, engine.port)
    try:
        yield
        await until(lambda: not answering)
    finally:
        server.close()
        await server.wait_closed()


def reading_its_prompt(site: Site, seconds: float) -> contextlib.AbstractAsyncContextManager[None]:
    """Put an engine in the place of the first node's that says nothing for a while after its head."""

    async def says(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await asyncio.sleep(seconds)
        writer.write(DONE)

    return another_engine(site, says)


def test_a_stream_is_kept_alive_until_its_first_word(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            a_site(tmp_path) as site,
            reading_its_prompt(site, 0.7),
            site.http.post(**site.ask(stream=True)) as answer,
        ):
            lines = [line for line in (await answer.text()).splitlines() if line]
            assert lines[-1] == "data: [DONE]"
            assert len(lines) >= 3
            assert set(lines[:-1]) == {": llm-gpu-01 works on it"}

    asyncio.run(scenario())


def test_a_stream_that_breaks_before_its_first_word_comes_from_another_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path, {"llm-gpu-01": NodeAt(), "llm-gpu-02": NodeAt()}) as site:
            engine = site.engines["llm-gpu-01"]
            await engine.stop()
            async with (
                Garbler(engine.host, engine.port, HEAD),
                site.http.post(**site.ask(stream=True)) as answer,
            ):
                assert answer.headers["X-Provisioner-Node"] == "llm-gpu-02"
                assert b"[DONE]" in await answer.read()
            assert (site.ledger.entries[-1].outcome, site.ledger.entries[-1].tries) == (Outcome.ANSWERED, 2)

    asyncio.run(scenario())


def test_a_request_that_was_on_its_way_when_the_power_went_comes_again_once_the_node_does(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_site(tmp_path) as site:
            engine, power = site.engines["llm-gpu-01"], site.power
            engine.is_hung = True
            client = asyncio.create_task(site.http.post(**site.ask()))
            await until(lambda: engine.running == 1)
            power.may_answer.clear()
            power.be("llm-gpu-01", Phase.ASLEEP)
            await until(lambda: power.starts == [NodeName("llm-gpu-01")])
            engine.is_hung = False
            power.may_answer.set()
            assert (await client).status == 200
            assert (site.ledger.entries[-1].outcome, site.ledger.entries[-1].tries) == (Outcome.ANSWERED, 2)

    asyncio.run(scenario())


def test_a_refusal_without_end_is_told_though_it_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_on, "_REFUSAL_SECONDS", 0.2)
    over = asyncio.Event()

    async def refuses(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\ntoo many")
        await over.wait()

    async def scenario() -> None:
        async with a_site(tmp_path, {"llm-gpu-01": NodeAt(Phase.ASLEEP)}) as site, another_engine(site, refuses):
            site.power.may_answer.clear()
            async with asyncio.timeout(5), site.http.post(**site.ask(stream=True)) as answer:
                assert (await answer.content.readline()).startswith(b": llm-gpu-01 is")
                site.power.may_answer.set()
                said = await answer.text()
                assert "llm-gpu-01 answers 400 too many" in said
                assert said.endswith("data: [DONE]\n\n")
            over.set()

    asyncio.run(scenario())


@pytest.mark.parametrize("half", [b'data: {"choices": [{"del', b"event: message\n", b"data: {}\r\n"])
def test_an_error_behind_half_an_event_is_an_event_of_its_own(tmp_path: Path, half: bytes) -> None:
    said = what_is_read(tmp_path, "small", "/v1/chat/completions", b'data: {"choices": []}\n\n', half)
    whole, _, rest = said.partition(half)
    assert whole == b'data: {"choices": []}\n\n'
    assert rest.startswith(b"\n\n")
    fault, done, _ = rest.lstrip(b"\n").split(b"\n\n")
    assert "broke off" in json.loads(fault.removeprefix(b"data: "))["error"]["message"]
    assert done == b"data: [DONE]"


def test_an_error_behind_half_a_line_is_a_line_of_its_own(tmp_path: Path) -> None:
    said = what_is_read(tmp_path, "chat", "/ollama/api/chat", b'{"done": false}\n', b'{"message": {"con')
    first, half, fault = said.splitlines()
    assert (first, half) == (b'{"done": false}', b'{"message": {"con')
    assert "broke off" in json.loads(fault)["error"]


def test_an_error_behind_whole_ones_comes_without_an_empty_line(tmp_path: Path) -> None:
    said = what_is_read(tmp_path, "chat", "/ollama/api/chat", b'{"done": false}\n')
    assert [sorted(json.loads(line)) for line in said.splitlines()] == [["done"], ["error"]]
    said = what_is_read(tmp_path, "small", "/v1/chat/completions", b'data: {"choices": []}\n\n')
    assert "\n\n\n" not in said.decode()


def what_is_read(folder: Path, modes: str, path: str, *pieces: bytes) -> bytes:
    """Return what a client reads of a stream whose engine goes away after some pieces."""

    async def says(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces))
        await writer.drain()

    async def scenario() -> bytes:
        async with a_site(folder, {"llm-gpu-01": NodeAt(modes=modes)}) as site, another_engine(site, says):
            ask = site.ask("mistral" if modes == "chat" else "tiny", path, stream=True)
            async with site.http.post(**ask) as answer:
                return await answer.read()

    return asyncio.run(scenario())


def test_what_was_asked_is_not_kept_while_the_answer_comes(tmp_path: Path) -> None:
    size, over = 16 * MIB, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].split()
        if not length:
            # Somebody looks whether it is healthy.
            writer.close()
            return
        left = int(length[0])
        while left:
            left -= len(await reader.read(left))
        writer.write(HEAD + DONE.partition(b"\r\n0")[0] + b"\r\n")
        await over.wait()
        writer.write(b"0\r\n\r\n")
        writer.close()

    async def scenario() -> None:
        async with a_site(tmp_path) as site:
            engine = site.engines["llm-gpu-01"]
            await engine.stop()
            server = await asyncio.start_server(answer, engine.host, engine.port)
            reader, writer = await asyncio.open_connection(*site.url.removeprefix("http://").split(":"))
            tracemalloc.start()
            try:
                body = json.dumps({"model": "tiny", "stream": True, "padding": "x" * size}).encode()
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                del body
                await reader.readuntil(b"data: [DONE]\n\n")
                assert tracemalloc.get_traced_memory()[0] < size / 4
                assert site.gateway.parts.held == 0
            finally:
                tracemalloc.stop()
            over.set()
            await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.close()
            server.close()
            await server.wait_closed()

    asyncio.run(scenario())


def test_answers_that_are_translated_whole_fill_no_more_than_they_may(tmp_path: Path) -> None:
    async def says(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + b" " * 400_000)
        await writer.drain()

    async def scenario() -> None:
        limits = Limits(held_bytes=100_000)
        async with a_site(tmp_path, limits=limits) as site, another_engine(site, says):
            async with site.http.post(**site.ask("tiny", "/ollama/api/chat", stream=False)) as answer:
                assert answer.status == 429
            await until(lambda: [entry.outcome for entry in site.ledger.entries] == [Outcome.REFUSED])
            assert site.gateway.parts.held == 0

    asyncio.run(scenario())
