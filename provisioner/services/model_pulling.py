"""Has an engine fetch models into its own store: with progress by bytes, gone on with where it was cut off.

What counts as stuck is measured by bytes, not by time: a slow line is not a
broken one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from provisioner.domain.fleet import NodeSpec
from provisioner.domain.quantities import GIB
from provisioner.engines.base import AnswerUnreadable, InferenceEngine, PullFailed, PullProgress, StoredModel
from provisioner.errors import EngineError
from provisioner.planning.playbook_diagnosis import FailedTask, failed_task
from provisioner.ports.clock import Clock
from provisioner.ports.web import NoAnswer, Web

_ASK_SECONDS = 10.0
# Between two lines; an engine that fetches tells several times a second, and checks a sum of many GiB without a word.
_SILENCE_SECONDS = 300.0
_STUCK_SECONDS = 300.0
# Each that gets further may be followed by another; these are those that get nowhere.
_MOST_VAIN_TRIES = 3
_PAUSE_SECONDS = 2.0
# Of the causes those that may be gone when it is asked again.
_PASSING = frozenset({"no_network", "download_stalled"})


Room = Callable[[str, int], int | None]


class _Stuck(Exception):
    """No byte has come for too long."""


@dataclass(slots=True)
class _Parts:
    """How far each file of a model is, over all tries."""

    completed: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return sum(self.completed.values())

    def take(self, progress: PullProgress) -> bool:
        """Take note; return whether bytes have come."""
        if progress.total_bytes is None or progress.completed_bytes is None:
            return False
        self.totals[progress.part] = progress.total_bytes
        before = self.completed.get(progress.part, 0)
        self.completed[progress.part] = max(before, progress.completed_bytes)
        return progress.completed_bytes > before

    def __str__(self) -> str:
        total = sum(self.totals.values())
        return f"{self.done / GIB:.2f} of {total / GIB:.2f} GiB" if total else ""


class ModelPulling:
    """The store of one node's engine, which must be running.

    Args:
        engine: its description.
        node: where.
        address: ``http://ADDRESS:PORT``.
        web, clock: the world.
        room: asked with a model and the bytes that are to come, it makes room for them where it may, and says how
            many bytes fit; None where nobody can tell. Raises PullFailed when they do not.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        node: NodeSpec,
        address: str,
        web: Web,
        clock: Clock,
        room: Room = lambda model, needed: None,
    ) -> None:
        self._engine = engine
        self._node = node
        self._address = address
        self._web = web
        self._clock = clock
        self._room = room

    def stored(self) -> tuple[StoredModel, ...]:
        """Return what the store holds. Raises EngineError."""
        path = self._engine.stored_path
        try:
            answer = self._web.get(self._address + path, seconds=_ASK_SECONDS)
            if answer.status != 200:
                raise self._failure(f"cannot read {path}: HTTP {answer.status}")
            return self._engine.stored_models(answer.text)
        except (NoAnswer, AnswerUnreadable) as error:
            raise self._failure(f"cannot read {path}: {error}") from error

    def ensure(self, models: tuple[str, ...], say: Callable[[str], None]) -> tuple[str, ...]:
        """Fetch the models that are not there; return their names.

        Raises:
            EngineError: one does not exist, does not fit the disk, or does not come.
        """
        there = {each.name for each in self.stored()}
        missing = [model for model in models if not {model, f"{model}:latest"} & there]
        for model in missing:
            self._pull(model, say)
        return tuple(missing)

    def _pull(self, model: str, say: Callable[[str], None]) -> None:
        parts = _Parts()
        vain = 0
        while True:
            before = parts.done
            try:
                self._one_try(model, parts, say)
                return
            except PullFailed as failed:
                raise self._failed(model, str(failed)) from failed
            except (NoAnswer, AnswerUnreadable, _Stuck) as reason:
                vain = 0 if parts.done > before else vain + 1
                if vain >= _MOST_VAIN_TRIES:
                    got = f" after {parts}" if str(parts) else ""
                    raise self._failure(f'cannot fetch model "{model}"{got}: {reason}') from reason
                say(f"{model}: {reason}; going on where it was")
                self._clock.sleep(_PAUSE_SECONDS)

    def _one_try(self, model: str, parts: _Parts, say: Callable[[str], None]) -> None:
        request = self._engine.pull(model)
        if request is None:
            raise PullFailed(f"{self._engine.name} fetches no models by itself")
        said = ""
        last_byte = self._clock.monotonic()
        url = self._address + request.path
        for line in self._web.lines(request.method, url, request.body, silence_seconds=_SILENCE_SECONDS):
            progress = self._engine.pull_progress(line)
            if progress.is_done:
                return
            is_new = progress.part not in parts.totals
            if parts.take(progress):
                last_byte = self._clock.monotonic()
            elif progress.total_bytes is not None and self._clock.monotonic() - last_byte > _STUCK_SECONDS:
                raise _Stuck(f"no byte has come for {_STUCK_SECONDS:g} s")
            if is_new and progress.total_bytes is not None:
                self._require_room(model, progress)
            shown = str(parts) or progress.status
            if shown != said:
                said = shown
                say(f"{model}: {shown}")
        raise NoAnswer("the answer ended before the model was there")

    def _require_room(self, model: str, progress: PullProgress) -> None:
        needed = (progress.total_bytes or 0) - (progress.completed_bytes or 0)
        free = self._room(model, needed)
        if free is not None and needed > free:
            raise PullFailed(f"no space left on device: {needed / GIB:.2f} GiB to come, {free / GIB:.2f} GiB free")

    def _failed(self, model: str, words: str) -> EngineError:
        """Return the error of a pull that its engine gave up, with the cause that its words show."""
        found = _cause(words) or failed_task(words, self._node.name)
        error = self._failure(f'cannot fetch model "{model}": {words}', found.next_step if found else "")
        error.diagnosis = found.cause if found else None
        error.retryable = found is None or found.cause in _PASSING
        return error

    def _failure(self, summary: str, next_step: str = "") -> EngineError:
        return EngineError(
            f"{summary} ({self._engine.name} at {self._address})",
            subject=self._node.subject,
            next_step=next_step
            or f"provisioner up {self._node.name} goes on where it was cut off; provisioner logs {self._node.name}",
            retryable=True,
        )


def _cause(words: str) -> FailedTask | None:
    """Return why asking again does not help, where more can be said of it than of a playbook's download."""
    if "model_budget" in words:
        step = "raise model_budget, or write pull: demand for a mode whose models are rarely used"
        return FailedTask("model_budget_spent", step)
    if "no space left" in words:
        return FailedTask("disk_full", "grow the node's disk in the fleet file, or take models out of its modes")
    if "does not exist" in words or "not found" in words:
        return FailedTask("model_missing", "write a model's name as its library has it, such as llama3.1:8b")
    return None
