"""The engines there are: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.names import EngineName
from provisioner.engines.base import InferenceEngine
from provisioner.engines.llama_cpp import LlamaCpp


def _by_name(*engines: InferenceEngine) -> Mapping[EngineName, InferenceEngine]:
    return {engine.name: engine for engine in engines}


ENGINES = _by_name(LlamaCpp())
