"""What a mode needs of Hugging Face: repositories at the revisions that its engine will ask for. Pure.

As playbooks write it: ``ORGANISATION/NAME``, then ``@REVISION`` where it is not the newest, then ``#tokenizer`` where
only what makes tokens is wanted, and no weights.
"""

from __future__ import annotations

from collections.abc import Iterable

from provisioner.domain.mode import ModeSpec
from provisioner.engines.arguments import flags_of

_WITHOUT_WEIGHTS = "#tokenizer"


def model_repository(mode: ModeSpec) -> str:
    """Return the repository of a mode's model."""
    return _at(mode.model, flags_of(mode.arguments).get("revision"))


def tokenizer_repository(mode: ModeSpec) -> str | None:
    """Return the repository of a mode's tokenizer, None where the model's own has it or it lies on the node's disk."""
    flags = flags_of(mode.arguments)
    name = flags.get("tokenizer", mode.tokenizer) or mode.model
    revision = flags.get("revision")
    # Of another repository too it is asked for at the model's revision, where nobody says otherwise.
    wanted = _at(name, flags.get("tokenizer-revision", revision))
    if wanted == _at(mode.model, revision) or wanted.startswith("/"):
        return None
    return wanted + _WITHOUT_WEIGHTS


def marks(folder: str, pulls: Iterable[str]) -> tuple[str, ...]:
    """Return what the jobs that fetch repositories leave in a folder once each is there."""
    return tuple(f"{folder}/{pull.replace('/', '--')}" for pull in pulls)


def _at(name: object, revision: object) -> str:
    return f"{name}@{revision}" if revision else str(name)
