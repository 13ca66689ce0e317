"""Lists models, those of sleeping nodes too, from what is known anyway: no engine is asked, nobody is woken. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner.domain.names import NodeName
from provisioner.domain.serving import NodeNow, Phase
from provisioner.planning.model_table import ModelEntry, ModelTable, Offer

Seen = Mapping[NodeName, NodeNow]


def openai_list(table: ModelTable, seen: Seen) -> dict[str, object]:
    """Return the answer to ``/v1/models``."""
    listed = (entry for name in table.names if (entry := openai_model(table, seen, name)) is not None)
    return {"object": "list", "data": list(listed)}


def openai_model(table: ModelTable, seen: Seen, name: str) -> dict[str, object] | None:
    """Return one entry of it, by any of its names; None for an unknown one."""
    entry = table.find(name)
    if entry is None:
        return None
    return {"id": name, "object": "model", "created": 0, "owned_by": "provisioner", "provisioner": _where(entry, seen)}


def ollama_tags(table: ModelTable, seen: Seen) -> dict[str, object]:
    """Return the answer to ``/api/tags``: every model, whichever engine serves it."""
    return {"models": [_ollama_model(name) for name in table.names]}


def ollama_loaded(table: ModelTable, seen: Seen) -> dict[str, object]:
    """Return the answer to ``/api/ps``: what answers without a wake."""
    ready = [
        name
        for name in table.names
        if (entry := table.find(name)) is not None
        and any(_is_ready(offer, seen) for offer in entry.offers if not offer.stands_in)
    ]
    return {"models": [_ollama_model(name) for name in ready]}


def ollama_model(entry: ModelEntry) -> dict[str, object]:
    """Return the answer to ``/api/show``: what is known without its engine."""
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _NO_DETAILS,
        "model_info": {},
        "capabilities": ["completion"],
    }


_NO_DETAILS = {"format": "gguf", "family": "", "families": [], "parameter_size": "", "quantization_level": ""}


def _ollama_model(name: str) -> dict[str, object]:
    # Size and digest are its engine's, which may sleep; clients read over what is zero.
    return {
        "name": name,
        "model": name,
        "modified_at": "1970-01-01T00:00:00Z",
        "size": 0,
        "digest": "",
        "details": _NO_DETAILS,
    }


def _is_ready(offer: Offer, seen: Seen) -> bool:
    now = seen.get(offer.node)
    return now is not None and now.phase is Phase.READY and now.mode in (None, offer.mode)


def _where(entry: ModelEntry, seen: Seen) -> dict[str, object]:
    own = [offer for offer in entry.offers if not offer.stands_in]
    phases = {offer.node: seen[offer.node].phase.value if offer.node in seen else "unknown" for offer in own}
    is_ready = any(_is_ready(offer, seen) for offer in own)
    return {"model": entry.name, "state": "ready" if is_ready else "sleeping", "nodes": phases}
