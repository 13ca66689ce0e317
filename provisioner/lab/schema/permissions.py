"""The shapes in which an endpoint says who may call it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from provisioner.lab.schema.language import Param


@dataclass(frozen=True, slots=True)
class Everyone:
    """Any caller; `logged_in` says whether they must have named themselves."""

    logged_in: bool = True


@dataclass(frozen=True, slots=True)
class RootOnly:
    """The superuser by password, no token."""


@dataclass(frozen=True, slots=True)
class Has:
    """All of the privileges (or one, with `any_of`) on a path with parameters in braces."""

    path: str
    privileges: tuple[str, ...]
    any_of: bool = False
    needs_param: str | None = None


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of several rules."""

    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several rules; when none holds the refusal names no path."""

    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Oneself:
    """The user whom the call is about."""


@dataclass(frozen=True, slots=True)
class MayAllocateUser:
    """The privilege to make users in the realm of the user the call is about."""


@dataclass(frozen=True, slots=True)
class OverUser:
    """One of the privileges over all users, or over a group of the user the call is about."""

    privileges: tuple[str, ...]
    creating: bool = False


@dataclass(frozen=True, slots=True)
class MayModifyAcl:
    """The right to change access rules on a path."""

    path: str


Rule = Everyone | RootOnly | Has | AllOf | OneOf | Oneself | MayAllocateUser | OverUser | MayModifyAcl

Row = tuple[str, str, Iterable[Param], Rule] | tuple[str, str, Iterable[Param], Rule, Rule]
"""Method, path, parameters, rule; and the rule of version 9 where it differs from that of 8."""

ALL = Everyone()
WORLD = Everyone(logged_in=False)


def has(path: str, privileges: str, *, needs_param: str | None = None) -> Has:
    """Need every one of the privileges, written as words."""
    return Has(path, tuple(privileges.split()), needs_param=needs_param)


def has_any(path: str, privileges: str) -> Has:
    """Need one of the privileges, written as words."""
    return Has(path, tuple(privileges.split()), any_of=True)


def all_of(*rules: Rule) -> AllOf:
    """Need every rule."""
    return AllOf(rules)


def one_of(*rules: Rule) -> OneOf:
    """Need one rule."""
    return OneOf(rules)
