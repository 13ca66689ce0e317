"""Judges a whole command line, such as the one we start an engine with: every word of it must be this version's.

What we set ourselves has come and gone like everything else, so a version that
lacks one of our own flags cannot be run by us, and that is known beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from provisioner.engines.flags.check import judge
from provisioner.engines.flags.names import find
from provisioner.engines.flags.problems import Fault, FlagProblem
from provisioner.engines.flags.table import FlagTable, table_of

_FLAG = re.compile(r"--?[A-Za-z][\w.-]*\+?")


def check_launch(
    engine: str, version: str, words: Sequence[str], variables: Mapping[str, str] | None = None
) -> tuple[FlagProblem, ...]:
    """Return which words and variables of a launch a version does not take.

    Args:
        engine: as the fleet file calls it.
        version: as the fleet file pins it.
        words: the command line; what stands before the first flag is passed over.
        variables: its environment; of those that no table knows nothing is said.
    """
    table = table_of(engine)
    if table is None:
        return ()
    at = table.version(version)
    given = [*_flags(words), *(variables or {}).items()]
    return tuple(
        _as_ours(table, problem)
        for name, value in given
        for problem in judge(table, version, at, name, value)
        if name in table.flags or name.startswith("-")
    )


def _as_ours(table: FlagTable, problem: FlagProblem) -> FlagProblem:
    """Return a problem with what helps against a word that no mode has written, so that none can take it out."""
    if not problem.is_certain:
        return problem
    instead = f"pin another version of {table.title}"
    if problem.fault is Fault.NOT_YET:
        instead = problem.instead.partition(", or ")[0]
    flag = find(table, problem.flag)
    key = table.keys.get(flag.main) if flag is not None else None
    if key is not None and problem.fault is Fault.VALUE:
        instead += f", or write {key} into the mode: {problem.instead}"
    return replace(problem, instead=instead)


def _flags(words: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Yield every flag with its value: true where nothing follows, a list where several words do."""
    name, values = "", list[str]()
    for word in [*words, "-end"]:
        if _FLAG.match(word) is None:
            values.append(word)
            continue
        if name:
            yield name, True if not values else values[0] if len(values) == 1 else list(values)
        flag, sign, value = word.partition("=")
        name, values = flag, [value] if sign else []
