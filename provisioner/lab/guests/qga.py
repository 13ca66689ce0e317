"""Speaks the QEMU guest agent's protocol: JSON lines over the guest's channel.

The channel has no connections: bytes for or from an earlier caller may still be
in it. So each exchange first synchronizes with a fresh number and drops all that
comes before its echo. QEMU lets one client in at a time, hence the lock.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from provisioner.lab.guests.base import AgentRefused, AgentSilent

SYNC_SECONDS = 3.0
"""How long a sign of life may take; Proxmox itself gives an agent about as long."""

ANSWER_SECONDS = 30.0
"""How long a command may take once the agent has shown that it lives."""

_SENTINEL = b"\xff"
_LARGEST_ANSWER = 64 << 20
_NO_ANSWER = frozenset({"guest-shutdown", "guest-suspend-disk", "guest-suspend-ram", "guest-suspend-hybrid"})
"""Commands that say nothing when they succeed."""


class GuestAgent:
    """The agent of one guest, reached through the socket of its channel."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._one_at_a_time = asyncio.Lock()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        sync_seconds: float = SYNC_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> object:
        """Run one command and return what it returned. Raises AgentSilent or AgentRefused."""
        try:
            async with asyncio.timeout(sync_seconds + answer_seconds), self._one_at_a_time:
                return await self._exchange(command, arguments, sync_seconds, answer_seconds)
        except TimeoutError as error:
            raise AgentSilent(f"the guest agent did not answer {command} in time") from error

    async def _exchange(
        self, command: str, arguments: Mapping[str, object] | None, sync_seconds: float, answer_seconds: float
    ) -> object:
        async with self._connection() as (reader, writer):
            try:
                async with asyncio.timeout(sync_seconds):
                    await _synchronize(reader, writer)
            except TimeoutError as error:
                raise AgentSilent("the guest agent gives no sign of life") from error
            message: dict[str, object] = {"execute": command}
            if arguments:
                message["arguments"] = dict(arguments)
            writer.write(json.dumps(message).encode() + b"\n")
            await writer.drain()
            if command in _NO_ANSWER:
                return {}
            async with asyncio.timeout(answer_seconds):
                answer = await _line(reader)
        if "error" in answer:
            error_said = answer["error"]
            raise AgentRefused(
                str(error_said.get("desc", error_said)) if isinstance(error_said, dict) else str(error_said)
            )
        return answer.get("return")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=_LARGEST_ANSWER)
        except OSError as error:
            raise AgentSilent(f"the guest has no agent channel: {error.strerror or error}") from error
        try:
            yield reader, writer
        except TimeoutError:
            # An OSError by descent, but ours: the caller says what was waited for.
            raise
        except OSError as error:
            raise AgentSilent(f"the guest agent's channel broke: {error.strerror or error}") from error
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _synchronize(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    number = secrets.randbelow(1 << 31)
    ask = json.dumps({"execute": "guest-sync-delimited", "arguments": {"id": number}})
    # The sentinel first makes the agent drop a half line that someone else left.
    writer.write(_SENTINEL + ask.encode() + b"\n")
    await writer.drain()
    while True:
        try:
            await reader.readuntil(_SENTINEL)
        except asyncio.IncompleteReadError as error:
            raise AgentSilent("the guest agent's channel closed") from error
        with suppress(ValueError):
            if (await _line(reader)).get("return") == number:
                return


async def _line(reader: asyncio.StreamReader) -> dict[str, object]:
    try:
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise AgentSilent("the guest agent's answer broke off") from error
    found = json.loads(line.rpartition(_SENTINEL)[2])
    if not isinstance(found, dict):
        raise ValueError("the guest agent's answer is no object")
    return found
