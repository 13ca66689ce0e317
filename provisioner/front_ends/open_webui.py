"""Open WebUI: a page to chat with, in front of the node's engines.

Its settings are those of its start: without ENABLE_PERSISTENT_CONFIG=False it
keeps the first ones in its database, and a change of modes would not reach it.
It asks every engine of the node that may run; those that do not run just now
are passed over. Names and defaults: the published package 0.12.4.
"""

from __future__ import annotations

from collections.abc import Iterable

from provisioner.domain.fleet import SecretReference
from provisioner.domain.mode import WebUiSpec
from provisioner.engines.base import DATA, FOLDER, InferenceEngine, Installation, Launch

PLAYBOOK = "deploy-open-webui"
UNIT = "open-webui"
HEALTH_PATH = "/ready"
"""503 until its database is fine; ``/health`` is 200 as soon as anything listens."""

_OLLAMA = "ollama"
_NO_KEY = "none"


def installation(spec: WebUiSpec) -> Installation:
    """Return the one package; a file with hashes, where there is one, pins all that it depends on."""
    return Installation(
        packages=(f"open-webui=={spec.version}",), requirements=str(spec.requirements) if spec.requirements else ""
    )


def launch(spec: WebUiSpec, engines: Iterable[InferenceEngine], api_key: SecretReference | None = None) -> Launch:
    """Return how it is started.

    Args:
        spec: what the fleet file says of it.
        engines: those that the node's modes use.
        api_key: what those want of their clients that ask for a key.
    """
    used = list(engines)
    ollama = next((engine for engine in used if engine.name == _OLLAMA), None)
    others = [engine for engine in used if engine is not ollama]
    keys = tuple(api_key if api_key is not None and engine.key_variable else _NO_KEY for engine in others)
    secrets: dict[str, tuple[SecretReference | str, ...]] = {}
    environment = {
        "DATA_DIR": f"{DATA}/open-webui",
        "HF_HOME": f"{DATA}/huggingface",
        "ENABLE_PERSISTENT_CONFIG": "False",
        # Left on without an address it would look for an Ollama that is not there.
        "ENABLE_OLLAMA_API": str(ollama is not None),
        # Left on without an address it would ask the provider's own service.
        "ENABLE_OPENAI_API": str(bool(others)),
    }
    if ollama is not None:
        environment["OLLAMA_BASE_URL"] = f"http://127.0.0.1:{ollama.port}"
    if others:
        addresses = (f"http://127.0.0.1:{engine.port}{engine.api_path}" for engine in others)
        environment["OPENAI_API_BASE_URLS"] = ";".join(addresses)
        if api_key in keys:
            secrets["OPENAI_API_KEYS"] = keys
        else:
            environment["OPENAI_API_KEYS"] = ";".join(map(str, keys))
    words = ("serve", "--host", "0.0.0.0", "--port", str(spec.port))  # noqa: S104 - people are on other machines
    return Launch(argv=(f"{FOLDER}/bin/open-webui", *words), environment=environment, secrets=secrets)
