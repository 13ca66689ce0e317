"""Changes one fact of a fleet file and not a sign more: comments, order and spacing stay as their author has them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from provisioner.adapters.files.positions import Loader
from provisioner.errors import InputError


def with_fact(text: str, place: Sequence[str], value: str) -> str:
    """Return the text of a fleet file with one scalar set.

    Args:
        text: YAML.
        place: the keys that lead to it; all but the last are there and hold a mapping.
        value: a plain scalar, as YAML writes it.

    Raises:
        ValueError: the text has no such place, or cannot be changed there without changing more.
    """
    node = _root(text)
    for key in place[:-1]:
        node = _entry(node, key)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{'.'.join(place[:-1])} is no table")
    last = place[-1]
    old = next((held for name, held in node.value if name.value == last), None)
    if old is not None:
        changed = text[: old.start_mark.index] + value + text[old.end_mark.index :]
    elif node.flow_style:
        changed = _into_flow(text, node, f"{last}: {value}")
    else:
        changed = _into_block(text, node, f"{last}: {value}")
    _require_only(text, changed, place, value)
    return changed


def write_fact(path: Path, place: Sequence[str], value: str) -> None:
    """Set one scalar of a fleet file, in one step that leaves it whole. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
        changed = with_fact(text, place, value)
        if changed == text:
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.resolve().parent)
        draft = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(changed)
            draft.chmod(path.stat().st_mode & 0o7777)
            # A link to the file stays a link.
            draft.replace(path.resolve())
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot write into the fleet file: {words}",
            subject=str(path),
            next_step=f"write it yourself: {'.'.join(place)}: {value}",
        ) from error


def _root(text: str) -> yaml.Node:
    loader = Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    if node is None:
        raise ValueError("it is empty")
    return node


def _entry(node: yaml.Node, key: str) -> yaml.Node:
    if isinstance(node, yaml.MappingNode):
        for name, held in node.value:
            if name.value == key:
                return held  # type: ignore[no-any-return]
    raise ValueError(f"it has no {key} there")


def _into_flow(text: str, node: yaml.MappingNode, entry: str) -> str:
    end = node.end_mark.index - 1
    if text[end] != "}":
        raise ValueError("the table's end was not found")
    kept = text[:end].rstrip()
    space = text[len(kept) : end]
    comma = "" if kept.endswith(("{", ",")) else ","
    return f"{kept}{comma}{'' if kept.endswith('{') else ' '}{entry}{space}{text[end:]}"


def _into_block(text: str, node: yaml.MappingNode, entry: str) -> str:
    first = node.value[0][0].start_mark
    at = first.index - first.column
    indent = text[at : first.index]
    if indent.strip():
        raise ValueError("the table does not begin on a line of its own")
    return f"{text[:at]}{indent}{entry}\n{text[at:]}"


def _require_only(text: str, changed: str, place: Sequence[str], value: str) -> None:
    """Make sure that nothing else has changed: an anchor used in two places would change both."""
    wanted = yaml.load(text, Loader)  # noqa: S506 - a safe loader
    held = wanted
    for key in place[:-1]:
        copied = dict(held[key])
        held[key] = copied
        held = copied
    held[place[-1]] = yaml.load(value, Loader)  # noqa: S506 - a safe loader
    if yaml.load(changed, Loader) != wanted:  # noqa: S506 - a safe loader
        raise ValueError("more than this would change")
