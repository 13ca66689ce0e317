"""What a simulated guest says of the models on its disk, least recently used first: files, then its Ollama's."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from provisioner.lab.guests.simulated_disk import SimulatedDisk
from provisioner.lab.guests.simulated_ollama import MODEL_BYTES

FREE_BYTES = 1 << 40
_FILES = "/var/lib/llm/models"
# Between the last use of one model and that of the next, as nobody waits here.
_APART_SECONDS = 3600.0


def tells_of_models(words: Sequence[str]) -> bool:
    """Say whether a command is a script that looks at models, asks how much is to come, deletes, or notes it."""
    return list(words[:2]) == ["python3", "-c"] and "".join(words[3:4]) in ("look", "size", "delete", "note")


def models_answer(words: Sequence[str], disk: SimulatedDisk) -> str:
    """Return what the script prints, having done what it does."""
    match words[3]:
        case "note":
            return ""
        case "size":
            return f"{MODEL_BYTES * len(set(words[4:]) - set(disk.files))}\n"
        case "delete":
            disk.files = [path for path in disk.files if _stored(path) != tuple(words[5:7])]
            return ""
    now = time.time()
    found = [*filter(None, map(_stored, disk.files)), *(("ollama", name) for name in disk.stored)]
    models = [
        {
            "store": store,
            "name": name,
            "bytes": MODEL_BYTES,
            "used_at": now - _APART_SECONDS * (len(found) - at),
            "in_use": False,
        }
        for at, (store, name) in enumerate(found)
    ]
    return json.dumps({"models": models, "used": MODEL_BYTES * len(models), "free": FREE_BYTES}) + "\n"


def _stored(path: str) -> tuple[str, str] | None:
    """Return in which store a model lies, and its name, where a file is one or the mark of one."""
    folder, _, name = path.rpartition("/")
    if folder == _FILES:
        return "models", name
    repository = name.partition("#")[0].partition("@")[0].replace("--", "/")
    return ("huggingface", repository) if folder.endswith("/pulled") else None
