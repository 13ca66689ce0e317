"""The words in which the lab declares parameters.

A declaration says what Proxmox's own schema says: type, bounds, pattern, named
format, sub-keys of a property string. Endpoints and options are tables of
these, kept by hand; a test holds them against the published schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter, or one sub-key of a property string.

    `name` may end in ``[n]`` for numbered keys, of which there are `count`.
    `parts` are the sub-keys when the value is a property string; `format` is
    the named format otherwise (some property strings have both). `only` limits
    the declaration to one major version of Proxmox VE.
    """

    name: str
    type: str = "string"
    optional: bool = True
    format: str | None = None
    parts: tuple[Param, ...] = ()
    enum: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    default: object = None
    requires: str | None = None
    default_key: bool = False
    alias: str | None = None
    key_alias: str | None = None
    items: Param | None = None
    count: int = 0
    only: int | None = None


def text(name: str, **more: object) -> Param:
    """Declare a string."""
    return replace(Param(name), **more)  # type: ignore[arg-type]


def flag(name: str, default: object = None, **more: object) -> Param:
    """Declare a boolean."""
    return replace(Param(name, "boolean", default=default), **more)  # type: ignore[arg-type]


def whole(name: str, minimum: float | None = None, maximum: float | None = None, **more: object) -> Param:
    """Declare an integer."""
    return replace(Param(name, "integer", minimum=minimum, maximum=maximum), **more)  # type: ignore[arg-type]


def number(name: str, minimum: float | None = None, maximum: float | None = None, **more: object) -> Param:
    """Declare a number."""
    return replace(Param(name, "number", minimum=minimum, maximum=maximum), **more)  # type: ignore[arg-type]


def one_of(name: str, values: str, default: object = None, **more: object) -> Param:
    """Declare a string with an enumeration, written as words with spaces between them."""
    return replace(Param(name, enum=tuple(values.split()), default=default), **more)  # type: ignore[arg-type]


def pieces(name: str, parts: Iterable[Param], **more: object) -> Param:
    """Declare a property string."""
    return replace(Param(name, parts=tuple(parts)), **more)  # type: ignore[arg-type]


def many(name: str, items: Param, **more: object) -> Param:
    """Declare an array; on the wire the key is repeated."""
    return replace(Param(name, "array", items=items), **more)  # type: ignore[arg-type]


def required(param: Param) -> Param:
    """Return the same declaration, no longer optional."""
    return replace(param, optional=False)


def for_major(params: Iterable[Param], major: int) -> tuple[Param, ...]:
    """Return what one major version knows, sub-keys included."""
    return tuple(
        replace(param, parts=for_major(param.parts, major)) if param.parts else param
        for param in params
        if param.only in (None, major)
    )


_NUMBERED = re.compile(r"(.*?[a-z-])(0|[1-9][0-9]*)\Z")


class ParamTable:
    """Declarations by name, where ``scsi7`` finds ``scsi[n]``."""

    def __init__(self, params: Iterable[Param]) -> None:
        self.by_name: Mapping[str, Param] = {param.name: param for param in params}
        self.required_names = tuple(
            name for name, param in self.by_name.items() if not param.optional and not param.alias and not param.count
        )

    def find(self, key: str) -> Param | None:
        """Return the declaration for a key as it arrived, or None."""
        found = self.by_name.get(key)
        if found is not None and not found.count:
            return found
        match = _NUMBERED.match(key)
        if match is None:
            return None
        numbered = self.by_name.get(f"{match[1]}[n]")
        return numbered if numbered is not None and int(match[2]) < numbered.count else None
