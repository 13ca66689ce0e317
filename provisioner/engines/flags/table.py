"""What is known of an engine's flags: which were in which of its versions, as far as somebody looked.

One file per engine under ``data/`` holds it, with its sources. A version is
*opened* when its flags were read from the published thing itself. Of a version
between two opened ones as much is said as both agree on, and no more.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from provisioner.engines.flags.versions import Version, version_of

FILES = {
    "vllm": "vllm.toml",
    "llama.cpp": "llama-cpp.toml",
    "tgi": "tgi.toml",
    "ollama": "ollama.toml",
    "exo": "exo.toml",
    "open-webui": "open-webui.toml",
}
"""The engines that there is a table of, by the names of the fleet file."""

Span = tuple[int, int]
"""From one opened version to another, both included, by their places in the table."""


class Takes(Enum):
    """What follows a flag."""

    SWITCH = "switch"
    ONE = "one"
    MANY = "many"
    OPTIONAL = "optional"


class State(Enum):
    """Whether a version has a flag."""

    HERE = "here"
    GONE = "gone"
    NOT_YET = "not yet"
    DOUBTFUL = "doubtful"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Opened:
    """A version that was looked into. Of a bare commit no more is known than which builds it lies between."""

    label: str
    low: Version
    high: Version

    def __str__(self) -> str:
        if self.low == self.high:
            return self.label
        return f"{self.label} (a build from {self.low} to {self.high})"


@dataclass(frozen=True, slots=True)
class Flag:
    """One name of a flag or variable. `main` is the name it is best known by, itself or another.

    `values` are those that the engine accepts, each with the versions that had
    it; in versions outside `checked` it accepts others too. In `bare` versions
    it takes no value, whatever it takes in others. `shown` are the
    versions whose help lists it. `negates` means that it switches `main` off.
    """

    name: str
    main: str
    takes: Takes
    seen: tuple[Span, ...]
    shown: tuple[Span, ...]
    negates: bool = False
    values: Mapping[str, tuple[Span, ...]] = field(default_factory=lambda: MappingProxyType({}))
    checked: tuple[Span, ...] = ()
    bare: tuple[Span, ...] = ()
    type: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is known of one thing in one version.

    `last`, `gone_by` and `since` are opened versions, "" for none; `sure` is the
    first version to have it for certain.
    """

    state: State
    last: str = ""
    gone_by: str = ""
    since: str = ""
    sure: str = ""

    @property
    def history(self) -> str:
        """When it was there, as words."""
        if self.last and self.gone_by:
            return f"last seen in {self.last}, gone by {self.gone_by}"
        return f"first seen in {self.since}" if self.since else ""


@dataclass(frozen=True, slots=True)
class FlagTable:
    """All that is known of one engine's flags.

    Texts by the name of a flag: `replaced` says what took the place of one that
    is gone, `foreign` what this engine has instead of another engine's flag,
    `ours` why a mode must not set it, `keys` which key of a mode sets it,
    `fading` since when what is announced. `together` are pairs that exclude each other.
    `called` are other names of versions. `prefix` begins the variables that are
    this engine's alone; of others nothing is known.
    """

    engine: str
    title: str
    opened: tuple[Opened, ...]
    flags: Mapping[str, Flag]
    replaced: Mapping[str, str]
    foreign: Mapping[str, str]
    ours: Mapping[str, str]
    keys: Mapping[str, str]
    fading: Mapping[str, tuple[str, str]]
    together: tuple[tuple[str, str, str], ...]
    called: Mapping[str, str]
    prefix: str
    extra: Mapping[str, Any]

    def version(self, text: str) -> Version | None:
        """Read a version of this engine, by any name it goes by; None for one that nothing is known of."""
        text = self.called.get(text, text)
        builds = re.fullmatch(r"b\d+", self.opened[-1].label) is not None
        return None if builds and "." in text else version_of(text)

    @property
    def newest(self) -> str:
        """The newest version that was opened."""
        return self.opened[-1].label

    def sighting(self, spans: tuple[Span, ...], version: Version) -> Sighting:
        """Say whether something that was seen in `spans` is in a version."""
        before = max((i for i, each in enumerate(self.opened) if each.high <= version), default=None)
        after = min((i for i, each in enumerate(self.opened) if each.low >= version), default=None)
        there_before, there_after = _within(before, spans), _within(after, spans)
        last = max((end for _start, end in spans if before is not None and self.opened[end].low <= version), default=-1)
        since = min((start for start, _end in spans if self.opened[start].high > version), default=-1)
        told = {
            "last": str(self.opened[last]) if last >= 0 else "",
            "gone_by": str(self.opened[last + 1]) if 0 <= last < len(self.opened) - 1 else "",
            "since": str(self.opened[since]) if since >= 0 else "",
            "sure": _sure(self.opened[since]) if since >= 0 else "",
        }
        absent = State.GONE if last >= 0 else State.NOT_YET if since >= 0 else State.NEVER
        if before is not None and after is not None:
            if there_before and there_after:
                return Sighting(State.HERE)
            return Sighting(State.DOUBTFUL if there_before or there_after else absent, **told)
        if before is not None:
            # Newer than all that was looked into: what was there is expected to have stayed.
            return Sighting(State.HERE) if there_before else Sighting(absent, **told)
        # Older than all: what came later may have been there in another form.
        return Sighting(State.HERE) if there_after else Sighting(State.DOUBTFUL, **told)

    def is_past(self, version: Version) -> bool:
        """Say that a version is newer than all that were opened."""
        return version > self.opened[-1].high

    def names_in(self, version: Version) -> tuple[str, ...]:
        """Return every name that a version takes."""
        return tuple(name for name, flag in self.flags.items() if self.sighting(flag.seen, version).state is State.HERE)


def spans_of(text: str, places: Mapping[str, int]) -> tuple[Span, ...]:
    """Read ``0.8.5..0.17.1, 0.33.0..``; no text is always."""
    if not text:
        return ((0, len(places) - 1),)
    spans = []
    for part in text.split(","):
        start, _dots, end = part.strip().partition("..")
        spans.append((places[start] if start else 0, places[end] if end else len(places) - 1))
    return tuple(spans)


@cache
def table_of(engine: str) -> FlagTable | None:
    """Return an engine's table, or None for an engine that has none."""
    file = FILES.get(engine)
    if file is None:
        return None
    data = tomllib.loads((resources.files(__package__ or "provisioner.engines.flags") / "data" / file).read_text())
    opened = tuple(_opened(each) for each in data["opened"])
    places = {each.label: at for at, each in enumerate(opened)}
    pairs_since = places.get(data.get("pairs_since", ""), len(opened))
    flags: dict[str, Flag] = {}
    for name, told in data.get("flags", {}).items():
        for flag in _flags(name, told, places, pairs_since):
            # A name that was dropped may come back as another flag's opposite: the later meaning, both times.
            same = flags.get(flag.name)
            flags[flag.name] = flag if same is None else _joined(same, flag)
    for name, flag in flags.items():
        if flag.main != name and not flag.negates:
            flags[name] = _like(flags[flag.main], flag)
    return FlagTable(
        engine=data["engine"],
        title=data["title"],
        opened=opened,
        flags=MappingProxyType(flags),
        replaced=data.get("replaced", {}),
        foreign=data.get("foreign", {}),
        ours=data.get("ours", {}),
        keys=data.get("keys", {}),
        fading={name: (since, text) for name, (since, text) in data.get("fading", {}).items()},
        called=data.get("called", {}),
        prefix=data.get("prefix", ""),
        together=tuple((a, b, why) for a, b, why in data.get("together", [])),
        extra=MappingProxyType({key: data[key] for key in ("quantization", "requires") if key in data}),
    )


def _sure(opened: Opened) -> str:
    return opened.label if opened.low == opened.high else str(opened.high)


def _like(main: Flag, flag: Flag) -> Flag:
    """Return another name of a flag, which takes what the flag takes."""
    return replace(
        flag,
        values=flag.values or main.values,
        checked=flag.checked or main.checked,
        bare=flag.bare or main.bare,
        type=flag.type or main.type,
    )


def _joined(one: Flag, other: Flag) -> Flag:
    later, earlier = (one, other) if one.seen[-1] > other.seen[-1] else (other, one)
    return replace(
        later, seen=tuple(sorted(earlier.seen + later.seen)), shown=tuple(sorted(earlier.shown + later.shown))
    )


def _opened(told: str | list[str]) -> Opened:
    label, low, high = (told, told, told) if isinstance(told, str) else told
    first, last = version_of(low), version_of(high)
    if first is None or last is None:
        raise ValueError(f"no version: {told}")
    return Opened(label, first, last)


def _flags(name: str, told: Mapping[str, Any], places: Mapping[str, int], pairs_since: int) -> Iterator[Flag]:
    seen = spans_of(told.get("seen", ""), places)
    given = told.get("values", ())
    values = {value: spans_of(told["values"][value], places) if isinstance(given, dict) else seen for value in given}
    flag = Flag(
        name=name,
        main=told.get("of", name),
        takes=Takes(told["takes"]),
        seen=seen,
        shown=() if told.get("shown") == "never" else spans_of(told["shown"], places) if "shown" in told else seen,
        negates=told.get("negates", False),
        values=MappingProxyType(values),
        checked=(spans_of(told["checked"], places) if "checked" in told else seen) if values else (),
        bare=spans_of(told["bare"], places) if "bare" in told else (),
        type=told.get("type", ""),
    )
    yield flag
    aliases = told.get("aliases", ())
    for alias in aliases:
        there = spans_of(aliases[alias], places) if isinstance(aliases, dict) else seen
        yield replace(flag, name=alias, seen=there, shown=there)
    if "no" in told:
        spans = spans_of(told["no"], places) if told["no"] else seen
        yield Flag(f"--no-{name[2:]}", name, Takes.SWITCH, spans, spans, negates=True)
        yield from _paired(name, spans, pairs_since)


def _paired(name: str, spans: tuple[Span, ...], since: int) -> Iterator[Flag]:
    """Yield the opposite of ``--enable-x`` or ``--disable-x``, where an engine pairs the two from some version on."""
    later = tuple((max(start, since), end) for start, end in spans if end >= since)
    for one, other in (("--enable-", "--disable-"), ("--disable-", "--enable-")):
        if later and name.startswith(one):
            yield Flag(other + name.removeprefix(one), name, Takes.SWITCH, later, later, negates=True)


def _within(at: int | None, spans: tuple[Span, ...]) -> bool:
    return at is not None and any(start <= at <= end for start, end in spans)
