"""The engines there are: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.mode import EngineTraits
from provisioner.domain.names import EngineName
from provisioner.engines.base import InferenceEngine
from provisioner.engines.exo import Exo
from provisioner.engines.llama_cpp import LlamaCpp
from provisioner.engines.ollama import Ollama
from provisioner.engines.tgi import Tgi
from provisioner.engines.vllm import Vllm


def _by_name(*engines: InferenceEngine) -> Mapping[EngineName, InferenceEngine]:
    return {engine.name: engine for engine in engines}


ENGINES = _by_name(
    Ollama(),
    Vllm(),
    Tgi(),
    LlamaCpp(),
    Exo(),
)
ENGINE_TRAITS: Mapping[EngineName, EngineTraits] = {name: engine.traits for name, engine in ENGINES.items()}
"""What each can be told, for the checks of the fleet file."""
