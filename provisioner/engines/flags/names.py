"""From an argument as a mode writes it to the flag that is meant, and to how it must be said."""

from __future__ import annotations

import re
from collections.abc import Mapping

from provisioner.engines.flags.table import Flag, FlagTable, State, Takes, table_of


def is_variable(name: str) -> bool:
    """Say whether an argument is an environment variable: those are written in capitals, flags never are."""
    return len(name) > 1 and re.fullmatch(r"[A-Z][A-Z0-9_]*", name) is not None


def is_unjudged(table: FlagTable, name: str) -> bool:
    """Say that a name is a variable of which the table cannot know whether anything reads it."""
    return is_variable(name) and not (table.prefix and name.startswith(table.prefix))


def spelled(table: FlagTable, name: str) -> str:
    """Return an argument's name as the engine's own documents write it: ``--max-model-len`` for ``max_model_len``."""
    if table.prefix or is_variable(name):
        return name
    bare, dot, rest = name.lstrip("-").partition(".")
    bare = bare.replace("_", "-")
    if name.startswith("-") and not name.startswith("--"):
        return f"-{bare}{dot}{rest}"
    # A short name such as tp, ngl or c has one dash; no long name is known by it.
    if f"--{bare}" not in table.flags and f"-{bare}" in table.flags:
        return f"-{bare}{dot}{rest}"
    return f"--{bare}{dot}{rest}"


def find(table: FlagTable, name: str) -> Flag | None:
    """Return the flag that an argument means, or None. ``a.b`` is the part b of the document that a takes."""
    return table.flags.get(spelled(table, name).partition(".")[0].removesuffix("+"))


def replacement(engine: str, name: str) -> str:
    """Return what is known to take the place of a flag that went, as an instruction; empty where nothing is known."""
    table = table_of(engine)
    flag = find(table, name) if table is not None else None
    if table is None or flag is None:
        return ""
    return table.replaced.get(flag.name) or table.replaced.get(flag.main) or ""


def canonical_arguments(engine: str, version: str, arguments: Mapping[str, object]) -> dict[str, object]:
    """Return a mode's arguments by the names that the flags are best known by, without dashes, ready to be said.

    Short names become long ones, so that they can be compared with what we set
    ourselves. ``false`` becomes the flag that switches off, where the version
    has one; ``true`` becomes the word for it, where the flag takes a word (YAML
    reads a bare ``on`` as true). What is not in the table stays as it is.
    """
    table = table_of(engine)
    if table is None:
        return dict(arguments)
    said: dict[str, object] = {}
    for name, value in arguments.items():
        flag = find(table, name)
        if flag is None or is_variable(name):
            said[name] = value
            continue
        dotted = spelled(table, name).partition(".")[2]
        if dotted:
            said[f"{flag.main.lstrip('-')}.{dotted}"] = value
            continue
        key, word = _said(table, version, flag, value)
        said[key.lstrip("-")] = word
    return said


def word_for(flag: Flag, value: bool) -> str | None:
    """Return the word by which a flag with a value says yes or no, None where it has none."""
    for yes, no in (("on", "off"), ("true", "false"), ("1", "0")):
        word = yes if value else no
        if word in flag.values:
            return word
    return None


def off_switch(table: FlagTable, version: str, main: str) -> str | None:
    """Return the flag that switches another off in a version, or None."""
    at = table.version(version)
    names = [each.name for each in table.flags.values() if each.negates and each.main == main]
    if at is not None:
        names = [name for name in names if table.sighting(table.flags[name].seen, at).state is State.HERE]
    return max(names, key=lambda name: (name.startswith("--no-"), len(name)), default=None)


def _said(table: FlagTable, version: str, flag: Flag, value: object) -> tuple[str, object]:
    name = flag.name if flag.negates else _main(table, version, flag)
    if not isinstance(value, bool):
        return name, value
    at = table.version(version)
    is_bare = bool(flag.bare) and at is not None and table.sighting(flag.bare, at).state is State.HERE
    if flag.takes in (Takes.ONE, Takes.OPTIONAL) and not is_bare:
        word = word_for(flag, value)
        return name, value if word is None else word
    if value or flag.negates:
        return name, value
    off = off_switch(table, version, flag.main)
    return (off, True) if off is not None else (name, value)


def _main(table: FlagTable, version: str, flag: Flag) -> str:
    """Return the name a flag is best known by, unless the version does not have that one yet."""
    at, main = table.version(version), table.flags.get(flag.main)
    if main is None or (at is not None and table.sighting(main.seen, at).state is not State.HERE):
        return flag.name
    return flag.main
