"""Which models an engine that serves many holds in memory: the wanted ones are loaded, others let go."""

from __future__ import annotations

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.engines.base import AnswerUnreadable, JsonRequest, LoadedModel
from provisioner.errors import EngineError
from provisioner.ports.web import Answer, NoAnswer
from provisioner.services.engine_web import engine_web
from provisioner.services.world import World

_ASK_SECONDS = 10.0
_UNLOAD_SECONDS = 60.0


class ModelMemory:
    """The models in one node's engine, in the mode that the node is in."""

    def __init__(self, fleet: FleetSpec, node: NodeSpec, world: World) -> None:
        self._mode = fleet.mode_of(node)
        self._node = node
        self._engine = world.engines[self._mode.engine]
        self._web = engine_web(fleet, world, node)
        self._address = f"http://{fleet.answering(node).reach.address}:{self._engine.port}"

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Return what is in memory; nothing for an engine that does not tell. Raises EngineError."""
        if not self._engine.loaded_path:
            return ()
        try:
            answer = self._web.get(self._address + self._engine.loaded_path, seconds=_ASK_SECONDS)
            if answer.status != 200:
                raise self._failure(f"cannot read {self._engine.loaded_path}: HTTP {answer.status}")
            return self._engine.loaded_models(answer.text)
        except (NoAnswer, AnswerUnreadable) as error:
            raise self._failure(f"cannot read {self._engine.loaded_path}: {error}") from error

    def leave_only_wanted(self) -> tuple[str, ...]:
        """Take every model out of memory that is none of the mode's; return their names. Raises EngineError."""
        gone = []
        for model in self.loaded():
            request = None if self._is_wanted(model.name) else self._engine.unload(model.name)
            if request is not None:
                self.ask(request, f'take model "{model.name}" out of memory', seconds=_UNLOAD_SECONDS)
                gone.append(model.name)
        return tuple(gone)

    def ask(self, request: JsonRequest, purpose: str, *, seconds: float) -> Answer:
        """Send a request; return its answer. Raises EngineError unless it went well."""
        try:
            answer = self._web.send(request.method, self._address + request.path, request.body, seconds=seconds)
        except NoAnswer as error:
            raise self._failure(f"cannot {purpose}: {error}") from error
        if answer.status // 100 != 2:
            raise self._failure(f"cannot {purpose}: HTTP {answer.status} {answer.text.strip()[:200]}")
        return answer

    def _is_wanted(self, name: str) -> bool:
        return name in self._mode.models or name.removesuffix(":latest") in self._mode.models

    def _failure(self, summary: str) -> EngineError:
        return EngineError(
            f"{summary} ({self._engine.name} at {self._address})",
            subject=self._node.subject,
            next_step=f"provisioner logs {self._node.name}",
            retryable=True,
        )
