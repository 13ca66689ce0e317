"""Reads what an installed engine says of itself, and holds a mode's arguments against it.

The tables are what was published; an engine may have been built another way.
Which command prints all flags has changed too: vLLM prints only the names of
groups for ``--help`` since 0.11, and between 0.9 and 0.10 it prints those
flags that contain a word, which a hyphen is part of for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from provisioner.engines.flags.names import find, is_unjudged, spelled
from provisioner.engines.flags.problems import Fault, FlagProblem
from provisioner.engines.flags.table import Flag, FlagTable, State, table_of
from provisioner.engines.flags.versions import version_of

FOLDER, IMAGE = "{folder}", "{image}"
"""What the caller fills in: where an engine's software lies, and its container image."""

_NAME = re.compile(r"(?<![\w-])--?[A-Za-z][A-Za-z0-9_.-]*")
_BRACES = re.compile(r"\{([^{}]*)\}")
# llama.cpp lists on and off only, and takes these as well (tried on b11669).
_YES_AND_NO = ("true", "false", "1", "0", "enabled", "disabled")
_BOX = "│┃|"
_REMOVED = "the argument has been removed"


@dataclass(frozen=True, slots=True)
class HelpFlag:
    """One name in an engine's help. `choices` are the words it lists; `removed` is its text on one that is gone."""

    name: str
    choices: tuple[str, ...] = ()
    removed: str = ""


@dataclass(frozen=True, slots=True)
class HelpText:
    """All names that a help text tells of; empty where it is no help text."""

    flags: Mapping[str, HelpFlag] = field(default_factory=lambda: MappingProxyType({}))

    def __contains__(self, name: object) -> bool:
        return name in self.flags


def help_command(engine: str, version: str) -> tuple[str, ...]:
    """Return the command that prints all flags of an installed engine; () for one without such a command.

    The words may hold `FOLDER` or `IMAGE`. vLLM looks for a GPU first and fails
    where it finds none, and takes half a minute.
    """
    match engine:
        case "vllm":
            return (f"{FOLDER}/bin/vllm", "serve", _vllm_help(version))
        case "llama.cpp":
            return (f"{FOLDER}/llama-server", "--help")
        case "tgi":
            return ("/usr/bin/docker", "run", "--rm", IMAGE, "--help")
        case "ollama":
            return (f"{FOLDER}/bin/ollama", "serve", "--help")
        case "exo":
            return (f"{FOLDER}/.venv/bin/exo", "--help")
        case "open-webui":
            return (f"{FOLDER}/bin/open-webui", "serve", "--help")
        case _:
            return ()


def told_by_help(engine: str, arguments: Mapping[str, object]) -> dict[str, object]:
    """Return those of a mode's arguments that an engine's help can tell anything of; {} where it cannot be asked."""
    table = table_of(engine)
    if table is None or not help_command(engine, ""):
        return {}
    return {name: value for name, value in arguments.items() if not is_unjudged(table, name)}


def flags_in_help(engine: str, version: str, text: str) -> HelpText:
    """Return what a help text tells of, by every name it gives; of Ollama its variables."""
    read = _variables if engine == "ollama" else _flags
    # vLLM ends with an example on flags that take documents; that one is no flag.
    listed = {flag.name: flag for flag in read(text) if not flag.name.startswith("--json-arg")}
    return HelpText(MappingProxyType(listed))


def contradictions(
    engine: str, version: str, arguments: Mapping[str, object], help_text: str
) -> tuple[FlagProblem, ...]:
    """Return where a mode's arguments and the installed engine's own help do not agree.

    Args:
        engine: as the fleet file calls it.
        version: as the fleet file pins it.
        arguments: flags without their dashes, variables in capitals.
        help_text: what `help_command` printed.
    """
    table = table_of(engine)
    if table is None or not arguments:
        return ()
    told = flags_in_help(engine, version, help_text)
    which = f"the installed {table.title}"
    if not told.flags:
        first = next((line for line in reversed(help_text.splitlines()) if line.strip()), "nothing")
        found = f"{which} did not list its flags; it said: {first.strip()[:200]}"
        return (FlagProblem("", Fault.UNREADABLE, found, "run its help by hand in the guest", is_certain=False),)
    return tuple(
        problem for name, value in arguments.items() for problem in _against(table, version, which, told, name, value)
    )


def _against(
    table: FlagTable, version: str, which: str, told: HelpText, name: str, value: object
) -> Iterator[FlagProblem]:
    plain = spelled(table, name).partition(".")[0].removesuffix("+")
    flag = find(table, name)
    if flag is None and is_unjudged(table, name):
        return
    shown = _listed(told, plain, flag)
    if shown is None:
        if value is False or _is_hidden(table, version, flag):
            return
        instead = (table.replaced.get(plain) or "") if flag is not None else ""
        yield FlagProblem(
            name, Fault.UNKNOWN, f"{which} does not list {plain} in its own help", instead or "take it out of the mode"
        )
    elif shown.removed:
        yield FlagProblem(name, Fault.REMOVED, f"{which} says of {plain}: {shown.removed}", "")
    elif shown.choices and not isinstance(value, (bool, dict)):
        for each in value if isinstance(value, list) else [value]:
            if not _is_listed(str(each), shown.choices):
                found = f"{which} does not take {plain} {each}"
                yield FlagProblem(name, Fault.VALUE, found, f"one of: {', '.join(shown.choices)}")


def _is_listed(value: str, choices: tuple[str, ...]) -> bool:
    # Some take several words with commas between them, and list the words alone.
    return all(part in choices for part in value.split(",")) or ("on" in choices and value in _YES_AND_NO)


def _listed(told: HelpText, name: str, flag: Flag | None) -> HelpFlag | None:
    """Return what the help says of a name, or of the flag that it is another name or the opposite of."""
    for each in (name, flag.name if flag is not None else "", name.replace("--no-", "--", 1)):
        if each in told:
            return told.flags[each]
    return None


def _is_hidden(table: FlagTable, version: str, flag: Flag | None) -> bool:
    """Say that a version has a flag and is known to keep it out of its help, or may do so as others do."""
    at = table.version(version)
    if flag is not None and (at is None or table.is_past(at)):
        return flag.shown != flag.seen
    if flag is None or at is None or table.sighting(flag.seen, at).state is not State.HERE:
        return False
    return not flag.shown or table.sighting(flag.shown, at).state is not State.HERE


def _vllm_help(version: str) -> str:
    at = version_of(version)
    if at is None or at.numbers >= (0, 11):
        return "--help=all"
    return "--help=-" if at.numbers >= (0, 9) else "--help"


def _flags(text: str) -> Iterator[HelpFlag]:
    """Read entries: a line that begins with a flag names it, and its spellings, up to the words that explain it."""
    names: list[str] = []
    entry: list[str] = []
    for raw in [*text.splitlines(), "-"]:
        line = raw.strip().strip(_BOX).rstrip()
        head = line.lstrip(_BOX + "* ").strip() if raw.strip()[:1] in _BOX else line.strip()
        # What follows a flag's column is deep inside the line; only the outermost hyphens begin an entry.
        if not re.match(r"--?[A-Za-z]", head) and raw != "-":
            entry.append(head)
            continue
        if raw != "-" and len(raw) - len(raw.lstrip()) > 8 and names:
            entry.append(head)
            continue
        yield from _entry(names, entry)
        column = re.split(r"\s{2,}(?=[^\s<\[{-])", head.replace(",  ", ", "), maxsplit=1)
        # llama.cpp sets its short names two spaces apart from the long ones.
        names = _names(column[0])
        entry = [head]


def _entry(names: list[str], lines: list[str]) -> Iterator[HelpFlag]:
    whole = " ".join(lines)
    removed = whole[whole.index(_REMOVED) :].partition(" (env")[0].partition("  ")[0] if _REMOVED in whole else ""
    choices = _choices(whole)
    for name in names:
        yield HelpFlag(name, choices, removed)


def _names(column: str) -> list[str]:
    return [name.rstrip(".,") for name in _NAME.findall(_BRACES.sub(" ", column))]


def _choices(entry: str) -> tuple[str, ...]:
    """Return the words of ``{a,b}`` behind a flag, of ``[possible values: a, b]``, or of ``[on|off|auto]``."""
    listed = re.search(r"\[possible values: ([^\]]+)\]", entry)
    if listed is not None:
        return tuple(each.strip() for each in listed[1].split(","))
    braces = re.match(r"(?:--?[\w.-]+,?\s+|\S+ [A-Z_]+,\s+)*?--?[\w.-]+,?\s+\{([^{}]+)\}(?!\s+or\b)", entry)
    if braces is not None:
        return tuple(each.strip() for each in braces[1].split(",") if each.strip())
    words = re.match(r"(?:--?[\w-]+,?\s+)+\[([a-z]+(?:\|[a-z]+)+)\]", entry)
    return tuple(words[1].split("|")) if words is not None else ()


def _variables(text: str) -> Iterator[HelpFlag]:
    """Read the list under "Environment Variables:"."""
    _before, mark, rest = text.partition("Environment Variables:")
    for line in rest.splitlines() if mark else []:
        found = re.match(r"\s+([A-Z][A-Z0-9_]+)(?:\s{2,}|$)", line)
        if found is not None:
            yield HelpFlag(found[1])
