"""How long something takes: a number of seconds, or a distribution drawn from the plan's own dice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

KINDS = ("uniform", "exponential", "lognormal", "one_of")


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds, drawn anew each time."""

    draw: Callable[[Random], float]

    @classmethod
    def read(cls, value: object) -> Delay:
        """Make a delay of what a rule says. Raises ValueError that says what is allowed."""
        if _is_seconds(value):
            seconds = float(value)  # type: ignore[arg-type]
            return cls(lambda dice: seconds)
        if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in KINDS:
            raise ValueError(f"seconds, or a mapping with one of {', '.join(KINDS)}")
        (kind, given), *_ = value.items()
        return cls(_READERS[str(kind)](given))


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _uniform(given: object) -> Callable[[Random], float]:
    low, high = _numbers(given, 2, "uniform: [LOW, HIGH]")
    return lambda dice: dice.uniform(low, high)


def _exponential(given: object) -> Callable[[Random], float]:
    (mean,) = _numbers([given], 1, "exponential: MEAN")
    return lambda dice: dice.expovariate(1 / mean) if mean else 0.0


def _lognormal(given: object) -> Callable[[Random], float]:
    if not isinstance(given, Mapping) or set(given) != {"median", "sigma"}:
        raise ValueError("lognormal: {median: SECONDS, sigma: NUMBER}")
    median, sigma = _numbers([given["median"], given["sigma"]], 2, "lognormal: {median: SECONDS, sigma: NUMBER}")
    return lambda dice: dice.lognormvariate(math.log(median), sigma) if median else 0.0


def _one_of(given: object) -> Callable[[Random], float]:
    choices = _numbers(given, None, "one_of: [SECONDS, ...]")
    return lambda dice: dice.choice(choices)


def _numbers(given: object, count: int | None, allowed: str) -> list[float]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ValueError(allowed)
    if (count is not None and len(given) != count) or not all(_is_seconds(each) for each in given):
        raise ValueError(f"{allowed}, none of them negative")
    return [float(each) for each in given]


_READERS: Mapping[str, Callable[[object], Callable[[Random], float]]] = {
    "uniform": _uniform,
    "exponential": _exponential,
    "lognormal": _lognormal,
    "one_of": _one_of,
}
