"""The small frame that rows hang in: figures, results, the table, ``build/bench.json``.

A family measures one or several rows at once and yields a `Result` for each; `rows.FAMILIES` names it in one line.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figures:
    """Samples of one quantity; `seed` is what made their input, where chance did."""

    samples: tuple[float, ...]
    seed: int | None = None

    @classmethod
    def of(cls, samples: Sequence[float], seed: int | None = None) -> Figures:
        """Return figures of at least one sample."""
        if not samples:
            raise ValueError("nothing was measured")
        return cls(tuple(samples), seed)

    def percentile(self, share: int) -> float:
        """Return the smallest sample that `share` percent of all do not exceed."""
        ordered = sorted(self.samples)
        return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]

    @property
    def p50(self) -> float:
        """The sample in the middle."""
        return self.percentile(50)

    def as_dict(self) -> dict[str, object]:
        """Return plain values; one sample is a value and claims no percentiles."""
        seed = {} if self.seed is None else {"seed": self.seed}
        if len(self.samples) == 1:
            return {"value": _short(self.samples[0]), "n": 1, **seed}
        shares = {f"p{share}": _short(self.percentile(share)) for share in (50, 95, 99)}
        return {**shares, "n": len(self.samples), **seed}

    def __str__(self) -> str:
        if len(self.samples) == 1:
            return f"{_short(self.samples[0]):g}"
        return "/".join(f"{_short(self.percentile(share)):g}" for share in (50, 95, 99)) + f" n={len(self.samples)}"


@dataclass(frozen=True, slots=True)
class Result:
    """One row. `met` is None where there is nothing to reach; `note` says what the numbers cannot."""

    name: str
    unit: str
    target: str
    ours: Figures
    peers: Mapping[str, Figures] = field(default_factory=dict)
    met: bool | None = None
    note: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return what stands in ``build/bench.json``."""
        return {
            "name": self.name,
            "unit": self.unit,
            "target": self.target,
            "ours": self.ours.as_dict(),
            "peers": {name: figures.as_dict() for name, figures in self.peers.items()},
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """What a family gets: a folder of its own, the seed of the run, and a way to say what goes on."""

    folder: Path
    seed: int
    say: Callable[[str], None]


Measure = Callable[[Bench], Iterator[Result]]


@dataclass(frozen=True, slots=True)
class Family:
    """Rows that are measured together: ``module:function`` below ``tests.bench``, and how their names begin."""

    where: str
    prefixes: tuple[str, ...]

    def concerns(self, wanted: str) -> bool:
        """Say whether a row that begins with `wanted` may be among them."""
        return any(prefix.startswith(wanted) or wanted.startswith(prefix) for prefix in self.prefixes)

    def measure(self, bench: Bench) -> Iterator[Result]:
        """Measure; the module is imported only now, so that a broken one breaks no other."""
        module, _, function = self.where.partition(":")
        run: Measure = getattr(importlib.import_module(f"tests.bench.{module}"), function)
        return run(bench)


def write(results: Sequence[Result], path: Path) -> None:
    """Write the rows for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([result.as_dict() for result in results], indent=2) + "\n")


def _short(value: float) -> float:
    """Return a value with no more digits than it deserves."""
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")
