"""The strict reader of fault plans: every mistake names its rule, the key, and what is allowed there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from provisioner.errors import InputError
from provisioner.lab.faults.delays import Delay
from provisioner.lab.faults.happenings import HAPPENINGS, arguments_of, wrong_argument
from provisioner.lab.faults.reasons import REASONS
from provisioner.lab.faults.rules import ANSWERS, GUEST_FAULTS, FaultRule, Happening

_LIMITS = ("vmid", "node", "skip", "times", "chance")
KEYS: Mapping[str, tuple[str, ...]] = {
    "request": ("method", "path", *_LIMITS, "delay", "status", "reason", "says", "drop", "answers", "work", "happens"),
    "task": ("task", *_LIMITS, "delay", "fails", "says", "ends", "hangs", "warns", "vanishes", "work", "happens"),
    "guest": ("guest", "vmid", "skip", "times", "chance"),
}
"""The keys of a rule, by what it is about."""
_EFFECTS = {
    "request": ("delay", "status", "says", "drop", "answers", "happens"),
    "task": ("delay", "fails", "says", "ends", "hangs", "warns", "vanishes", "happens"),
}
_ENDS = {"request": ("status", "says", "drop", "answers"), "task": ("fails", "says", "ends", "hangs")}


def read_plan(document: object) -> tuple[list[FaultRule], int]:
    """Return rules and seed of a parsed document. Raises InputError."""
    seed: object = 0
    if isinstance(document, Mapping):
        unknown = sorted(set(map(str, document)) - {"seed", "rules"})
        if unknown:
            raise _wrong(f"it has the unknown key '{unknown[0]}'", "a mapping has the keys seed and rules")
        seed, document = document.get("seed", 0), document.get("rules")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise _wrong(f"its seed is {seed!r}", "give a whole number as the seed")
    if not isinstance(document, Sequence) or isinstance(document, str):
        raise _wrong("it is no list of rules", "write a list of rules, or a mapping with the keys seed and rules")
    return [read_rule(entry, number) for number, entry in enumerate(document, 1)], seed


def read_rule(entry: object, number: int) -> FaultRule:
    """Return one rule. Raises InputError."""
    if not isinstance(entry, Mapping):
        raise _wrong(f"rule {number} is no mapping", "write each rule as {key: value, ...}")
    kind = "task" if "task" in entry else "guest" if "guest" in entry else "request"
    allowed = f"a rule about {_A[kind]} has the keys {', '.join(KEYS[kind])}"
    for key in entry:
        if key not in KEYS[kind]:
            raise _wrong(f"rule {number} has the unknown key '{key}'", allowed)
    if kind != "guest":
        if not any(key in entry for key in _EFFECTS[kind]):
            raise _wrong(f"rule {number} says nothing that goes wrong", f"give it {_either(_EFFECTS[kind])}")
        ends = [key for key in _ENDS[kind] if entry.get(key)]
        if len(ends) > 1:
            raise _wrong(f"rule {number} ends things twice, by {' and '.join(ends)}", "give it one of them")
        if entry.get("reason") is not None and "status" not in entry:
            raise _wrong(f"rule {number} has a reason without a status", "give it a status too, or use says")
        if "work" in entry and not ends:
            raise _wrong(f"rule {number} has work without an end", f"give it {_either(_ENDS[kind])} too")
    values = {key: _read(str(key), value, number) for key, value in entry.items()}
    return FaultRule(number=number, **values)  # type: ignore[arg-type]


_A = {"request": "requests", "task": "tasks", "guest": "guests"}


def _read(key: str, value: object, number: int) -> object:
    try:
        return _READERS[key](value)
    except ValueError as error:
        raise _wrong(f"rule {number} has {key}: {value!r}", f"{key} is {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def _pattern(value: object) -> str:
    text = _text(value)
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from error
    return text


def _method(value: object) -> str:
    return _one_of(("GET", "POST", "PUT", "DELETE"))(value)


def _one_of(choices: Sequence[str]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return read


def _whole(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number from {least} on")
        return value

    return read


def _status(value: object) -> int:
    number = _whole(400)(value)
    if number > 599:
        raise ValueError("an HTTP status from 400 to 599")
    return number


def _chance(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _warnings(value: object) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("told to by the fault plan",) if value else ()
    if isinstance(value, str) and value:
        return (value,)
    if isinstance(value, Sequence) and value and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise ValueError("true, a text, or a list of texts")


def _happening(value: object) -> Happening:
    name: object
    given: object = {}
    if isinstance(value, str):
        name = value
    elif isinstance(value, Mapping) and len(value) == 1:
        (name, given), *_ = value.items()
    else:
        raise ValueError("the name of a happening, or {NAME: {argument: value}}")
    if name not in HAPPENINGS:
        raise ValueError(f"one of {', '.join(sorted(HAPPENINGS))}")
    arguments = arguments_of(str(name))
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} with a mapping of arguments: {', '.join(arguments) or 'it takes none'}")
    for key in given:
        if key not in arguments:
            raise ValueError(f"{name} with the arguments {', '.join(arguments) or '(none)'}, not '{key}'")
    missing = [key for key, is_needed in arguments.items() if is_needed and key not in given]
    if missing:
        raise ValueError(f"{name} with its {missing[0]}")
    wrong = wrong_argument(str(name), given)
    if wrong is not None:
        raise ValueError(f"{name} whose {wrong}")
    return Happening(str(name), dict(given))


_READERS: Mapping[str, Callable[[object], object]] = {
    "method": _method,
    "path": _pattern,
    "task": _pattern,
    "guest": _one_of(tuple(GUEST_FAULTS)),
    "vmid": _whole(100),
    "node": _text,
    "skip": _whole(0),
    "times": _whole(0),
    "chance": _chance,
    "delay": Delay.read,
    "status": _status,
    "reason": _text,
    "says": _one_of(tuple(REASONS)),
    "drop": _one_of(("before", "after")),
    "answers": _one_of(ANSWERS),
    "fails": _text,
    "ends": _text,
    "hangs": _flag,
    "warns": _warnings,
    "vanishes": _flag,
    "work": _one_of(("done", "undone")),
    "happens": _happening,
}


def _either(keys: Sequence[str]) -> str:
    return f"one of {', '.join(keys)}"


def _wrong(what: str, allowed: str) -> InputError:
    return InputError(f"cannot use the fault plan: {what}", subject="fault plan", next_step=allowed)
