"""Streams and a memory of measurements that tests own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from provisioner.domain.measurement import MeasuredThing, Measurement
from provisioner.ports.web import NO_HEADERS, Headers, NoAnswer
from tests.fakes.clock import FakeClock
from tests.fakes.guests import FakeGuests


class MemoryMeasurements:
    """Figures in a list."""

    def __init__(self) -> None:
        self.kept: list[Measurement] = []

    def add(self, measurement: Measurement) -> None:
        self.kept.append(measurement)

    def last(self, thing: MeasuredThing, count: int) -> tuple[Measurement, ...]:
        return tuple([each for each in reversed(self.kept) if each.thing == thing][:count])


@dataclass
class FakeStreams:
    """Replies of a model that takes its time; whoever hangs up early is noted."""

    guests: FakeGuests
    clock: FakeClock
    first_seconds: float = 0.5
    token_seconds: float = 0.1
    tokens_per_piece: int = 1
    counts: bool = True
    breaks_after: int | None = None
    hung_up: int = 0
    asked: list[dict[str, object]] = field(default_factory=list)

    @contextmanager
    def open(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Iterator[Iterator[str]]:
        assert isinstance(body, dict)
        answer = self.guests.get(url.rsplit("/v1/", 1)[0] + "/health", seconds=seconds)
        if answer.status != 200:
            raise NoAnswer(f"HTTP {answer.status}")
        if self.guests.locks(url, headers):
            raise NoAnswer("HTTP 401 Invalid API Key", 401)
        self.asked.append(body)
        lines = self._lines(int(body["max_tokens"]))
        yield lines
        if next(lines, None) is not None:
            self.hung_up += 1

    def _lines(self, tokens: int) -> Iterator[str]:
        yield ": a comment"
        yield _event({"choices": [{"delta": {"role": "assistant", "content": None}}]})
        for number in range(0, tokens, self.tokens_per_piece):
            if number == self.breaks_after:
                raise NoAnswer("the connection was closed")
            self.clock.sleep(self.first_seconds if number == 0 else self.token_seconds * self.tokens_per_piece)
            yield _event({"choices": [{"delta": {"content": " word"}}]})
            yield ""
        yield _event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        if self.counts:
            yield _event({"choices": [], "usage": {"completion_tokens": tokens}})
        yield "data: [DONE]"


def _event(document: dict[str, object]) -> str:
    return f"data: {json.dumps(document)}"
