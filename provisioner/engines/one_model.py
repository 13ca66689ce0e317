"""What is alike in all engines whose process serves the one model that it was started with."""

from __future__ import annotations

from provisioner.engines import openai_dialect
from provisioner.engines.base import (
    AnswerUnreadable,
    JsonRequest,
    LoadedModel,
    PullProgress,
    StoredModel,
)
from provisioner.engines.openai_dialect import OpenAiEngine


class OneModelEngine(OpenAiEngine):
    """Its process is its model: nothing is loaded, pulled or deleted while it runs, and it speaks OpenAI's dialect."""

    models_path = "/v1/models"
    loaded_path = ""
    stored_path = ""
    resting_path = ""

    def served_models(self, answer: str) -> tuple[str, ...]:
        """Read ``/v1/models``."""
        return openai_dialect.served_models(answer)

    def loaded_models(self, answer: str) -> tuple[LoadedModel, ...]:
        """There is no such answer."""
        raise AnswerUnreadable("it does not tell what is in its memory")

    def stored_models(self, answer: str) -> tuple[StoredModel, ...]:
        """There is no such answer."""
        raise AnswerUnreadable("it has no store of models")

    def load(self, model: str, *, pinned: bool = False, nodes: int = 1) -> JsonRequest | None:
        """Return nothing: it is loaded while the process runs."""
        return None

    def unload(self, model: str) -> JsonRequest | None:
        """Return nothing: it goes with the process."""
        return None

    def pull(self, model: str) -> JsonRequest | None:
        """Return nothing: what it serves is fetched before it starts, or by itself as it starts."""
        return None

    def pull_progress(self, line: str) -> PullProgress:
        """There is no such line."""
        raise AnswerUnreadable("it pulls nothing")

    def delete(self, model: str) -> JsonRequest | None:
        """Return nothing."""
        return None

    def sleep(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        """Return nothing: it cannot be told to."""
        return ()

    def wake(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        """Return nothing: it never sleeps by our word."""
        return ()

    def is_resting(self, answer: str) -> bool:
        """There is no such answer."""
        raise AnswerUnreadable("it does not tell whether it sleeps")
