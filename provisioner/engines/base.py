"""What the rest of the program asks of an inference engine. Every answer is a value; nobody here opens a connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from provisioner.domain.activity import EngineActivity
from provisioner.domain.fleet import GpuSpec, NodeSpec, SecretReference
from provisioner.domain.mode import Artifact, EngineSpec, EngineTraits, ModeSpec
from provisioner.domain.names import EngineName
from provisioner.domain.refusal import Refusal


class AnswerUnreadable(Exception):
    """An engine answered something that its description does not understand."""


@dataclass(frozen=True, slots=True)
class Span:
    """The nodes that serve one mode together, in order; `rank` is the place of the one that is meant.

    The first is the head: clients speak to it. `port` is where the others find it.
    """

    addresses: tuple[str, ...] = ()
    rank: int = 0
    port: int = 29500
    with_ray: bool = False

    @property
    def is_shared(self) -> bool:
        """More than one node is needed."""
        return len(self.addresses) > 1


@dataclass(frozen=True, slots=True)
class Setting:
    """One mode on one node, as its engine must know it.

    `files` are the model files by the names that the fleet file gives them.
    `compute` is the lowest CUDA compute capability among the node's GPUs, None
    where it is not known.
    """

    node: NodeSpec
    mode: ModeSpec
    software: EngineSpec
    gpus: tuple[GpuSpec, ...] = ()
    files: Mapping[str, Artifact] = field(default_factory=lambda: MappingProxyType({}))
    compute: tuple[int, int] | None = None
    huggingface_token: SecretReference | None = None
    span: Span = Span()


FOLDER, MODELS, DATA = "{folder}", "{models}", "{data}"
"""What whoever lays an engine down fills in: its software's folder, that of model files, and the cache of models."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One way to run an engine: two modes with equal launches share one unit, and switching restarts nothing.

    Arguments and values of variables may hold `FOLDER`, `MODELS` and `DATA`.
    Secrets are named by the variable that takes them, several of one with
    semicolons between them; they never stand among the arguments.
    `memory_max_bytes` and `cpu_quota_percent` are limits, None for none.
    `shared_memory` means that it shares memory between processes. `beside` runs
    as long as it does, started before it, under its name with `role` behind.
    `always` means that it is started again even when it ended well: others rely
    on it.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretReference | tuple[SecretReference | str, ...]] = field(default_factory=dict)
    needs_gpu: bool = False
    memory_max_bytes: int | None = None
    cpu_quota_percent: int | None = None
    shared_memory: bool = False
    beside: tuple[Launch, ...] = ()
    role: str = ""
    always: bool = False


@dataclass(frozen=True, slots=True)
class Installation:
    """What is laid down: archives over each other, Python packages (with a file of hashes), or an image."""

    archives: tuple[Artifact, ...] = ()
    packages: tuple[str, ...] = ()
    requirements: str = ""
    image: str = ""


@dataclass(frozen=True, slots=True)
class JsonRequest:
    """A request with a JSON body; None is no body. Its answer may take as long as a model takes to load."""

    path: str
    body: Mapping[str, object] | None = None
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory; `gpu_bytes` of its `bytes` are on a GPU."""

    name: str
    bytes: int
    gpu_bytes: int


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on the engine's disk. `bytes` may be shared with others."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a model's download is; of what is not yet known, nothing is said.

    `part` names the file that `completed_bytes` of `total_bytes` belong to.
    """

    status: str
    part: str = ""
    completed_bytes: int | None = None
    total_bytes: int | None = None
    is_done: bool = False


class PullFailed(Exception):
    """The engine says that a download has failed; the text is its own. Asking again goes on where it ended."""


class InferenceEngine(Protocol):
    """A description of one engine. What an engine cannot do, it answers with nothing: no path, no request."""

    name: EngineName
    traits: EngineTraits
    port: int
    playbook: str
    """Which playbook lays it down."""
    health_path: str
    """Answers 200 once it takes requests; anything else, or nothing, means not yet."""
    models_path: str
    loaded_path: str
    """Which models are in memory, and where; empty where the process holds its one model or does not run."""
    stored_path: str
    """Which models are on its disk; empty where it has no store of its own."""
    activity_path: str
    """Its own numbers; reading them neither wakes nor occupies it."""
    resting_path: str
    """Whether it sleeps with its model out of the GPU; empty where it never does."""
    api: str
    """The dialect clients speak to it: ``openai`` or ``ollama``."""
    api_path: str
    """What a client appends to the address to get its base URL."""
    loads_again: bool
    """Asking it to load a model that is in memory does no harm; where it does, look first."""
    key_variable: str
    """The variable of its environment that makes it ask clients for an API key; empty where it asks nobody."""

    def installation(self, software: EngineSpec) -> Installation:
        """Return what is to be laid down."""
        ...

    def refusal(self, setting: Setting) -> Refusal | None:
        """Return why this mode cannot run on this node in this version, or None as far as can be told."""
        ...

    def cautions(self, setting: Setting) -> tuple[str, ...]:
        """Return what a reader of the plan should know of this mode on this node: reported, doubtful, or lost."""
        ...

    def launch(self, setting: Setting) -> Launch:
        """Return how it is started for a mode."""
        ...

    def pulls(self, mode: ModeSpec) -> tuple[str, ...]:
        """Return what is fetched by name for a mode, as its playbook takes it: all that it will ask for when it starts.

        The mode's arguments go by the names that we use ourselves.
        """
        ...

    def fetched(self, setting: Setting) -> tuple[str, ...]:
        """Return the files that are in a guest once a mode's models are, with `MODELS` and `DATA` in them.

        None for an engine with a store of its own, and for one that fetches whenever it is asked for a model.
        """
        ...

    def guards(self, path: str) -> bool:
        """Say whether it wants the API key with a request for a path, once it has been given one."""
        ...

    def served_models(self, answer: str) -> tuple[str, ...]:
        """Read the answer of `models_path`. Raises AnswerUnreadable."""
        ...

    def loaded_models(self, answer: str) -> tuple[LoadedModel, ...]:
        """Read the answer of `loaded_path`. Raises AnswerUnreadable."""
        ...

    def stored_models(self, answer: str) -> tuple[StoredModel, ...]:
        """Read the answer of `stored_path`. Raises AnswerUnreadable."""
        ...

    def load(self, model: str, *, pinned: bool = False, nodes: int = 1) -> JsonRequest | None:
        """Return the request that is answered once a model is in memory; pinned ones stay there.

        `nodes` is how many serve it together.
        """
        ...

    def unload(self, model: str) -> JsonRequest | None:
        """Return the request that takes a model out of memory."""
        ...

    def pull(self, model: str) -> JsonRequest | None:
        """Return the request that fetches a model; its answer is a line for every bit of progress."""
        ...

    def pull_progress(self, line: str) -> PullProgress:
        """Read one such line. Raises PullFailed, AnswerUnreadable."""
        ...

    def delete(self, model: str) -> JsonRequest | None:
        """Return the request that takes a model off its disk."""
        ...

    def sleep(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        """Return what makes it let go of the GPU's memory while it goes on running; requests under way are finished."""
        ...

    def wake(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        """Return what makes it ready again."""
        ...

    def is_resting(self, answer: str) -> bool:
        """Read the answer of `resting_path`. Raises AnswerUnreadable."""
        ...

    def chat(self, model: str, prompt: str, *, max_tokens: int) -> JsonRequest:
        """Return a chat request."""
        ...

    def chat_reply(self, answer: str) -> str:
        """Read the reply's text. Raises AnswerUnreadable."""
        ...

    def activity(self, answer: str, now: float) -> EngineActivity:
        """Read the answer of `activity_path`, got at `now` (UNIX seconds). Raises AnswerUnreadable."""
        ...
