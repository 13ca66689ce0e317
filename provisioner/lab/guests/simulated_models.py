"""What a simulated guest says of the models on its disk: those of its Ollama, least recently used first."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from provisioner.lab.guests.simulated_ollama import MODEL_BYTES

FREE_BYTES = 1 << 40
# Between the last use of one model and that of the next, as nobody waits here.
_APART_SECONDS = 3600.0


def tells_of_models(words: Sequence[str]) -> bool:
    """Say whether a command is the script that looks at models, or notes what becomes of them."""
    return list(words[:2]) == ["python3", "-c"] and list(words[3:4]) in (["look"], ["note"])


def models_answer(words: Sequence[str], stored: Sequence[str]) -> str:
    """Return what the script prints."""
    if words[3] == "note":
        return ""
    now = time.time()
    models = [
        {
            "store": "ollama",
            "name": name,
            "bytes": MODEL_BYTES,
            "used_at": now - _APART_SECONDS * (len(stored) - at),
            "in_use": False,
        }
        for at, name in enumerate(stored)
    ]
    return json.dumps({"models": models, "used": MODEL_BYTES * len(models), "free": FREE_BYTES}) + "\n"
