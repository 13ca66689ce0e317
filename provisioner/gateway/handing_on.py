"""Hands an engine's answer on to its client as it comes, or translated; and says so when it breaks off."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from provisioner.domain.ledger import Outcome
from provisioner.domain.names import NodeName
from provisioner.domain.quantities import MIB
from provisioner.gateway.asking import Headers
from provisioner.gateway.client import AT_ONCE, Client, TooMuch
from provisioner.gateway.deadline import Deadline
from provisioner.gateway.dialects import Dialect, Fault
from provisioner.gateway.ollama_answers import OllamaAnswer, Unreadable
from provisioner.gateway.parts import Parts, Room
from provisioner.gateway.upstream import EngineAway, Exchange, Head, Trouble

# Enough for the numbers at the end of an answer.
_TAIL = 2048
# What is translated in one piece is kept until it is whole; a thousand vectors take half of this.
_LARGEST_DOCUMENT = 64 * MIB
# An engine that refuses says why at once. One whose words do not end is not waited for: half of them are told.
_REFUSAL_SECONDS = 3.0
_PASSED_ON = frozenset({b"content-type", b"content-length", b"retry-after", b"cache-control"})


class Failed(Exception):
    """No answer can be had.

    `is_cut` is for one that broke off and cannot say so itself. `reason` is what is kept of it: what an engine says may
    repeat what it was asked, and that is its client's alone.
    """

    def __init__(self, fault: Fault, outcome: Outcome, *, is_cut: bool = False, reason: str = "") -> None:
        super().__init__(fault.summary)
        self.fault = fault
        self.outcome = outcome
        self.is_cut = is_cut
        self.reason = reason or fault.summary


@dataclass(slots=True)
class Record:
    """What the ledger will say."""

    node: str = ""
    reason: str = ""
    is_fallback: bool = False
    woke: bool = False
    tries: int = 0
    waited: float = 0.0
    first_byte: float | None = None
    tail: bytes = b""


@dataclass(slots=True)
class HandingOn:
    """One answer. `translated` is how it is told in another dialect; None for as it is."""

    parts: Parts
    client: Client
    dialect: Dialect
    is_stream: bool
    record: Record
    node: NodeName
    translated: OllamaAnswer | None = None
    has_begun: bool = False
    """The engine's own words are on their way, not only signs of life."""

    async def run(self, exchange: Exchange, head: Head) -> None:
        """Send the answer on. Raises Failed when it breaks off."""
        if self.client.has_begun and (head.status != 200 or not self._is_promised(head)):
            await self._tell_late(exchange, head)
        exchange.limit_silence(self.parts.limits.silence_seconds)
        if self.translated is not None and not (self.translated.streams and head.status == 200):
            await self._in_one_piece(exchange, head, self.translated)
        else:
            await self._as_it_comes(exchange, head, self.translated)

    async def _as_it_comes(self, exchange: Exchange, head: Head, translated: OllamaAnswer | None) -> None:
        client = self.client
        self.has_begun = True
        if not client.has_begun:
            await client.begin(head.status, self._headers(head))
        try:
            while data := await exchange.read():
                if translated is not None:
                    data = translated.piece(data)
                    if not data:
                        continue
                self._remember(data)
                if exchange.is_over and translated is None:
                    # Most answers in one piece have come whole by now.
                    await client.end(data)
                    return
                await client.send(data)
        except (EngineAway, Unreadable) as broken:
            raise self._broken(broken) from broken
        last = translated.end() if translated is not None else b""
        if last:
            self._remember(last)
        await client.end(last)

    async def _in_one_piece(self, exchange: Exchange, head: Head, translated: OllamaAnswer) -> None:
        said, room = bytearray(), Room(self.parts)
        try:
            while data := await exchange.read():
                room.take(len(data))
                said += data
                if len(said) > _LARGEST_DOCUMENT:
                    raise EngineAway(Trouble.GARBAGE, f"its answer exceeds {_LARGEST_DOCUMENT // MIB} MiB")
            document = translated.document(head.status, bytes(said))
        except (EngineAway, Unreadable) as broken:
            raise self._broken(broken) from broken
        except TooMuch as full:
            raise Failed(full.fault, Outcome.REFUSED) from None
        finally:
            room.leave()
        self._remember(document)
        self.has_begun = True
        if self.client.has_begun:
            await self.client.end(document)
            return
        await self.client.begin(head.status, [*self._headers(head), (b"content-length", b"%d" % len(document))])
        await self.client.end(document)

    def _broken(self, broken: EngineAway | Unreadable) -> Failed:
        why = str(broken) if isinstance(broken, EngineAway) else f"it says {broken}"
        self.parts.health.failed(self.node, why)
        fault = Fault(502, "engine_failed", f"cannot finish the answer: {self.node} broke off ({why})", "ask again")
        # Half a document cannot be mended: the connection ends, and its client sees that.
        return Failed(fault, Outcome.FAILED, is_cut=self.has_begun and not self.is_stream)

    def _is_promised(self, head: Head) -> bool:
        """Say whether an answer is of the kind as which it has begun."""
        return not self.client.is_document or (head.get(b"content-type") or b"").startswith(b"application/json")

    async def _tell_late(self, exchange: Exchange, head: Head) -> None:
        """Say inside an answer that has begun what its engine says instead of one. Raises Failed."""
        said = b""
        with suppress(EngineAway, TimeoutError), Deadline(_REFUSAL_SECONDS):
            while len(said) < _TAIL and (data := await exchange.read()):
                said += data
        words = " ".join(said[:_TAIL].decode(errors="replace").split())[:500]
        told = f"{self.node} answers {head.status}"
        fault = Fault(head.status, "engine_refused", f"cannot answer: {told} {words}".rstrip())
        raise Failed(fault, Outcome.FAILED, reason=told)

    def _headers(self, head: Head) -> Headers:
        headers = [pair for pair in head.headers if pair[0] in _PASSED_ON]
        if self.translated is not None:
            streams = self.translated.streams and head.status == 200
            kind = self.dialect.stream_type if streams else "application/json"
            headers = [pair for pair in headers if pair[0] not in (b"content-type", b"content-length")]
            headers.append((b"content-type", kind.encode()))
        if self.is_stream:
            headers.append(AT_ONCE)
        headers.append((b"x-provisioner-node", self.node.encode("ascii", "replace")))
        if self.record.is_fallback:
            headers.append((b"x-provisioner-fallback", b"true"))
        if self.record.woke:
            headers.append((b"x-provisioner-waited", f"{self.record.waited:.3f}".encode()))
        return headers

    def _remember(self, data: bytes) -> None:
        self.record.tail = data[-_TAIL:] if len(data) >= _TAIL else (self.record.tail + data)[-_TAIL:]
