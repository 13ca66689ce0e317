"""What a flag takes: nothing, one value or several, a number, one of some words."""

from __future__ import annotations

import re

from provisioner.engines.flags.names import word_for
from provisioner.engines.flags.problems import Fault, FlagProblem
from provisioner.engines.flags.table import Flag, FlagTable, Span, State, Takes
from provisioner.engines.flags.versions import Version

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def value_problem(
    table: FlagTable, version: str, at: Version | None, name: str, flag: Flag, value: object
) -> FlagProblem | None:
    """Return why a flag of this version does not take a value, or None."""

    def wrong(found: str, instead: str) -> FlagProblem:
        return FlagProblem(name, Fault.VALUE, f"{flag.name} {found}", instead)

    takes = Takes.SWITCH if at is not None and _is_in(table, flag.bare, at) else flag.takes
    if isinstance(value, bool):
        # A variable is 1 for true.
        if not flag.name.startswith("-") and not flag.type and not flag.values:
            return None
        if takes in (Takes.SWITCH, Takes.OPTIONAL) or value is False or word_for(flag, value):
            return None
        return wrong("needs a value, and true is none", f"write what it is to be: {_allowed(table, at, flag)}")
    if takes is Takes.SWITCH:
        return wrong(f"takes no value, and it was given {_shown(value)}", f"write {name}: true")
    if value is None or value == "" or value == []:
        return wrong("needs a value", f"write what it is to be: {_allowed(table, at, flag)}")
    if isinstance(value, list) and takes is Takes.ONE and flag.type != "list":
        return wrong(f"takes one value, and it was given {len(value)}", "write one")
    for each in value if isinstance(value, list) else [value]:
        if flag.type in ("int", "float"):
            if _is_number(each, whole=flag.type == "int"):
                continue
            if not flag.values:
                allowed = _allowed(table, at, flag)
                return wrong(f"takes {allowed}, and it was given {_shown(each)}", f"write {allowed}")
        if not flag.values or "." in name or isinstance(each, dict):
            continue
        problem = _choice(table, version, at, name, flag, str(each))
        if problem is not None:
            return problem
    return None


def _choice(
    table: FlagTable, version: str, at: Version | None, name: str, flag: Flag, value: str
) -> FlagProblem | None:
    if at is None:
        return None
    if not _is_in(table, flag.checked, at):
        return None
    spans = flag.values.get(value)
    seen = table.sighting(spans, at) if spans is not None else None
    if seen is not None and seen.state is State.HERE:
        return None
    which = f"{table.title} {version}"
    if seen is not None and seen.state is State.DOUBTFUL:
        found = f"whether {which} takes {flag.name} {value} is not known: {seen.history}"
        return FlagProblem(name, Fault.VALUE, found, "", is_certain=False)
    history = f": {seen.history}" if seen is not None and seen.history else ""
    found = f"{flag.name} of {which} does not take {value}{history}"
    return FlagProblem(name, Fault.VALUE, found, _allowed(table, at, flag), is_certain=not table.is_past(at))


def _allowed(table: FlagTable, at: Version | None, flag: Flag) -> str:
    words = [word for word, spans in flag.values.items() if at is None or table.sighting(spans, at).state is State.HERE]
    number = {"int": "a whole number", "float": "a number"}.get(flag.type, "")
    if words:
        return " or ".join(each for each in (number, f"one of: {', '.join(words)}") if each)
    return number or "a word, a number or a table"


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, (int, float)):
        return not whole or float(value).is_integer()
    # vLLM takes this word for "as if it were not given".
    return isinstance(value, str) and (_NUMBER.fullmatch(value) is not None or value == "None")


def _is_in(table: FlagTable, spans: tuple[Span, ...], at: Version) -> bool:
    return bool(spans) and table.sighting(spans, at).state is State.HERE


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
