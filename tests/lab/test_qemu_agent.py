"""The agent client against channels that hold old answers, keep silent, break off or refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from provisioner.lab.guests.base import AgentRefused, AgentSilent
from provisioner.lab.guests.qga import GuestAgent

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def channel(path: Path, serve: Serve) -> Any:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(once, str(path))
    async with server:
        yield GuestAgent(path)


def well_behaved(answers: dict[str, object], prelude: bytes = b"") -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(prelude)
        while line := await reader.readline():
            message = json.loads(line.replace(b"\xff", b""))
            if message["execute"] == "guest-sync-delimited":
                writer.write(b"\xff" + json.dumps({"return": message["arguments"]["id"]}).encode() + b"\n")
            else:
                answer = answers.get(message["execute"], {"error": {"class": "CommandNotFound", "desc": "no such"}})
                writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()

    return serve


def test_an_answer_is_returned_as_the_agent_gave_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "s", well_behaved({"guest-exec": {"return": {"pid": 7}}})) as agent:
            assert await agent.execute("guest-exec", {"path": "/bin/true"}) == {"pid": 7}

    asyncio.run(scenario())


def test_what_an_earlier_caller_left_in_the_channel_is_dropped(tmp_path: Path) -> None:
    old = b'{"return": {"pid": 1}}\n\xff{"return": 12}\n{"half'

    async def scenario() -> None:
        async with channel(tmp_path / "s", well_behaved({"guest-ping": {"return": {}}}, old)) as agent:
            assert await agent.execute("guest-ping") == {}

    asyncio.run(scenario())


def test_a_refusal_carries_the_agents_words(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path / "s", well_behaved({})) as agent:
            with pytest.raises(AgentRefused, match="no such"):
                await agent.execute("guest-nonsense")

    asyncio.run(scenario())


def test_silence_ends_after_the_time_for_a_sign_of_life(tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        async with channel(tmp_path / "s", mute) as agent:
            with pytest.raises(AgentSilent, match="no sign of life"):
                await agent.execute("guest-ping", sync_seconds=0.2)

    asyncio.run(scenario())


def test_an_agent_that_hangs_in_a_command_is_silent_too(tmp_path: Path) -> None:
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        number = json.loads(line.replace(b"\xff", b""))["arguments"]["id"]
        writer.write(b"\xff" + json.dumps({"return": number}).encode() + b"\n")
        await reader.read()

    async def scenario() -> None:
        async with channel(tmp_path / "s", hangs) as agent:
            with pytest.raises(AgentSilent, match="in time"):
                await agent.execute("guest-ping", answer_seconds=0.2)

    asyncio.run(scenario())


def test_a_channel_that_breaks_off_is_silence(tmp_path: Path) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"\xff{")

    async def scenario() -> None:
        async with channel(tmp_path / "s", breaks) as agent:
            with pytest.raises(AgentSilent):
                await agent.execute("guest-ping")

    asyncio.run(scenario())


def test_no_channel_is_silence(tmp_path: Path) -> None:
    with pytest.raises(AgentSilent, match="no agent channel"):
        asyncio.run(GuestAgent(tmp_path / "nothing").execute("guest-ping"))


def test_a_shutdown_does_not_wait_for_an_answer(tmp_path: Path) -> None:
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        number = json.loads(line.replace(b"\xff", b""))["arguments"]["id"]
        writer.write(b"\xff" + json.dumps({"return": number}).encode() + b"\n")
        heard.append(json.loads(await reader.readline())["execute"])

    async def scenario() -> None:
        async with channel(tmp_path / "s", serve) as agent:
            await asyncio.wait_for(agent.execute("guest-shutdown"), 5)
            while not heard:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert heard == ["guest-shutdown"]


def test_callers_take_turns(tmp_path: Path) -> None:
    open_now = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await well_behaved({"guest-ping": {"return": {}}})(reader, writer)
        open_now -= 1

    async def scenario() -> None:
        async with channel(tmp_path / "s", serve) as agent:
            await asyncio.gather(*(agent.execute("guest-ping") for _ in range(5)))

    asyncio.run(scenario())
    assert most <= 2  # the server notices the end of one connection a moment after the next has begun
