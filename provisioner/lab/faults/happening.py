"""How happenings are found: by name, registered by a decorator, their arguments read off their signatures."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping

Happens = Callable[..., Awaitable[None]]

HAPPENINGS: dict[str, Happens] = {}
_TYPES: Mapping[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "float": (int, float)}


def happening(act: Happens) -> Happens:
    """Let a coroutine over the lab, with named arguments, be spoken of by its name."""
    HAPPENINGS[act.__name__] = act
    return act


def arguments_of(name: str) -> dict[str, bool]:
    """Return the arguments of a happening, and whether each is needed."""
    parameters = list(inspect.signature(HAPPENINGS[name]).parameters.values())[1:]
    return {each.name: each.default is inspect.Parameter.empty for each in parameters}


def wrong_argument(name: str, given: Mapping[str, object]) -> str | None:
    """Return what is wrong with the first argument of a wrong type, if there is one."""
    parameters = inspect.signature(HAPPENINGS[name]).parameters
    for key, value in given.items():
        kind = str(parameters[key].annotation)
        if isinstance(value, bool) or not isinstance(value, _TYPES[kind]):
            return f"{key} is {'a number' if kind != 'str' else 'a text'}, not {value!r}"
    return None
