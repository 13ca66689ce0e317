"""Requests as a person looks back on them: how many, how fast, how they ended, in equal steps of time. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from provisioner.domain.ledger import Outcome, Timing


@dataclass(frozen=True, slots=True)
class Step:
    """One step of time, which `begins` at UNIX seconds.

    `tokens_per_second` is what all nodes together made; `first_byte_seconds` is the median over its requests, without
    what they waited for a wake; None where no request tells.
    """

    begins: float
    requests: int = 0
    failed: int = 0
    tokens_per_second: float = 0.0
    first_byte_seconds: float | None = None


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    failed: int = 0
    tokens: float = 0.0
    first: list[float] = field(default_factory=list)


def steps(timings: Iterable[Timing], *, begins: float, count: int, seconds: float) -> tuple[Step, ...]:
    """Return `count` steps of `seconds` each from `begins` (UNIX seconds) on.

    A request counts where it came; its tokens are spread evenly over the time from its first byte to its end, for an
    answer of five minutes is not the work of one.
    """
    sums = [_Sum() for _ in range(count)]
    for timing in timings:
        index = int((timing.at - begins) // seconds)
        if 0 <= index < count:
            sums[index].requests += 1
            sums[index].failed += timing.outcome is Outcome.FAILED
            if timing.first_byte_seconds is not None and timing.outcome is not Outcome.FAILED:
                sums[index].first.append(max(timing.first_byte_seconds - timing.waited_seconds, 0.0))
        if timing.tokens_out:
            _spread(sums, timing, begins, seconds)
    return tuple(
        Step(
            begins + number * seconds,
            each.requests,
            each.failed,
            each.tokens / seconds,
            median(each.first) if each.first else None,
        )
        for number, each in enumerate(sums)
    )


def _spread(sums: list[_Sum], timing: Timing, begins: float, seconds: float) -> None:
    ended = timing.at + timing.seconds
    began = min(timing.at + (timing.first_byte_seconds or 0.0), ended)
    if ended <= began:
        index = int((ended - begins) // seconds)
        if 0 <= index < len(sums):
            sums[index].tokens += timing.tokens_out or 0
        return
    # By shares and not by a rate, which has no bound when the time has none.
    whole = ended - began
    first = max(int((began - begins) // seconds), 0)
    last = min(int((ended - begins) // seconds), len(sums) - 1)
    for index in range(first, last + 1):
        from_, to = begins + index * seconds, begins + (index + 1) * seconds
        share = max(min(to, ended) - max(from_, began), 0.0) / whole
        sums[index].tokens += share * (timing.tokens_out or 0)


def nice_ceiling(value: float) -> float:
    """Return a round number that is not less: 1, 2 or 5 times a power of ten; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(power * each for each in (1, 2, 5, 10) if power * each >= value * (1 - 1e-9))
