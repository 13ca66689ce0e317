"""Measures how fast a node's engine answers one, four, sixteen clients at once, by its streaming API."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.measurement import LevelFigures, Measurement, Reply
from provisioner.engines.base import AnswerUnreadable
from provisioner.engines.openai_stream import read_piece, streamed_chat
from provisioner.errors import EngineError, NotReadyError
from provisioner.planning.bench_figures import level_figures, measured_thing
from provisioner.ports.web import NoAnswer
from provisioner.services.deployments import address_of, engine_of
from provisioner.services.engine_web import engine_streams, engine_web
from provisioner.services.entering import Entering
from provisioner.services.events import OnEvent, running_step
from provisioner.services.proving import EngineProbe
from provisioner.services.world import World

# The first reply may bring the model into memory; later ones stand in a queue of sixteen.
_FIRST_SILENCE_SECONDS = 600.0
_SILENCE_SECONDS = 120.0
_MOST_TOKENS = 128
_LEAST_TOKENS = 8
_DEFAULT_CONTEXT = 4096
_PROMPT = "{number}. Tell a long story about a lighthouse keeper who counts ships, and do not stop early."


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The figures of every level, and those of the last run of the same thing where there was one."""

    node: str
    mode: str
    model: str
    levels: tuple[LevelFigures, ...]
    earlier: tuple[Measurement | None, ...]

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node,
            "mode": self.mode,
            "model": self.model,
            "levels": [level.as_dict() for level in self.levels],
            "earlier": [dict(each.figures) if each else None for each in self.earlier],
        }


class Benchmarking:
    """`bench`."""

    def __init__(self, fleet: FleetSpec, world: World) -> None:
        self._fleet = fleet
        self._world = world

    def bench(self, node: NodeSpec, streams: Sequence[int], seconds: float, on_event: OnEvent) -> BenchReport:
        """Measure, and keep the figures for later.

        Args:
            node: one that answers; it is not woken.
            streams: how many clients at once, level by level.
            seconds: how long each level lasts; some tokens for every stream are waited for.
            on_event: told about the levels.

        Raises:
            NotReadyError: the node is off, or its engine does not answer.
            EngineError: it refused, or broke off.
        """
        self.require_answering(node)
        levels, earlier = [], []
        with running_step(on_event, node, "warm up", self._world.clock) as step:
            self.reply(node, max_tokens=1, silence=_FIRST_SILENCE_SECONDS)
            step.changed = False
        for number in streams:
            with running_step(on_event, node, f"{number} at once", self._world.clock) as step:
                level = level_figures(number, self._level(node, number, seconds))
                thing = measured_thing(self._fleet, node, f"bench:{number}")
                earlier.append(next(iter(self._world.measurements.last(thing, 1)), None))
                self._world.measurements.add(Measurement(thing, self._world.clock.now(), level.as_dict()))
                levels.append(level)
                step.detail = f"{level.total_rate:.1f} tokens/s"
        mode = self._fleet.mode_of(node)
        return BenchReport(node.name, mode.name, mode.model, tuple(levels), tuple(earlier))

    def require_answering(self, node: NodeSpec) -> None:
        """Make sure that there is something to measure. Raises NotReadyError."""
        Entering(self._fleet, self._world).require_running(node)
        trouble = self._probe(node).health()
        if trouble:
            raise NotReadyError(
                f"cannot measure: {engine_of(self._fleet, self._world, node).name} does not answer: {trouble}",
                subject=node.subject,
                next_step=f"provisioner wake {node.name}, or provisioner logs {node.name}",
                retryable=True,
            )

    def reply(
        self,
        node: NodeSpec,
        *,
        max_tokens: int,
        number: int = 0,
        silence: float = _SILENCE_SECONDS,
        until: float | None = None,
        least: int = 1,
    ) -> Reply:
        """Ask for one reply and note when its tokens came.

        Args:
            node: whom.
            max_tokens: how many at most.
            number: makes the prompt another one, so that no cache answers.
            silence: the longest to bear, in seconds.
            until: a clock reading at which a reply is cut off,
            least: once so many pieces of it have come.

        Raises:
            EngineError: it refused, or broke off.
        """
        clock = self._world.clock
        request = streamed_chat(self._fleet.mode_of(node).model, _PROMPT.format(number=number), max_tokens)
        url = address_of(self._fleet, self._world, node) + request.path
        streams = engine_streams(self._fleet, self._world, node)
        asked, times, counted, ended = clock.monotonic(), [], None, False
        try:
            with streams.open(url, request.body, seconds=silence) as lines:
                for line in lines:
                    piece = read_piece(line)
                    if piece is None:
                        continue
                    if piece.has_text:
                        times.append(clock.monotonic())
                    counted = piece.tokens if piece.tokens is not None else counted
                    ended = ended or piece.is_end
                    if until is not None and len(times) >= least and times[-1] >= until:
                        break
        except (NoAnswer, AnswerUnreadable) as reason:
            raise EngineError(
                f"cannot stream a reply: {reason}",
                subject=node.subject,
                next_step=f"provisioner logs {node.name} -n 50",
            ) from reason
        # A count that comes with the end is of the whole reply; one that was cut off has as many as came.
        tokens = float(counted) if counted is not None and ended else float(len(times))
        return Reply(asked, tuple(times), tokens, ended)

    def _level(self, node: NodeSpec, streams: int, seconds: float) -> list[Reply]:
        clock = self._world.clock
        until = clock.monotonic() + seconds
        numbers, lock = count(1), threading.Lock()
        tokens = self._tokens(node)

        def stream() -> list[Reply]:
            replies: list[Reply] = []
            while not replies or clock.monotonic() < until:
                with lock:
                    number = next(numbers)
                # Every stream gets some tokens of its first: the slowest of nodes has something to count, too.
                least = 1 if replies else _LEAST_TOKENS
                replies.append(self.reply(node, max_tokens=tokens, number=number, until=until, least=least))
            return replies

        with ThreadPoolExecutor(streams) as pool:
            try:
                replies = [reply for each in [pool.submit(stream) for _ in range(streams)] for reply in each.result()]
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if not any(reply.times for reply in replies):
            raise EngineError(
                f"cannot measure: {len(replies)} replies came without a single token",
                subject=node.subject,
                next_step=f"provisioner logs {node.name} -n 50",
            )
        return replies

    def _tokens(self, node: NodeSpec) -> int:
        """Return how long replies are: half of the context is left for the prompt."""
        return max(1, min(_MOST_TOKENS, (self._fleet.mode_of(node).context or _DEFAULT_CONTEXT) // 2))

    def _probe(self, node: NodeSpec) -> EngineProbe:
        engine = engine_of(self._fleet, self._world, node)
        return EngineProbe(self._fleet, node, engine, engine_web(self._fleet, self._world, node), self._world.clock)
