"""From what a mode says of an engine's flags and variables to the words of a command line and an environment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from provisioner.domain.mode import ArgumentValue

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def is_variable(name: str) -> bool:
    """Say whether an argument is an environment variable: those are written in capitals, flags never are."""
    return len(name) > 1 and _VARIABLE.fullmatch(name) is not None


def command_line(own: Mapping[str, ArgumentValue], given: Mapping[str, ArgumentValue]) -> tuple[str, ...]:
    """Return flags and values; what a mode says of a flag replaces our own word on it.

    ``true`` is the bare flag, ``false`` leaves it out, a list is several values
    behind one flag, a table is one JSON document.

    Args:
        own: the flags that we set, without dashes, in order.
        given: the mode's arguments; its variables are passed over.
    """
    words: list[str] = []
    for name, value in (dict(own) | flags_of(given)).items():
        if value is False:
            continue
        words.append(f"-{name}" if len(name) == 1 else f"--{name}")
        if value is True:
            continue
        words += [text_of(each) for each in value] if isinstance(value, list) else [text_of(value)]
    return tuple(words)


def flags_of(given: Mapping[str, ArgumentValue]) -> dict[str, ArgumentValue]:
    """Return a mode's flags, their names with hyphens; the engines take underscores for them."""
    return {name.replace("_", "-"): value for name, value in given.items() if not is_variable(name)}


def variables_of(given: Mapping[str, ArgumentValue]) -> dict[str, str]:
    """Return a mode's environment variables; ``true`` and ``false`` are 1 and 0."""
    return {
        name: str(int(value)) if isinstance(value, bool) else text_of(value)
        for name, value in given.items()
        if is_variable(name)
    }


def text_of(value: ArgumentValue) -> str:
    """Return one value as an engine reads it."""
    return json.dumps(value) if isinstance(value, (bool, dict, list)) else str(value)
