"""The orchestrators there are: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.orchestrator import OrchestratorName
from provisioner.orchestrators.base import Orchestrator
from provisioner.orchestrators.litellm import LiteLlm
from provisioner.orchestrators.n8n import N8n
from provisioner.orchestrators.open_webui import OpenWebUi
from provisioner.orchestrators.prometheus import Prometheus


def _by_name(*orchestrators: Orchestrator) -> Mapping[OrchestratorName, Orchestrator]:
    return {each.name: each for each in orchestrators}


ORCHESTRATORS = _by_name(
    N8n(),
    Prometheus(),
    OpenWebUi(),
    LiteLlm(),
)
