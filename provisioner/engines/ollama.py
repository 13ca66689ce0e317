"""Ollama: many models behind one server, each loaded when first asked for and unloaded when unused for a while.

It answers before any model is loaded, and without a working driver it serves
on the CPU and says nothing; so a model is ready when a request to load it has
been answered and its memory is seen on the GPU. It counts no requests: a
model's ``expires_at`` is all there is. That moves when its last request ends
and stands still while one runs, so a model that is loaded may be in use until
that time has passed without its being unloaded, and from then on surely is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from provisioner.domain.activity import EngineActivity
from provisioner.domain.mode import EngineSpec, EngineTraits, Software
from provisioner.domain.names import EngineName
from provisioner.domain.refusal import Refusal
from provisioner.engines.arguments import variables_of
from provisioner.engines.base import (
    DATA,
    FOLDER,
    AnswerUnreadable,
    Installation,
    JsonRequest,
    Launch,
    LoadedModel,
    PullFailed,
    PullProgress,
    Setting,
    StoredModel,
)
from provisioner.engines.json_answers import document_of
from provisioner.engines.limits import cpu_quota_percent, memory_max_bytes
from provisioner.engines.openai_dialect import OpenAiEngine
from provisioner.engines.secrets import unlocked

# Left to itself it takes 262144 tokens on 47 GiB of GPU memory, and the cache of those eats the card.
_DEFAULT_CONTEXT = 4096


class Ollama(OpenAiEngine):
    """``ollama serve``, run as a systemd unit from its release archive."""

    name = EngineName("ollama")
    traits = EngineTraits(
        software=Software.ARCHIVES,
        serves_files=False,
        serves_many=True,
        knows=frozenset({"context", "parallel", "pinned", "pull"}),
        port=11434,
        published="each release has a sha256sum.txt: https://github.com/ollama/ollama/releases",
    )
    port = traits.port
    playbook = "deploy-ollama"
    health_path = "/api/version"
    models_path = "/api/tags"
    loaded_path = "/api/ps"
    stored_path = "/api/tags"
    activity_path = "/api/ps"
    resting_path = "/api/ps"

    def installation(self, software: EngineSpec) -> Installation:
        """Return its archives: the main one, and with an AMD card ROCm's beside it."""
        return Installation(archives=software.archives)

    def refusal(self, setting: Setting) -> Refusal | None:
        """Refuse nothing: it serves on whatever there is."""
        return None

    def cautions(self, setting: Setting) -> tuple[str, ...]:
        """Say what it does not tell, and whom it does not keep out."""
        told = []
        if setting.mode.pinned:
            unseen = "while a pinned model is loaded, whether it is in use cannot be seen"
            told.append(f"{unseen}, so idle leaves the node on")
        if setting.node.api_key is not None:
            told.append(unlocked("Ollama", self.port))
        return tuple(told)

    def launch(self, setting: Setting) -> Launch:
        """Return its environment; which models are loaded is no part of it."""
        mode = setting.mode
        own = {
            "OLLAMA_HOST": f"0.0.0.0:{self.port}",
            "OLLAMA_MODELS": f"{DATA}/ollama",
            "OLLAMA_CONTEXT_LENGTH": str(mode.context or _DEFAULT_CONTEXT),
            "OLLAMA_NUM_PARALLEL": str(mode.parallel or 1),
            # Nothing that the fleet did not ask for leaves the node.
            "OLLAMA_NO_CLOUD": "1",
            # What is no longer wanted is deleted by name, not because a download was cut short.
            "OLLAMA_NOPRUNE": "1",
        }
        return Launch(
            argv=(f"{FOLDER}/bin/ollama", "serve"),
            environment=own | variables_of(mode.arguments),
            needs_gpu=bool(setting.gpus),
            memory_max_bytes=memory_max_bytes(mode),
            cpu_quota_percent=cpu_quota_percent(mode),
        )

    def served_models(self, answer: str) -> tuple[str, ...]:
        """Read ``/api/tags``: what it has on disk. A model without a tag is one with the tag latest."""
        names = [model.name for model in self.stored_models(answer)]
        return (*names, *(name.removesuffix(":latest") for name in names if name.endswith(":latest")))

    def stored_models(self, answer: str) -> tuple[StoredModel, ...]:
        """Read ``/api/tags``."""
        return tuple(StoredModel(_name(each), _bytes(each, "size")) for each in _models(answer))

    def loaded_models(self, answer: str) -> tuple[LoadedModel, ...]:
        """Read ``/api/ps``."""
        return tuple(
            LoadedModel(_name(each), _bytes(each, "size"), _bytes(each, "size_vram")) for each in _models(answer)
        )

    def load(self, model: str, *, pinned: bool = False, nodes: int = 1) -> JsonRequest | None:
        """Return a request without a prompt; it is answered once the model is loaded."""
        keep: Mapping[str, object] = {"keep_alive": -1} if pinned else {}
        return JsonRequest("/api/generate", {"model": model, "stream": False, **keep})

    def unload(self, model: str) -> JsonRequest | None:
        """Return a request that keeps it alive for no time."""
        return JsonRequest("/api/generate", {"model": model, "stream": False, "keep_alive": 0})

    def pull(self, model: str) -> JsonRequest | None:
        """Return a request whose answer is one JSON document a line; one that was cut short goes on where it was."""
        return JsonRequest("/api/pull", {"model": model, "stream": True})

    def pull_progress(self, line: str) -> PullProgress:
        """Read one line. A failure stands inside an answer whose status is 200."""
        document = document_of(line)
        if not isinstance(document, dict):
            raise AnswerUnreadable(f"no progress in: {line[:200]}")
        if "error" in document:
            raise PullFailed(str(document["error"]))
        if "status" not in document:
            raise AnswerUnreadable(f"no progress in: {line[:200]}")
        status = str(document["status"])
        total = document.get("total")
        return PullProgress(
            status=status,
            part=str(document.get("digest", "")),
            # Until the first bytes have come it leaves the word out.
            completed_bytes=int(document.get("completed", 0)) if total is not None else None,
            total_bytes=int(total) if total is not None else None,
            is_done=status == "success",
        )

    def delete(self, model: str) -> JsonRequest | None:
        """Return the request that takes a model off the disk."""
        return JsonRequest("/api/delete", {"model": model}, method="DELETE")

    def sleep(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        """Return one request to unload for each model."""
        return tuple(request for model in models if (request := self.unload(model)) is not None)

    def wake(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        """Return one request to load for each model."""
        return tuple(request for model in models if (request := self.load(model)) is not None)

    def is_resting(self, answer: str) -> bool:
        """Read ``/api/ps``: nothing is loaded."""
        return not self.loaded_models(answer)

    def activity(self, answer: str, now: float) -> EngineActivity:
        """Read ``/api/ps``.

        Past its time and still listed is in use, for certain. Listed with time
        left is not known: then there is a doubt, which counts as use.
        """
        expiries = {_name(each): _expiry(each) for each in _models(answer)}
        running = sum(at <= now for at in expiries.values())
        loaded = [name for name, at in expiries.items() if at > now]
        doubt = f"{', '.join(loaded)} is loaded, and Ollama does not tell whether it is in use" if loaded else ""
        return EngineActivity(running, 0, sum(expiries.values()), doubt)


def _models(answer: str) -> list[dict[str, Any]]:
    document = document_of(answer)
    models = document.get("models") if isinstance(document, dict) else None
    # A Go program writes an empty list as null.
    if isinstance(document, dict) and "models" in document and models is None:
        return []
    if not isinstance(models, list) or not all(isinstance(each, dict) for each in models):
        raise AnswerUnreadable(f"no list of models in: {answer[:200]}")
    return models


def _name(model: Mapping[str, Any]) -> str:
    name = model.get("name") or model.get("model")
    if not isinstance(name, str):
        raise AnswerUnreadable(f"a model without a name: {json.dumps(model)[:200]}")
    return name


def _bytes(model: Mapping[str, Any], key: str) -> int:
    value = model.get(key, 0)
    if not isinstance(value, int):
        raise AnswerUnreadable(f"{key} is no number: {json.dumps(model)[:200]}")
    return value


def _expiry(model: Mapping[str, Any]) -> float:
    text = str(model.get("expires_at", ""))
    try:
        # Nanoseconds are more digits than are read here, and a moment in 2318 is as good as never.
        head, dot, rest = text.partition(".")
        zone = rest.lstrip("0123456789") if dot else ""
        return datetime.fromisoformat(head + zone).timestamp()
    except (ValueError, OverflowError) as error:
        raise AnswerUnreadable(f"expires_at is no time: {text[:60]}") from error
