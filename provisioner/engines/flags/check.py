"""Judges a mode's arguments by the tables: what an engine's version does not take is refused, with what to write.

Pure. Nothing is said of an engine without a table, nor of variables that an
engine with flags reads from its environment unless they are secrets or ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping

from provisioner.engines.flags import quantization
from provisioner.engines.flags.names import (
    canonical_arguments,
    find,
    is_unjudged,
    is_variable,
    off_switch,
    spelled,
)
from provisioner.engines.flags.problems import Fault, FlagProblem
from provisioner.engines.flags.table import FILES, Flag, FlagTable, Sighting, State, table_of
from provisioner.engines.flags.values import value_problem
from provisioner.engines.flags.versions import Version

__all__ = ["canonical_arguments", "check_arguments"]

_ALIKE = 0.72


def check_arguments(
    engine: str, version: str, arguments: Mapping[str, object], *, keys: Collection[str] = ()
) -> tuple[FlagProblem, ...]:
    """Return what is wrong with a mode's arguments, in their order.

    Args:
        engine: as the fleet file calls it.
        version: as the fleet file pins it; empty where it is not known, and then
            only what no version takes is told.
        arguments: flags without their dashes, variables in capitals.
        keys: the mode's own keys that are set, such as ``context``; a flag that
            says the same again is a problem.
    """
    table = table_of(engine)
    if table is None:
        return ()
    at = table.version(version)
    told = [problem for name, value in arguments.items() for problem in _about(table, version, at, name, value, keys)]
    return (*told, *_excluded(table, arguments))


def _about(
    table: FlagTable, version: str, at: Version | None, name: str, value: object, keys: Collection[str]
) -> Iterator[FlagProblem]:
    flag = find(table, name)
    main = flag.main if flag is not None else spelled(table, name)
    off = off_switch(table, version, main) if value is False and flag is not None else None
    names = (main, flag.name if flag is not None else main, off or main)
    ours = next((each for each in names if each in table.ours), None)
    if ours is not None:
        fault = Fault.SECRET if table.ours[ours].startswith("secret: ") else Fault.OURS
        shown = "stands where all can read it" if is_variable(name) else "is shown to whoever lists processes"
        what = f"is a secret, and there it {shown}" if fault is Fault.SECRET else "is set by us"
        yield FlagProblem(name, fault, f"{ours} {what}", table.ours[ours].removeprefix("secret: "))
        return
    if flag is not None and table.keys.get(main) in keys:
        key = table.keys[main]
        yield FlagProblem(name, Fault.TWICE, f"{main} says again what the mode's {key} says", "keep one of the two")
    yield from judge(table, version, at, name, value)


def judge(table: FlagTable, version: str, at: Version | None, name: str, value: object) -> Iterator[FlagProblem]:
    """Yield what is wrong with a flag or variable whoever sets it: not there, or not with this value."""
    flag = find(table, name)
    if flag is None:
        if not is_unjudged(table, name):
            yield _unknown(table, version, at, name)
        return
    main = flag.main
    seen = table.sighting(flag.seen, at) if at is not None else Sighting(State.HERE)
    if seen.state is not State.HERE:
        yield _absent(table, version, name, flag, seen)
        return
    since, text = table.fading.get(main, ("", ""))
    if text and at is not None and at >= (table.version(since) or at):
        yield FlagProblem(name, Fault.FADING, f"{flag.name} {text}", "", is_certain=False)
    wrong = value_problem(table, version, at, name, flag, value)
    if wrong is not None:
        yield wrong
    elif main == "--quantization" and isinstance(value, str):
        yield from quantization.check_name(table, version, at, name, value)


def _unknown(table: FlagTable, version: str, at: Version | None, name: str) -> FlagProblem:
    flag = spelled(table, name)
    if table.prefix and not is_variable(name):
        return _no_flags(table, at, name)
    which = f"{table.title} {version}".strip()
    # Which of two dashes a short name has, only the engine that knows it can say.
    flag = next((each for each in (flag, flag.replace("--", "-", 1)) if each in table.foreign), flag)
    if flag in table.foreign:
        owners = _owners(flag, but=table.engine)
        return FlagProblem(
            name,
            Fault.FOREIGN,
            f"{flag} is no flag of {table.title}" + (f" but of {owners}" if owners else ""),
            table.foreign[flag],
        )
    near = _near(table, at, flag)
    owners = _owners(flag, but=table.engine)
    if owners and not near:
        return FlagProblem(
            name, Fault.FOREIGN, f"{flag} is no flag of {table.title} but of {owners}", "take it out of the arguments"
        )
    instead = f"did you mean {' or '.join(near)}?" if near else "take it out of the arguments"
    if at is not None and table.is_past(at):
        return FlagProblem(
            name,
            Fault.UNKNOWN,
            f"whether {which} has {flag} is not known: no version up to {table.newest} had it",
            instead,
            is_certain=False,
        )
    return FlagProblem(name, Fault.UNKNOWN, f"{which} has no {flag}, nor had any version looked into", instead)


def _no_flags(table: FlagTable, at: Version | None, name: str) -> FlagProblem:
    variable = table.prefix + name.lstrip("-").replace("-", "_").upper().removeprefix(table.prefix)
    near = (variable,) if variable in table.flags else _near(table, at, variable)
    instead = f"did you mean {' or '.join(near)}?" if near else "name a variable, in capitals, or take it out"
    return FlagProblem(name, Fault.UNKNOWN, f"{table.title} has no flags: it is told by variables alone", instead)


def _absent(table: FlagTable, version: str, name: str, flag: Flag, seen: Sighting) -> FlagProblem:
    which = f"{table.title} {version}"
    instead = table.replaced.get(flag.name) or table.replaced.get(flag.main)
    if seen.state is State.DOUBTFUL:
        fault = Fault.REMOVED if seen.last and seen.gone_by else Fault.NOT_YET
        history = seen.history or f"first looked for in {table.opened[0].label}"
        return FlagProblem(
            name,
            fault,
            f"whether {which} has {flag.name} is not known: {history}",
            (instead or "nothing is known to replace it") if fault is Fault.REMOVED else "",
            is_certain=False,
        )
    if seen.state is State.NOT_YET:
        return FlagProblem(
            name,
            Fault.NOT_YET,
            f"{which} has no {flag.name} yet: first seen in {seen.since}",
            f"pin {table.title} {seen.sure} or later, or take it out of the arguments",
        )
    near = "" if instead else "nothing replaces it: take it out of the arguments"
    return FlagProblem(name, Fault.REMOVED, f"{which} has no {flag.name}: {seen.history}", instead or near)


def _excluded(table: FlagTable, arguments: Mapping[str, object]) -> Iterator[FlagProblem]:
    given = {
        flag.name: name
        for name, value in arguments.items()
        if value is not False and (flag := find(table, name)) is not None
    }
    for one, other, why in table.together:
        if one in given and other in given:
            yield FlagProblem(given[other], Fault.TOGETHER, f"{one} and {other} exclude each other: {why}", "keep one")


def _near(table: FlagTable, at: Version | None, flag: str) -> tuple[str, ...]:
    """Return the names most like one, of those that the version takes."""
    names = [name for name in (table.names_in(at) if at is not None else table.flags) if len(name) > 3]
    short = [name for name in names if len(flag) > 5 and name.startswith(flag)]
    close = difflib.get_close_matches(flag, names, n=2, cutoff=_ALIKE)
    return tuple(dict.fromkeys((*short[:2], *close)))[:2]


def _owners(flag: str, *, but: str) -> str:
    others = [
        table.title
        for engine in FILES
        if engine != but and (table := table_of(engine)) is not None and flag in table.flags
    ]
    return " and ".join(others)
