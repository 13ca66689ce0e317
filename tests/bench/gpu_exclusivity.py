"""A hundred thousand random schedules around two GPUs that five nodes and a stranger want; counted is what must not be.

Each schedule is made by one number and runs the real services on simulated time (`tests.simulation`). Nobody else
tests this, so there is nobody to compare with.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.bench.harness import Bench, Figures, Result
from tests.simulation.gpu_schedules import SHUTDOWN_SECONDS, run

SCHEDULES = 100_000
_AT_ONCE = 250


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    seeds = range(bench.seed, bench.seed + SCHEDULES)
    bench.say(f"seeds {seeds[0]} to {seeds[-1]}; one again: python -m tests.simulation.gpu_schedules SEED")
    totals: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    late = 0.0
    shares = [seeds[at : at + _AT_ONCE] for at in range(0, SCHEDULES, _AT_ONCE)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for number, (counts, found, latest) in enumerate(pool.map(several, shares), 1):
            totals += counts
            wrong |= found
            for seed, words in found.items():
                bench.say(f"seed {seed}: {words}")
            late = max(late, latest)
            if number % (len(shares) // 10) == 0:
                bench.say(f"{number * _AT_ONCE} schedules: {len(wrong)} wrong")
    note = ", ".join(f"{count} {what}" for what, count in totals.items())
    yield Result(
        "arbiter.gpu_exclusivity",
        "wrong schedules",
        f"0 of {SCHEDULES}",
        Figures.of([float(len(wrong))], bench.seed),
        {},
        not wrong,
        f"{note}; wrong is an overlap by our doing, a slot given away under a VM that we run, a hold broken, a waiter "
        "not told in time, a slot lost for good",
    )
    yield Result(
        "arbiter.longest_wait_beyond_bound",
        "s",
        f"≤ {SHUTDOWN_SECONDS:g}, one shutdown, and a look",
        Figures.of([max(late, 0.0)], bench.seed),
        {},
        late <= SHUTDOWN_SECONDS + 60.0,
        "how much later than its gpu_wait a waiter is granted or told no; a shutdown begun for it is waited for",
    )


def several(seeds: Sequence[int]) -> tuple[Counter[str], dict[int, str], float]:
    """Run some schedules; return their counts, what was wrong by seed, and the latest answer beyond its bound."""
    counts: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    late = 0.0
    for seed in seeds:
        outcome = run(seed)
        counts.update(
            {
                "grants": outcome.granted,
                "joined or running already": outcome.joined,
                "told no": outcome.told,
                "processes killed": outcome.killed,
                "starts": outcome.starts,
                "refused by Proxmox for a stranger's VM": outcome.news,
            }
        )
        if outcome.wrongs:
            wrong[seed] = outcome.wrongs[0]
        late = max(late, outcome.longest_wait)
    return counts, wrong, late
