"""How many bytes of models a playbook has still to fetch: a question for the guest, which knows what it has.

The program that fetches them answers it, so that both look at the same files. What lies on this machine is measured
here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from provisioner.adapters.files.shipped import shipped_folder
from provisioner.domain.model_keeping import MODEL_FOLDER

_CACHE = f"{MODEL_FOLDER}/huggingface"
# The playbooks that fetch from Hugging Face, each with the folder of the marks that it leaves (engine_pull_marks).
_MARKS = {"deploy-vllm": f"{_CACHE}/pulled", "deploy-tgi": f"{MODEL_FOLDER}/tgi/pulled"}


def size_question(playbook: str, variables: Mapping[str, object]) -> tuple[str, ...]:
    """Return the command that prints the number in a guest, as root; empty for a playbook that fetches no models.

    Args:
        playbook: its name.
        variables: what its header lists.
    """
    models = [*_files(variables), *_repositories(playbook, variables)]
    if not models:
        return ()
    program = (shipped_folder("playbooks") / "files/guest_job.py").read_text(encoding="utf-8")
    return ("python3", "-c", program, "size", json.dumps(models))


def _files(variables: Mapping[str, object]) -> Iterator[list[str]]:
    for file in cast("list[dict[str, str]]", variables.get("engine_files", [])):
        source, name = file["source"], file["sha256"][:12]
        kept = f"{MODEL_FOLDER}/models/{name}.gguf"
        if source.startswith(("http://", "https://")):
            yield ["file", source, f"{kept}.part", kept]
        elif Path(source).is_file():
            yield ["file", str(Path(source).stat().st_size), f"{MODEL_FOLDER}/incoming/{name}", kept]


def _repositories(playbook: str, variables: Mapping[str, object]) -> Iterator[list[str]]:
    marks = _MARKS.get(playbook)
    for model in cast("list[str]", variables.get("engine_pulls", [])) if marks else ():
        yield ["repository", _CACHE, _secrets(variables), f"{marks}/{model.replace('/', '--')}", model]


def _secrets(variables: Mapping[str, object]) -> str:
    """Return the private file with the token, as the playbook names it."""
    launches = cast("list[dict[str, object]]", variables["engine_launches"])
    with_token = (each["unit"] for each in launches if "HF_TOKEN" in cast("Mapping[str, object]", each["secrets"]))
    return f"/etc/llm/{variables.get('engine_token_unit') or next(with_token, 'none')}.env"
