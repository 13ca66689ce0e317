"""Does the engine of a node really answer? Healthy, model listed, one chat.

The same proof ends `up` and `wake`. It looks at the engine itself from the
first moment on: no order of task, agent, SSH and engine is assumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.engines.base import AnswerUnreadable, InferenceEngine, LoadedModel
from provisioner.errors import EngineError
from provisioner.planning.launches import unit_of
from provisioner.ports.clock import Clock
from provisioner.ports.web import NoAnswer, Web
from provisioner.services.model_pulling import ModelPulling, Room
from provisioner.waiting import NotYet, Pace, WaitedInVain, wait_until

# A booting guest does not answer at all; a connection opened too early can hang until the network
# retransmits, seconds later. So each look is short and the next one knocks anew.
_PROBE_SECONDS = 1.0
# What we may add after the engine is ready is at most one pause.
_PACE = Pace(first=0.05, growth=1.0, longest=0.05)
_CHAT_SECONDS = 60.0
# What is left to load a model when nearly all patience went into the one before it.
_LEAST_LOAD_SECONDS = 60.0
_MEMORY_PACE = Pace(first=0.2, longest=2.0)
_PROMPT = "Say hello."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model answers now.

    `url` is the base URL a client of the `api` dialect needs; `model` is the
    name to ask for. With `needs_key` it must send the node's API key, as
    ``Authorization: Bearer KEY``; the key itself is nowhere here.
    """

    node: str
    url: str
    api: str
    model: str
    needs_key: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json``."""
        return {
            "node": self.node,
            "url": self.url,
            "api": self.api,
            "model": self.model,
            "needs_key": self.needs_key,
        }

    def __str__(self) -> str:
        return f"{self.model} at {self.url}{' (with its API key)' if self.needs_key else ''}"


@dataclass(frozen=True, slots=True)
class Proof:
    """An endpoint that answered, and what it said.

    `healthy_at` and `proved_at` are clock readings: what lies between them is
    what we add once the engine itself is ready.
    """

    endpoint: Endpoint
    reply: str
    healthy_at: float
    proved_at: float


class EngineProbe:
    """Looks at one node's engine over HTTP."""

    def __init__(self, fleet: FleetSpec, node: NodeSpec, engine: InferenceEngine, web: Web, clock: Clock) -> None:
        self._mode = fleet.mode_of(node)
        unit = unit_of(fleet, node, {engine.name: engine}, self._mode)
        self._log = f"provisioner ssh {node.name} -- sudo journalctl -u {unit.service} -n 50"
        self._node = node
        # Where several nodes serve together, one of them answers for all.
        self._answering = fleet.answering(node)
        self._together = len(fleet.span_of(node))
        self._engine = engine
        self._web = web
        self._clock = clock
        self._address = f"http://{self._answering.reach.address}:{engine.port}"

    @property
    def endpoint(self) -> Endpoint:
        """Where clients connect once the engine answers."""
        return Endpoint(
            self._answering.name,
            self._address + self._engine.api_path,
            self._engine.api,
            self._mode.model,
            needs_key=self._node.api_key is not None and bool(self._engine.key_variable),
        )

    def health(self) -> str:
        """Return "" when the engine says it is ready, else what it says instead."""
        try:
            answer = self._web.get(self._address + self._engine.health_path, seconds=_PROBE_SECONDS)
        except NoAnswer as reason:
            return str(reason)
        return "" if answer.status == 200 else f"HTTP {answer.status} {_gist(answer.text)}"

    def activity_text(self) -> str:
        """Return the engine's own numbers. Raises NoAnswer."""
        return self._text(self._engine.activity_path)

    def resting_text(self) -> str:
        """Return what the engine says of its sleep. Raises NoAnswer."""
        return self._text(self._engine.resting_path)

    def rests(self) -> bool:
        """Say whether it sleeps with its model out of the GPU and asking for the model does not wake it."""
        wakes_itself = self._engine.load(self._mode.model) is not None
        if wakes_itself or not self._engine.resting_path or not self._engine.wake(self._mode.models):
            return False
        try:
            return self._engine.is_resting(self.resting_text())
        except (NoAnswer, AnswerUnreadable):
            # One that was not started to sleep does not know the question.
            return False

    def _text(self, path: str) -> str:
        answer = self._web.get(self._address + path, seconds=_PROBE_SECONDS)
        if answer.status != 200:
            raise NoAnswer(f"HTTP {answer.status} from {path}")
        return answer.text

    def store(self, room: Room | None = None) -> ModelPulling:
        """Return the engine's own store of models; `room` makes room for those that come."""
        return ModelPulling(
            self._engine, self._node, self._address, self._web, self._clock, room or (lambda model, needed: None)
        )

    def await_health(self, *, seconds: float, still_worth_it: Callable[[], None] | None = None) -> None:
        """Wait until the engine takes requests. Raises EngineError."""

        def look() -> float | NotYet:
            state = self.health()
            if state and still_worth_it is not None:
                still_worth_it()
            return NotYet(state) if state else self._clock.monotonic()

        self._await_health(look, seconds)

    def _await_health(self, look: Callable[[], float | NotYet], seconds: float) -> float:
        try:
            return wait_until(look, clock=self._clock, seconds=seconds, pace=_PACE)
        except WaitedInVain as waited:
            raise self.silence(seconds, waited.last_seen) from waited

    def prove(
        self,
        *,
        seconds: float,
        still_worth_it: Callable[[], None] | None = None,
        say: Callable[[str], None] | None = None,
        room: Room | None = None,
    ) -> Proof:
        """Wait until the model has answered; one that its engine can fetch and does not have is fetched now.

        Args:
            seconds: how long to wait for the engine, and as long again for it to load; fetching takes its own time.
            still_worth_it: called between looks; raises when waiting has become pointless.
            say: told about the progress of what takes long.
            room: makes room for a model that is fetched now.

        Raises:
            EngineError: it did not come up, does not list the model, or answered nonsense.
        """
        loads = False

        def look() -> float | NotYet:
            nonlocal loads
            state = self.health()
            if not state:
                return self._clock.monotonic()
            # Whoever answers at all, if only to say "not yet", is up and loads its model.
            if state.startswith("HTTP ") and not loads:
                loads = True
                (say or _say_nothing)(f"{self._engine.name} is up and loads its model ({state})")
            if still_worth_it is not None:
                still_worth_it()
            return NotYet(state)

        healthy_at = self._await_health(look, seconds)
        if self._engine.stored_path:
            # On demand, or because somebody deleted it: what is asked for first is worth waiting for.
            wanted = dict.fromkeys((self._mode.model, *self._mode.pinned))
            self.store(room).ensure(tuple(wanted), say or _say_nothing)
        # What had to be fetched took as long as its line is slow; loading has its own time, all of it.
        deadline = self._clock.monotonic() + seconds
        self._rouse(deadline)
        self._require_model()
        self._load(deadline)
        reply = self._chat()
        return Proof(self.endpoint, reply, healthy_at, self._clock.monotonic())

    def silence(self, seconds: float, last_seen: str) -> EngineError:
        """Return the error of an engine that did not answer for so long."""
        return EngineError(
            f"cannot get an answer from {self._engine.name} within {seconds:g} s; last: {last_seen}",
            subject=self._node.subject,
            next_step=self._log,
            retryable=True,
        )

    def _rouse(self, deadline: float) -> None:
        """Wake an engine that sleeps with its model out of the GPU, where asking for the model does not do that."""
        if not self.rests():
            return
        for request in self._engine.wake(self._mode.models):
            left = max(deadline - self._clock.monotonic(), _LEAST_LOAD_SECONDS)
            try:
                answer = self._web.send(request.method, self._address + request.path, request.body, seconds=left)
            except NoAnswer as error:
                raise self._failure(f"cannot wake the engine within {left:.0f} s: {error}") from error
            if answer.status != 200:
                raise self._failure(f"cannot wake the engine: HTTP {answer.status} {_gist(answer.text)}")

    def _require_model(self) -> None:
        text = self._ask(self._engine.models_path)
        try:
            models = self._engine.served_models(text)
        except AnswerUnreadable as error:
            raise self._failure(f"cannot read its list of models: {error}") from error
        if self._mode.model not in models:
            raise self._failure(
                f'cannot find model "{self._mode.model}" on it; it serves: {", ".join(models) or "none"}'
            )

    def _load(self, deadline: float) -> None:
        """Have the model in memory, and the pinned ones beside it, where the engine loads them when asked."""
        for model in dict.fromkeys((self._mode.model, *self._mode.pinned)):
            request = self._engine.load(model, pinned=model in self._mode.pinned, nodes=max(self._together, 1))
            if request is None:
                continue
            left = max(deadline - self._clock.monotonic(), _LEAST_LOAD_SECONDS)
            if self._is_loaded_by_others(model):
                self._await_in_memory(model, left)
                continue
            try:
                answer = self._web.send(request.method, self._address + request.path, request.body, seconds=left)
            except NoAnswer as error:
                raise self._failure(f'cannot load model "{model}" within {left:.0f} s: {error}') from error
            if answer.status != 200:
                raise self._failure(f'cannot load model "{model}": HTTP {answer.status} {_gist(answer.text)}')
            self._await_in_memory(model, left)

    def _is_loaded_by_others(self, model: str) -> bool:
        """Say whether to ask for a model that cannot be asked for twice would be one time too many."""
        if self._engine.loads_again:
            return False
        if self._answering.name != self._node.name:
            # The head asks, once for all.
            return True
        return any(_bare(each.name) == _bare(model) for each in self._in_memory())

    def _in_memory(self) -> tuple[LoadedModel, ...]:
        try:
            return self._engine.loaded_models(self._ask(self._engine.loaded_path))
        except AnswerUnreadable as error:
            raise self._failure(f"cannot read what it has in memory: {error}") from error

    def _await_in_memory(self, model: str, seconds: float) -> None:
        """See the model in memory, and on the GPU where the node has one: a broken driver is made up for in silence."""
        if not self._engine.loaded_path:
            return

        def look() -> LoadedModel | NotYet:
            loaded = self._in_memory()
            found = next((each for each in loaded if _bare(each.name) == _bare(model)), None)
            return found or NotYet(f"in memory is {', '.join(each.name for each in loaded) or 'nothing'}")

        try:
            found = wait_until(look, clock=self._clock, seconds=seconds, pace=_MEMORY_PACE)
        except WaitedInVain as waited:
            raise self._failure(f'cannot find model "{model}" in its memory: {waited.last_seen}') from waited
        if self._node.gpus and found.bytes and not found.gpu_bytes:
            raise EngineError(
                f'cannot use the GPU: {self._engine.name} has loaded model "{model}" into main memory and serves it on '
                "the CPU, without a word",
                subject=self._node.subject,
                next_step=f"provisioner test {self._node.name} says what is wrong with the driver",
            )

    def _chat(self) -> str:
        request = self._engine.chat(self._mode.model, _PROMPT, max_tokens=1)
        try:
            answer = self._web.post_json(self._address + request.path, request.body, seconds=_CHAT_SECONDS)
            if answer.status != 200:
                raise self._failure(f"cannot chat with it: HTTP {answer.status} {_gist(answer.text)}")
            return self._engine.chat_reply(answer.text)
        except (NoAnswer, AnswerUnreadable) as error:
            raise self._failure(f"cannot chat with it: {error}") from error

    def _ask(self, path: str) -> str:
        try:
            answer = self._web.get(self._address + path, seconds=_CHAT_SECONDS)
        except NoAnswer as error:
            raise self._failure(f"cannot read {path}: {error}") from error
        if answer.status != 200:
            raise self._failure(f"cannot read {path}: HTTP {answer.status} {_gist(answer.text)}")
        return answer.text

    def _failure(self, summary: str) -> EngineError:
        return EngineError(
            f"{summary} ({self._engine.name} at {self._address})",
            subject=self._node.subject,
            next_step=self._log,
        )


def _say_nothing(words: str) -> None:
    """Nobody watches."""


def _bare(model: str) -> str:
    return model.removesuffix(":latest")


def _gist(text: str) -> str:
    """Return the message inside an error body, or its first line."""
    try:
        error = json.loads(text)["error"]
        said = str(error if isinstance(error, str) else error["message"])[:200]
        # JSON may name halves of signs, which no file and no database takes.
        return said.encode(errors="replace").decode()
    except (ValueError, KeyError, TypeError):
        return text.strip().splitlines()[0][:200] if text.strip() else ""
