"""Holds decoded parameters against their declarations, in Proxmox's words.

The order of the checks and every text follow what the recorded answers show:
type, format, pattern, lengths, bounds, enumeration; the first that fails
speaks, and messages for one key are joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from provisioner.lab.refusals import bad_parameters
from provisioner.lab.schema import cpu_models
from provisioner.lab.schema.formats import checker_for
from provisioner.lab.schema.language import Param, ParamTable, for_major
from provisioner.lab.schema.problem import FormatProblem
from provisioner.lab.schema.property_strings import NAMED

Value = str | int | float | bool | list[str]
Parts = dict[str, str]

MISSING = "property is missing and it is not optional"
UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
_TRUE = frozenset({"1", "on", "yes", "true"})
_FALSE = frozenset({"0", "off", "no", "false"})
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


class _Problems(dict[str, str]):
    def note(self, path: str, message: str) -> None:
        self[path] = f"{self[path]}\\n{message}" if path in self else message


class Schema:
    """Checks parameters for one major version of Proxmox VE."""

    def __init__(self, major: int) -> None:
        self.major = major
        # By identity, with the parameter kept alive: hashing one means hashing all of its sub-keys.
        self._parts: dict[int, tuple[Param, tuple[Param, ...]]] = {}

    def verify(self, params: Mapping[str, object], table: ParamTable) -> dict[str, Value]:
        """Return the parameters as Python values. Raises Refusal with every problem found."""
        problems = _Problems()
        accepted: dict[str, Value] = {}
        for name in table.required_names:
            if name not in params:
                problems.note(name, MISSING)
        for key, value in params.items():
            param = table.find(key)
            if param is None:
                problems.note(key, UNKNOWN)
                continue
            if param.requires is not None and param.requires not in params:
                problems.note(param.requires, f"missing property - '{key}' requires this property")
            if self._check(key, param, value, problems):
                accepted[key] = _python_value(param, value)
        if problems:
            raise bad_parameters(problems)
        return accepted

    def parts(self, param: Param, value: str, key: str) -> Parts:
        """Return a property string as a mapping. Raises Refusal when it is malformed."""
        try:
            return self.split(self.parts_of(param), value, key)
        except FormatProblem as problem:
            raise bad_parameters({key: f"invalid format - {problem}"}) from None

    def parts_of(self, param: Param) -> tuple[Param, ...]:
        """Return the sub-keys of a property string, empty for plain values."""
        known = self._parts.get(id(param))
        if known is None:
            parts = param.parts or NAMED.get(param.format or "", ())
            known = self._parts[id(param)] = param, for_major(parts, self.major) if parts else ()
        return known[1]

    def split(self, parts: tuple[Param, ...], value: str, path: str) -> Parts:
        """Split and check a property string. Raises FormatProblem."""
        known = {part.name: part for part in parts}
        found = _split(known, value)
        problems = _Problems()
        for part in parts:
            if part.alias or part.name not in found:
                if not part.optional and not part.alias:
                    problems.note(f"{path}.{part.name}", MISSING)
                continue
            if part.requires is not None and part.requires not in found:
                problems.note(
                    f"{path}.{part.requires}", f"missing property - '{path}.{part.name}' requires this property"
                )
            self._check(f"{path}.{part.name}", part, found[part.name], problems)
        for name in found:
            if name not in known:
                problems.note(f"{path}.{name}", UNKNOWN)
        if problems:
            lines = "\n".join(f"{key}: {problems[key]}" for key in sorted(problems))
            raise FormatProblem(f"format error\n{lines}")
        return found

    def _check(self, path: str, param: Param, value: object, problems: _Problems) -> bool:
        problem = self._problem(path, param, value, problems)
        if problem:
            problems.note(path, problem)
        return not problem

    def _problem(self, path: str, param: Param, value: object, problems: _Problems) -> str:
        if param.type == "array":
            if not isinstance(value, list):
                return "type check ('array') failed"
            for index, element in enumerate(value):
                if param.items is not None:
                    self._check(f"{path}[{index}]", param.items, element, problems)
            return ""
        if isinstance(value, bool):
            return "" if param.type == "boolean" else f"type check ('{param.type}') failed - got JSON::PP::Boolean"
        if isinstance(value, (list, dict)):
            return f"type check ('{param.type}') failed - got {'ARRAY' if isinstance(value, list) else 'HASH'}"
        found = str(value)
        return _type_problem(param, found) or self._format_problem(path, param, found) or _rule_problem(param, found)

    def _format_problem(self, path: str, param: Param, value: str) -> str:
        try:
            parts = self.parts_of(param)
            if parts:
                self._check_pieces(param, parts, value, path)
            elif param.format is not None:
                check = _checker(param.format, self.major)
                if check is not None:
                    check(value)
        except FormatProblem as problem:
            return f"invalid format - {problem}"
        return ""

    def _check_pieces(self, param: Param, parts: tuple[Param, ...], value: str, path: str) -> None:
        if param.format != "pve-vm-cpu-conf":
            self.split(parts, value, path)
            return
        # The CPU type is judged after the sub-keys and outside of them: its complaint has no "format error" line.
        plain = tuple(Param(part.name, default_key=True) if part.name == "cputype" else part for part in parts)
        found = self.split(plain, value, path)
        check = _checker("pve-cpu-type", self.major)
        if check is not None and "cputype" in found:
            check(found["cputype"])
        cpu_models.check_flags(found.get("flags", ""), self.major)


_checker = lru_cache(maxsize=256)(checker_for)


def _split(known: Mapping[str, Param], value: str) -> Parts:
    found: Parts = {}
    for piece in value.split(","):
        if not piece.strip():
            continue
        key, equals, content = piece.partition("=")
        if equals and key and content:
            if key in found:
                raise FormatProblem(f"duplicate key in comma-separated list property: {key}")
            part = known.get(key)
            if part is not None and part.alias:
                if part.key_alias:
                    if part.key_alias in found:
                        raise FormatProblem(f"key alias '{part.key_alias}' is already defined")
                    found[part.key_alias] = key
                key = part.alias
                part = known.get(key)
            found[key] = _boolean_text(content) if part is not None and part.type == "boolean" else content
        elif not equals:
            default = next((part for part in known.values() if part.default_key), None)
            if default is None:
                raise FormatProblem("value without key, but schema does not define a default key")
            if default.name in found:
                raise FormatProblem(f"duplicate key in comma-separated list property: {default.name}")
            found[default.name] = _boolean_text(piece) if default.type == "boolean" else piece
        else:
            raise FormatProblem("missing key in comma-separated list property")
    return found


def _boolean_text(value: str) -> str:
    lowered = value.lower()
    return "1" if lowered in _TRUE else "0" if lowered in _FALSE else value


def _type_problem(param: Param, value: str) -> str:
    if param.type == "boolean":
        fits = value in ("0", "1")
    elif param.type == "integer":
        fits = _INTEGER.fullmatch(value) is not None
    elif param.type == "number":
        fits = _NUMBER.fullmatch(value) is not None
    else:
        return ""
    return "" if fits else f"type check ('{param.type}') failed - got '{value}'"


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("{,", "{0,"), re.ASCII)


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _rule_problem(param: Param, value: str) -> str:
    if param.pattern is not None and _compiled(param.pattern).fullmatch(value) is None:
        return "value does not match the regex pattern"
    if param.max_length is not None and len(value) > param.max_length:
        return f"value may only be {param.max_length} characters long"
    if param.min_length is not None and len(value) < param.min_length:
        return f"value must be at least {param.min_length} characters long"
    if _NUMBER.fullmatch(value) is not None:
        if param.maximum is not None and float(value) > param.maximum:
            return f"value must have a maximum value of {_plain(param.maximum)}"
        if param.minimum is not None and float(value) < param.minimum:
            return f"value must have a minimum value of {_plain(param.minimum)}"
    if param.enum and value not in param.enum:
        return f"value '{value}' does not have a value in the enumeration '{', '.join(param.enum)}'"
    return ""


def _python_value(param: Param, value: object) -> Value:
    if param.type == "array":
        return [str(element) for element in value] if isinstance(value, list) else []
    if param.type == "boolean":
        return value in (True, "1", 1)
    if param.type == "integer":
        return int(str(value))
    if param.type == "number":
        return float(str(value))
    return str(value)
