"""What the rest of the program asks of an inference engine. Every answer is a value; nobody here opens a connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from provisioner.domain.activity import EngineActivity
from provisioner.domain.fleet import Artifact, ModeSpec, NodeSpec
from provisioner.domain.names import EngineName


class AnswerUnreadable(Exception):
    """An engine answered something that its description does not understand."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One mode on one node, with the files it is made of."""

    node: NodeSpec
    mode: ModeSpec
    archive: Artifact
    model: Artifact


@dataclass(frozen=True, slots=True)
class JsonRequest:
    """A POST with a JSON body."""

    path: str
    body: Mapping[str, object]


class InferenceEngine(Protocol):
    """A description of one engine."""

    name: EngineName
    port: int
    playbook: str
    """Which playbook lays it down."""
    unit: str
    """Its systemd unit, for logs."""
    health_path: str
    """Answers 200 once requests can be served; anything else, or nothing, means not yet."""
    models_path: str
    activity_path: str
    """Its own numbers; reading them neither wakes nor occupies it."""
    api: str
    """The dialect clients speak to it: ``openai`` or ``ollama``."""
    api_path: str
    """What a client appends to the address to get its base URL."""

    def variables(self, deployment: Deployment) -> Mapping[str, object]:
        """Return the playbook's variables."""
        ...

    def served_models(self, answer: str) -> tuple[str, ...]:
        """Read the answer of `models_path`. Raises AnswerUnreadable."""
        ...

    def chat(self, model: str, prompt: str, *, max_tokens: int) -> JsonRequest:
        """Return a chat request."""
        ...

    def chat_reply(self, answer: str) -> str:
        """Read the reply's text. Raises AnswerUnreadable."""
        ...

    def activity(self, answer: str) -> EngineActivity:
        """Read the answer of `activity_path`. Raises AnswerUnreadable."""
        ...
