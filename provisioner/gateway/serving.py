"""Serves one request: finds its node, waits for a wake, sends it, hands the answer on.

What fails before its first byte goes to another node; afterwards nothing does.

What it decides by comes from `planning.routing`; here is the order of things.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

from provisioner.domain.ledger import LedgerEntry, Outcome
from provisioner.domain.names import EngineName, NodeName
from provisioner.domain.serving import NodeNow, Phase
from provisioner.errors import ProvisionerError
from provisioner.gateway.asking import Question
from provisioner.gateway.client import Client
from provisioner.gateway.deadline import Deadline
from provisioner.gateway.dialects import Dialect, Fault
from provisioner.gateway.handing_on import Failed, HandingOn, Record
from provisioner.gateway.ollama_answers import OllamaAnswer
from provisioner.gateway.ollama_requests import Asked, as_openai
from provisioner.gateway.parts import Parts
from provisioner.gateway.pulse import Pulse
from provisioner.gateway.upstream import EngineAway, Exchange, Head, Target, Trouble
from provisioner.planning.model_table import ModelEntry, Offer
from provisioner.planning.routing import Ask, Candidate, Refusal, Route, Way, route

_MOST_TRIES = 8
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 2.0
_GATE_PAUSE = 0.05
# What an engine says when it is full or not ready; another node may do better.
_ELSEWHERE = frozenset({429, 500, 502, 503, 504})
# Nobody there works on a request. A drain waits for one that does, and of what is unknown nothing is known.
_DOWN = frozenset({Phase.ABSENT, Phase.ASLEEP, Phase.WITHHELD})


_STOPPING = Fault(503, "stopping", "cannot hold the request any longer: the service is stopped", "ask again", 1.0)


@dataclass(slots=True)
class Serving:
    """One request.

    `path` is what the engine is asked for. `engine` is the only one that may be; None for all.
    """

    parts: Parts
    client: Client
    dialect: Dialect
    question: Question
    entry: ModelEntry
    ask: Ask
    caller: str
    path: str
    body: bytes
    engine: EngineName | None = None
    _record: Record = field(default_factory=Record)
    _begun: float = field(default_factory=time.monotonic)
    _barred: dict[NodeName, str] = field(default_factory=dict)
    _waits_for: NodeName | None = None
    _overloaded: float | None = None
    _handing_on: HandingOn | None = None
    _translated: OllamaAnswer | None = None

    async def run(self) -> None:
        """Answer the client, whatever happens, and write the ledger."""
        at, size = self.parts.now(), len(self.body)
        outcome = Outcome.ANSWERED
        self.parts.held += size
        pulse = self._pulse()
        self.client.watch(self.parts.limits.silence_seconds)
        try:
            try:
                exchange, node, head = await self._answer_of_some_node(pulse)
            finally:
                self.parts.held -= size
                self.body = b""
            try:
                self._handing_on = HandingOn(
                    self.parts, self.client, self.dialect, self.question.is_stream, self._record, node, self._translated
                )
                await self._handing_on.run(exchange, head)
            finally:
                self.parts.flight.leave(node, self.parts.now())
                exchange.abort()
        except Failed as failed:
            outcome = failed.outcome
            self._record.reason = failed.reason
            if not failed.is_cut:
                await self._refuse(pulse, failed.fault)
        except asyncio.CancelledError:
            is_begun = self._handing_on is not None and self._handing_on.has_begun
            is_half_told = is_begun and not self.question.is_stream
            if not self.client.has_left and is_half_told:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            # Many hang up at the last word, which the engine's connection outlives by a moment.
            has_all = self.question.is_stream and self.dialect.is_whole(self._record.tail)
            left = Outcome.ANSWERED if has_all else Outcome.LEFT
            outcome = left if self.client.has_left else Outcome.FAILED
            if not self.client.has_left:
                # The drain is over; whoever asks again is held by the next service.
                await self._refuse(pulse, _STOPPING)
        finally:
            self.client.unwatch()
            self._write(at, size, outcome)
            if pulse is not None:
                await pulse.stop()

    def _pulse(self) -> Pulse | None:
        """Return what keeps the client patient, where something does."""
        client, is_stream = self.client, self.question.is_stream
        path = self.path.partition("?")[0]
        is_document = client.method == "POST" and client.takes_pieces and self.dialect.answers_json(path)
        if not is_stream and not is_document:
            return None
        return Pulse(client, self.dialect, self.parts.limits, self._words, is_stream=is_stream)

    async def _refuse(self, pulse: Pulse | None, fault: Fault) -> None:
        if pulse is not None:
            await pulse.stop()
        self.client.unwatch()
        await self.client.refuse(self.dialect, fault, self._record.tail)

    async def _answer_of_some_node(self, pulse: Pulse | None) -> tuple[Exchange, NodeName, Head]:
        """Return the answer that begins, its node entered. Raises Failed."""
        awake: NodeName | None = None
        pause = _FIRST_PAUSE
        while True:
            found, offer = self._route(awake)
            if found.way is Way.REFUSE or offer is None:
                raise self._refusal(found)
            if found.wake is not None:
                self.parts.wake_beside(found.wake)
            self._record.reason, self._record.is_fallback = found.reason, found.is_fallback
            if found.way is Way.WAIT:
                awake = await self._wait_for(offer.node)
                continue
            if not self._enter(offer.node):
                # Its gate closed this moment; it goes to sleep and is woken again.
                awake = None
                await asyncio.sleep(0)
                continue
            awake = None
            exchange = None
            try:
                exchange, head = await self._send(offer)
                if head.status == 401:
                    # It is our key that it refuses; its client has shown a token that is good.
                    raise EngineAway(Trouble.REFUSED, "it refuses our API key (HTTP 401)")
                if head.status in _ELSEWHERE and await self._is_better_elsewhere(offer, head):
                    trouble = Trouble.FULL if head.status == 429 else Trouble.BROKEN
                    raise EngineAway(trouble, f"it answers {head.status}")
                if head.status not in (429, 503) or not self._may_ask_again():
                    if pulse is not None:
                        await pulse.stop()
                    self._record.node, self._record.first_byte = offer.node, time.monotonic() - self._begun
                    if head.status < 500:
                        self.parts.health.succeeded(offer.node)
                    return exchange, offer.node, head
            except EngineAway as away:
                self._leave(offer.node, exchange)
                self._failed_at(offer.node, away)
                continue
            except BaseException:
                self._leave(offer.node, exchange)
                raise
            # It is full and nobody else is there: it is asked again in a moment.
            self._leave(offer.node, exchange)
            await self._pause(offer.node, pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _route(self, awake: NodeName | None) -> tuple[Route, Offer | None]:
        """Decide; a node whose wake has just ended passes for ready, whatever was seen of it before."""
        seen = self.parts.power.seen()
        offers: dict[NodeName, Offer] = {}
        candidates: dict[NodeName, Candidate] = {}
        for offer in self.entry.speaking(self.engine):
            if offer.stands_in and not self._may_stand_in:
                continue
            now = seen.get(offer.node) or NodeNow(offer.node, Phase.UNKNOWN, "it has not been looked at yet")
            if offer.node == awake:
                now = replace(now, phase=Phase.READY)
            if offer.node in self._barred:
                now = replace(now, phase=Phase.WITHHELD, reason=self._barred[offer.node])
            known = candidates.get(offer.node)
            if known is not None and (known.is_in_mode or now.mode != offer.mode):
                continue
            offers[offer.node] = offer
            candidates[offer.node] = Candidate(
                now,
                offer.mode,
                offer.model,
                offer.has_gpu,
                offer.room,
                offer.stands_in,
                self.parts.flight.of(offer.node),
                self.parts.health.trouble(offer.node),
            )
        found = route(self.ask, tuple(candidates.values()))
        return found, offers.get(found.node) if found.node is not None else None

    @property
    def _may_stand_in(self) -> bool:
        """Another model's words are better than none; another model's vectors are worse."""
        return any(word in self.path for word in ("chat", "completions", "generate", "responses", "messages"))

    def _refusal(self, found: Route) -> Failed:
        if found.refusal is Refusal.MAY_NOT_WAKE:
            fault = Fault(
                503,
                "asleep",
                f'cannot answer for model "{self.entry.name}" without a wake: {found.reason}',
                "X-Provisioner-Wake: yes",
            )
            return Failed(fault, Outcome.REFUSED)
        status, code = (503, "no_node_available") if not self._barred else (503, "wake_failed")
        retry = max((self.parts.retry_seconds(node) or 0.0 for node in self._barred), default=0.0) or 30.0
        fault = Fault(
            status, code, f'cannot answer for model "{self.entry.name}": {found.reason}', "provisioner status", retry
        )
        return Failed(fault, Outcome.FAILED if self._barred or self._record.tries else Outcome.REFUSED)

    def _enter(self, node: NodeName) -> bool:
        """Count us in, unless the gate is closed. Raises Failed when the node is full."""
        if self.parts.flight.of(node).running >= self.parts.limits.running:
            raise self._full(node, f"{self.parts.limits.running} requests run there already")
        return self.parts.flight.enter(node, self.parts.now())

    def _leave(self, node: NodeName, exchange: Exchange | None) -> None:
        self.parts.flight.leave(node, self.parts.now())
        if exchange is not None:
            exchange.abort()

    def _full(self, node: NodeName, why: str) -> Failed:
        left = self._seconds_left(node)
        summary = f"cannot take more requests for {node}: {why}"
        fault = Fault(429, "queue_full", summary, "ask again later", left if left is not None else 10.0)
        return Failed(fault, Outcome.REFUSED)

    async def _wait_for(self, node: NodeName) -> NodeName | None:
        """Wait until a node was woken; return it, or None when it cannot come. Raises Failed."""
        if self._record.tries >= _MOST_TRIES:
            raise self._given_up()
        limits, flight = self.parts.limits, self.parts.flight
        if not flight.start_waiting(node, self.parts.now(), most=limits.waiting):
            raise self._full(node, f"{limits.waiting} wait for it already")
        began = time.monotonic()
        self._waits_for, self._record.woke = node, True
        try:
            async with asyncio.timeout(limits.hold_seconds - (began - self._begun)):
                await self.parts.power.wake(node)
        except TimeoutError:
            summary = f"cannot answer within {limits.hold_seconds:g} s: {node} is still not ready"
            raise Failed(Fault(503, "not_ready", summary, "ask again later", 30.0), Outcome.FAILED) from None
        except ProvisionerError as error:
            self._barred[node] = error.summary
            return None
        finally:
            flight.stop_waiting(node)
            self._waits_for = None
            self._record.waited += time.monotonic() - began
        self.parts.health.forgive(node)
        self.ask = replace(self.ask, tried=self.ask.tried - {node})
        if not flight.of(node).is_open:
            # Whoever closed the gate opens it in a moment.
            await asyncio.sleep(_GATE_PAUSE)
        return node

    async def _send(self, offer: Offer) -> tuple[Exchange, Head]:
        """Send the request to a node; return its answer's beginning. Raises EngineAway."""
        self._record.tries += 1
        self._record.node = offer.node
        asked = self._asked(offer)
        headers = [("accept", "*/*")]
        if self.question.content_type:
            headers.append(("content-type", self.question.content_type))
        headers += self.parts.keys.headers(offer.node, offer.engine, asked.path).items()
        exchange = await self.parts.engines.send(
            Target(offer.host, offer.port), asked.method, asked.path, body=asked.body, headers=tuple(headers)
        )
        try:
            return exchange, await self._head(exchange, offer.node)
        except BaseException:
            exchange.abort()
            raise

    def _asked(self, offer: Offer) -> Asked:
        """Return what an engine is asked, in its own dialect."""
        self._translated = None
        if self.dialect.engine in (None, offer.engine):
            return Asked(self.client.method, self.path, self.question.body_for(offer.model, self.body))
        path = self.path.partition("?")[0]
        asked = as_openai(path, self.body, offer.model)
        self._translated = OllamaAnswer(path, self.question.model, streams=asked.streams, now=self.parts.now)
        return asked

    async def _head(self, exchange: Exchange, node: NodeName) -> Head:
        """Wait for the beginning of the answer, with a look at the engine's health when it takes long.

        A long silence is an engine's right while it reads a long prompt. Only one that does not say that it is
        healthy, while another node could answer or its own is down, is given up. Raises EngineAway.
        """
        try:
            with Deadline(self.parts.limits.suspect_seconds):
                return await self._beginning(exchange)
        except TimeoutError:
            pass
        head = asyncio.ensure_future(self._beginning(exchange))
        try:
            while True:
                look = asyncio.ensure_future(self.parts.health.look(node))
                await asyncio.wait({head, look}, return_when=asyncio.FIRST_COMPLETED)
                if not head.done():
                    is_well = await look
                    if not is_well and not head.done() and (self._has_another(node) or self._is_down(node)):
                        raise EngineAway(Trouble.SILENT, self.parts.health.trouble(node) or "it does not answer")
                await asyncio.wait({head}, timeout=1.0)
                if head.done():
                    return head.result()
        finally:
            if not head.cancel() and not head.cancelled():
                # Heard, whether or not anybody raises it.
                head.exception()

    async def _beginning(self, exchange: Exchange) -> Head:
        """Return an answer's head; that of a stream once it says something.

        vLLM sends it at once and then reads the prompt, which takes minutes: until then the stream is kept alive, and
        another node may still answer.
        """
        head = await exchange.head()
        if head.status == 200 and self.question.is_stream:
            await exchange.first()
        return head

    def _is_down(self, node: NodeName) -> bool:
        """Say whether a node is known to be off.

        What its kernel was sent last is then waited for as long as TCP sends it again, which is a quarter of an hour;
        a wake brings the node in less.
        """
        now = self.parts.power.seen().get(node)
        return now is not None and now.phase in _DOWN

    def _has_another(self, node: NodeName) -> bool:
        """Say whether some other node could answer this request this moment."""
        before = self.ask
        self.ask = replace(before, tried=before.tried | {node})
        try:
            found, _ = self._route(None)
        finally:
            self.ask = before
        return found.way is Way.SEND and found.node != node

    async def _is_better_elsewhere(self, offer: Offer, head: Head) -> bool:
        """Say whether an answer that says no is left for another try: a free node, or one that must come up again."""
        if self._has_another(offer.node):
            return True
        # Alone and not well, it is held until it answers, as in any other start; alone and well, it means it.
        return head.status in (502, 503, 504) and not await self.parts.health.look(offer.node)

    def _may_ask_again(self) -> bool:
        now = time.monotonic()
        if self._overloaded is None:
            self._overloaded = now
        return now - self._overloaded < self.parts.limits.overload_seconds

    async def _pause(self, node: NodeName, seconds: float) -> None:
        flight = self.parts.flight
        if not flight.start_waiting(node, self.parts.now(), most=self.parts.limits.waiting):
            raise self._full(node, f"{self.parts.limits.waiting} wait for it already")
        try:
            await asyncio.sleep(seconds)
        finally:
            flight.stop_waiting(node)

    def _failed_at(self, node: NodeName, away: EngineAway) -> None:
        """Remember that a node failed this request. Raises Failed when that has been enough."""
        if away.trouble is not Trouble.FULL:
            self.parts.health.failed(node, str(away))
        self.ask = replace(self.ask, tried=self.ask.tried | {node})
        self._record.reason = str(away)
        if self._record.tries >= _MOST_TRIES:
            raise self._given_up()

    def _given_up(self) -> Failed:
        summary = f'cannot answer for model "{self.entry.name}" in {self._record.tries} tries: {self._record.reason}'
        return Failed(Fault(502, "engine_failed", summary, "provisioner status", 10.0), Outcome.FAILED)

    def _words(self) -> str:
        """Return what a waiting client is told."""
        node = self._waits_for
        if node is None:
            return f"{self._record.node or self.entry.name} works on it"
        now = self.parts.power.seen().get(node)
        left = self._seconds_left(node)
        about = f", about {left:.0f} s to go" if left is not None else ""
        return f"{node} is {now.phase.value}: {now.reason}{about}" if now is not None else f"waiting for {node}"

    def _seconds_left(self, node: NodeName) -> float | None:
        now = self.parts.power.seen().get(node)
        return now.seconds_left if now is not None else None

    def _write(self, at: float, size: int, outcome: Outcome) -> None:
        record = self._record
        tokens_in, tokens_out = self.dialect.usage(record.tail)
        if outcome is Outcome.ANSWERED and self.client.status >= 400:
            outcome = Outcome.FAILED
        self.parts.ledger.add(
            LedgerEntry(
                at=at,
                caller=self.caller,
                path=self.path.partition("?")[0],
                model=self.entry.name,
                outcome=outcome,
                status=self.client.status,
                seconds=time.monotonic() - self._begun,
                node=record.node,
                is_fallback=record.is_fallback,
                woke=record.woke,
                tries=record.tries,
                waited_seconds=record.waited,
                first_byte_seconds=record.first_byte,
                bytes_in=size,
                bytes_out=self.client.sent,
                tokens_in=tokens_in,
                tokens_out=tokens_out,
                reason=record.reason,
            )
        )
