"""Which quantisations and number formats an engine's version knows, and the least GPU that computes with them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from provisioner.engines.flags.problems import Fault, FlagProblem
from provisioner.engines.flags.table import FlagTable, Sighting, State, spans_of, table_of
from provisioner.engines.flags.versions import Version

Capability = tuple[int, int]

BFLOAT16_FLOOR: Capability = (8, 0)
"""The first compute capability with bfloat16; vLLM refuses it below (platforms/cuda.py of 0.33.0)."""

NATIVE_FP8_FLOOR: Capability = (8, 9)
"""The first that computes in FP8; below it FP8 weights save memory only."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """One quantisation in one version: whether it is there, and the least capability, None where not known."""

    sighting: Sighting
    capability: Capability | None
    is_fading: bool


def quantization_names(engine: str, version: str) -> tuple[str, ...]:
    """Return the names that a version takes; none where nothing is known."""
    table = table_of(engine)
    at = table.version(version) if table is not None else None
    if table is None or at is None:
        return ()
    names = table.extra.get("quantization", {})
    return tuple(name for name in names if _read(table, at, name).sighting.state is State.HERE)


def quantization_floor(engine: str, version: str, name: str) -> Capability | None:
    """Return the least compute capability for a quantisation, or None where it is not known or there is none."""
    table = table_of(engine)
    at = table.version(version) if table is not None else None
    if table is None or at is None or name not in table.extra.get("quantization", {}):
        return None
    return _read(table, at, name).capability


def check_name(table: FlagTable, version: str, at: Version | None, name: str, value: str) -> Iterator[FlagProblem]:
    """Yield what is wrong with a quantisation's name; plugins may bring names, so an unknown one is only told."""
    known = table.extra.get("quantization", {})
    if at is None or not known:
        return
    which = f"{table.title} {version}"
    if value not in known:
        near = difflib.get_close_matches(value, known, n=2)
        instead = f"did you mean {' or '.join(near)}?" if near else "a quantised checkpoint says itself what it is"
        found = f"{which} knows no quantisation {value} by itself"
        yield FlagProblem(name, Fault.VALUE, found, instead, is_certain=not table.is_past(at))
        return
    found_in = _read(table, at, value)
    if found_in.sighting.state is not State.HERE:
        doubtful = found_in.sighting.state is State.DOUBTFUL
        says = (
            f"whether {which} knows quantisation {value} is not known" if doubtful else f"{which} does not know {value}"
        )
        instead = table.replaced.get(value, "leave quantization out: a quantised checkpoint says itself what it is")
        yield FlagProblem(name, Fault.VALUE, f"{says}: {found_in.sighting.history}", instead, is_certain=not doubtful)
    elif found_in.is_fading:
        yield FlagProblem(
            name,
            Fault.FADING,
            f"quantisation {value} is deprecated in {which}, which takes it only with allow-deprecated-quantization",
            "write allow-deprecated-quantization: true",
            is_certain=False,
        )


def _read(table: FlagTable, at: Version, name: str) -> Quantization:
    places = {each.label: i for i, each in enumerate(table.opened)}
    told = table.extra["quantization"][name]
    capability = None
    for text, spans in told.get("capability", {}).items():
        if table.sighting(spans_of(spans, places), at).state is State.HERE:
            major, _dot, minor = text.partition(".")
            capability = (int(major), int(minor))
    fading = "deprecated" in told and table.sighting(spans_of(told["deprecated"], places), at).state is State.HERE
    return Quantization(table.sighting(spans_of(told.get("seen", ""), places), at), capability, fading)
