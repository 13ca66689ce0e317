"""An answer's head and its first piece leave together; nothing is kept back, lost, or told in another order."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

import provisioner.gateway.server_protocol as server_protocol
from provisioner.gateway.server_protocol import HeadWithBody
from tests.gateway.site import until

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class Wire(asyncio.Transport):
    """What was written, and when it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_shut = False
        self.left = 0
        self.looks = 0
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_shut
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_shut = True

    def is_closing(self) -> bool:
        return self.is_shut

    def get_write_buffer_size(self) -> int:
        self.looks += 1
        return self.left

    def abort(self) -> None:
        self.is_aborted = True

    def get_extra_info(self, name: str, default: object = None) -> object:
        return name


def both() -> tuple[Wire, HeadWithBody]:
    wire = Wire()
    return wire, HeadWithBody(cast(asyncio.Transport, wire))


def test_they_are_written_at_once() -> None:
    async def scenario() -> None:
        wire, answers = both()
        answers.write(HEAD)
        assert wire.written == []
        answers.write(b"body")
        answers.write(b"more")
        await asyncio.sleep(0)
        assert wire.written == [HEAD + b"body", b"more"]

    asyncio.run(scenario())


def test_a_head_whose_body_takes_its_time_goes_ahead() -> None:
    async def scenario() -> None:
        wire, answers = both()
        answers.write(HEAD)
        await asyncio.sleep(0)
        assert wire.written == [HEAD]
        answers.write(b"body")
        assert wire.written == [HEAD, b"body"]

    asyncio.run(scenario())


def test_a_close_loses_nothing_and_writes_nothing_afterwards() -> None:
    async def scenario() -> None:
        wire, answers = both()
        answers.write(HEAD)
        answers.close()
        await asyncio.sleep(0)
        assert (wire.written, answers.is_closing()) == ([HEAD], True)
        wire, answers = both()
        answers.write(HEAD)
        wire.is_shut = True
        await asyncio.sleep(0)
        assert wire.written == []

    asyncio.run(scenario())


def test_a_close_does_not_wait_for_ever_for_who_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_protocol, "UNREAD_SECONDS", 0.01)

    async def scenario() -> None:
        wire, answers = both()
        wire.left = 3
        answers.close()
        # As long as something is taken, it goes on.
        for left in (2, 1):
            before, wire.left = wire.looks, left
            await until(lambda before=before: wire.looks > before)
            assert not wire.is_aborted
        await until(lambda: wire.is_aborted)
        wire, answers = both()
        answers.close()
        assert wire.looks == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("pieces", [[HEAD, HEAD, HEAD], [b"x", HEAD, b"", b"y"], [HEAD, b"", HEAD]])
def test_all_is_told_in_its_order(pieces: list[bytes]) -> None:
    async def scenario() -> None:
        wire, answers = both()
        for piece in pieces:
            answers.write(piece)
        await asyncio.sleep(0)
        assert b"".join(wire.written) == b"".join(pieces)
        assert answers.get_extra_info("socket") == "socket"

    asyncio.run(scenario())
