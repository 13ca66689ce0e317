"""Changing words in GRUB's defaults, which are shell scripts: only where one reading is possible; pure.

`/etc/default/grub` is sourced, then every `/etc/default/grub.d/*.cfg`. What we
cannot read with certainty (substitutions, several assignments, values that a
drop-in replaces) is not edited: the person is told which line to change how.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from provisioner.planning.host.preparation.words import HandEdit, WordChanges, with_words
from provisioner.planning.host.steps import GRUB_FILE

DROP_INS = "/etc/default/grub.d/"
ALWAYS, NORMAL = "GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"  # every boot; every boot but recovery

# What a plain value may hold: nothing that a shell would read another meaning into.
_PLAIN = {'"': r'"(?P<v>[^"$`\\\n]*)"', "'": r"'(?P<v>[^'\n]*)'", "": r"(?P<v>[A-Za-z0-9_.,:=/@%+-]*)"}
_BRANCH = r"(if|case|for|while|until|return|exit|exec|eval|function|trap)\b|[{(]|\w+\s*\(\s*\)"
_REST = r"(?P<rest>[ \t]*(?:#.*)?)$"


@dataclass(frozen=True, slots=True)
class _Place:
    """A line that sets a variable."""

    file: str
    number: int
    line: str
    variable: str
    value: str
    """Everything behind the equals sign."""
    is_addition: bool
    """It keeps what was set before it."""

    @property
    def words(self) -> list[str]:
        """Its words, read generously."""
        try:
            text = " ".join(shlex.split(self.value, comments=True))
        except ValueError:
            text = self.value.strip("'\"")
        return [word for word in text.split() if not word.startswith("$")]


def grub_words(files: Mapping[str, str]) -> list[str]:
    """Return the words that GRUB hands to the kernel as far as these files tell; `files` is path to content."""
    return [word for variable in (ALWAYS, NORMAL) for place in _in_force(files, variable) for word in place.words]


def change_grub(files: Mapping[str, str], changes: WordChanges) -> str | None:
    """Return the new content of /etc/default/grub, or None when it is right as it is.

    Raises:
        HandEdit: a change is needed and there is no certain way to make it.
    """
    always, normal = _in_force(files, ALWAYS), _in_force(files, NORMAL)
    words = [word for place in (*always, *normal) for word in place.words]
    missing = [wanted.word for wanted in changes.missing(words)]
    text = files.get(GRUB_FILE)
    new = text
    for variable, places in ((ALWAYS, always), (NORMAL, normal)):
        unwanted = list(dict.fromkeys(word for place in places for word in changes.unwanted(place.words)))
        add = missing if variable == NORMAL else []
        if not unwanted and not add:
            continue
        if new is None:
            problem = f"there is no {GRUB_FILE}, though this machine boots by GRUB"
            raise HandEdit(problem, f"reinstall the package grub-common's defaults, then add {_set(add, unwanted)}")
        place = _editable(files, variable, places, add, unwanted)
        new = _appended(new, variable, add) if place is None else _edited(new, place, add, unwanted)
    return None if new == text else new


def _in_force(files: Mapping[str, str], variable: str) -> list[_Place]:
    """Return the places whose values count: an assignment ends what stood before it, an addition does not."""
    places: list[_Place] = []
    for place in _places(files, variable):
        if not place.is_addition:
            places.clear()
        places.append(place)
    return places


def _places(files: Mapping[str, str], variable: str) -> Iterator[_Place]:
    setter = re.compile(rf"^\s*(?:export\s+)?{variable}(\+?)=(.*)$")
    refers = re.compile(rf"\$(?:{variable}\b|\{{{variable}\}})")
    for file in (GRUB_FILE, *sorted(path for path in files if path.startswith(DROP_INS))):
        for number, line in enumerate(files.get(file, "").split("\n"), 1):
            if match := setter.match(line):
                is_addition = bool(match[1]) or refers.search(match[2]) is not None
                yield _Place(file, number, line, variable, match[2], is_addition)


def _editable(
    files: Mapping[str, str], variable: str, places: list[_Place], add: list[str], unwanted: list[str]
) -> _Place | None:
    """Return the one place to edit, None when the variable is nowhere set. Raises HandEdit."""
    for place in (place for place in places if place.file != GRUB_FILE):
        if not place.is_addition:
            raise _by_hand(place, add, unwanted, f"it replaces what {GRUB_FILE} says")
        if stays := [word for word in unwanted if word in place.words]:
            raise _by_hand(place, [], stays, "it is a file of its own")
    if (hidden := _hidden(files, variable)) is not None:
        raise _by_hand(hidden, add, unwanted, f"it may change {variable}")
    if (trouble := _trouble(files[GRUB_FILE])) is not None:
        number, reason = trouble
        where = _Place(GRUB_FILE, number, files[GRUB_FILE].split("\n")[number - 1], variable, "", is_addition=False)
        raise _by_hand(where, add, unwanted, reason)
    own = list(_places({GRUB_FILE: files[GRUB_FILE]}, variable))
    mentions = _mentions(files[GRUB_FILE], variable)
    if not own and not mentions:
        return None
    if len(own) != 1 or mentions != [own[0].number]:
        number = own[0].number if own else mentions[0]
        line = files[GRUB_FILE].split("\n")[number - 1]
        where = _Place(GRUB_FILE, number, line, variable, "", is_addition=False)
        lines = ", ".join(str(each) for each in mentions)
        raise _by_hand(where, add, unwanted, f"{variable} is mentioned more than once (lines {lines})")
    place = own[0]
    if place.is_addition:
        raise _by_hand(place, add, unwanted, "its value is put together from parts")
    if place.line[:1].isspace():
        raise _by_hand(place, add, unwanted, "it seems to be part of a larger construct")
    if _parts(place) is None:
        raise _by_hand(place, add, unwanted, "a shell may read its value in more than one way")
    return place


def _by_hand(place: _Place, add: list[str], unwanted: list[str], reason: str) -> HandEdit:
    problem = f"{place.file} line {place.number} is not safe to edit by program: {reason}: {place.line.strip()}"
    where = f"{place.file} line {place.number}" if place.variable in place.line else place.file
    return HandEdit(problem, f"in {where} ({place.variable}) {_set(add, unwanted)}, then run update-grub")


def _set(add: list[str], unwanted: list[str]) -> str:
    return " and ".join(f"{verb} {' '.join(words)}" for verb, words in (("add", add), ("remove", unwanted)) if words)


def _hidden(files: Mapping[str, str], variable: str) -> _Place | None:
    """Return a line of a drop-in that names the variable other than by setting it or reading its value."""
    name = re.compile(rf"(?<![\w$])(?<!\$\{{){variable}(?!\w)")
    seen = {(place.file, place.number) for place in _places(files, variable)}
    for file in sorted(path for path in files if path.startswith(DROP_INS)):
        for number, line in enumerate(files[file].split("\n"), 1):
            if not line.lstrip().startswith("#") and name.search(line) and (file, number) not in seen:
                return _Place(file, number, line, variable, "", is_addition=False)
    return None


def _mentions(text: str, variable: str) -> list[int]:
    """Return the numbers of the lines, comments aside, that name the variable."""
    name = re.compile(rf"(?<!\w){variable}(?!\w)")
    lines = enumerate(text.split("\n"), 1)
    return [number for number, line in lines if not line.lstrip().startswith("#") and name.search(line)]


def _trouble(text: str) -> tuple[int, str] | None:
    """Return the first line after which a program cannot tell what a shell makes of the others, and why."""
    for number, line in enumerate(text.split("\n"), 1):
        code = line.strip()
        if code.startswith("#"):
            continue
        if re.match(_BRANCH, code) or "<<" in code:
            return number, "from here on, not every line counts"
        if line.endswith("\\"):
            return number, "it goes on in the next line"
        try:
            shlex.split(line, comments=True)
        except ValueError:
            return number, "a quote that opens here does not close here"
    return None


def _parts(place: _Place) -> tuple[str, str, str, str] | None:
    """Return what stands before the value, the quote, the value, what stands behind it; None if not plain."""
    head = place.line[: len(place.line) - len(place.value)]
    quote = place.value[:1] if place.value[:1] in ("'", '"') else ""
    match = re.match(_PLAIN[quote] + _REST, place.value)
    return None if match is None else (head, quote, match["v"], match["rest"])


def _edited(text: str, place: _Place, add: list[str], unwanted: list[str]) -> str:
    parts = _parts(place)
    assert parts is not None  # noqa: S101 - `_editable` has looked
    head, quote, value, rest = parts
    changed = with_words(value, add, unwanted)
    quote = quote or ('"' if re.search(r"\s", changed) else "")
    lines = text.split("\n")
    lines[place.number - 1] = f"{head}{quote}{changed}{quote}{rest}"
    return "\n".join(lines)


def _appended(text: str, variable: str, add: list[str]) -> str:
    ending = "" if not text or text.endswith("\n") else "\n"
    return f'{text}{ending}{variable}="{" ".join(add)}"\n'
