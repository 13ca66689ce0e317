"""From nothing to so many running VMs: ours and others on the same lab, with the same task latencies.

Each run has a lab of its own, drawn from a seed of its own; every client meets the same seeds. Ours is measured until
the last VM runs, which is where the others stop; it has uploaded a seed ISO and grown a disk by then, they have not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from provisioner.adapters.proxmox.vm_calls import MOST_COPIES_AT_ONCE
from provisioner.fleet import _MOST_NODES_AT_ONCE as MOST_NODES_AT_ONCE
from tests.bench.clients import Cost, collection, ours, sequential
from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import LabSite, Latencies, lab_site, vmids
from tests.peers import collection_version

MOST_OVER_CRITICAL_PATH = 1.2
ALONE = "critical path"

Client = Callable[[LabSite, Sequence[int]], Cost]


@dataclass(frozen=True)
class Contest:
    """Who runs how often. Others take minutes where we take seconds, so they run less often; n says it."""

    nodes: int
    rounds: int
    others: dict[str, tuple[Client, int]] = field(default_factory=dict)


def one(bench: Bench) -> Iterator[Result]:
    """One node."""
    return _measured(bench, Contest(1, 5, {**_collection({5: 3}), "proxmoxer, one by one": (sequential.run, 3)}))


def ten(bench: Bench) -> Iterator[Result]:
    """Ten nodes."""
    others = {**_collection({5: 1, 32: 1}), "proxmoxer, one by one": (sequential.run, 1)}
    return _measured(bench, Contest(10, 5, others))


def hundred(bench: Bench) -> Iterator[Result]:
    """A hundred nodes; five at once the collection takes three minutes and more for them, one by one it is ten."""
    return _measured(bench, Contest(100, 3, _collection({32: 1})))


def _collection(rounds: dict[int, int]) -> dict[str, tuple[Client, int]]:
    if collection_version() is None:
        return {}

    def with_forks(forks: int) -> Client:
        return lambda site, ids: collection.play(site, ids, forks)

    return {f"community.proxmox, {forks} forks": (with_forks(forks), times) for forks, times in rounds.items()}


def _measured(bench: Bench, contest: Contest) -> Iterator[Result]:
    ids = vmids(contest.nodes)
    latencies = [Latencies.drawn(bench.seed + number, contest.nodes) for number in range(contest.rounds)]
    running: list[Cost] = []
    proved: list[Cost] = []
    for number, drawn in enumerate(latencies):
        with lab_site(bench.folder / f"ours-{number}", contest.nodes, drawn) as site:
            until_running, until_proved = ours.up(site)
            site.require_running(ids)
        running.append(until_running)
        proved.append(until_proved)
        bench.say(f"ours, {contest.nodes} nodes: {until_running.wall:.2f} s, proved {until_proved.wall:.2f} s")
    others: dict[str, list[Cost]] = {}
    for name, (client, times) in contest.others.items():
        for number, drawn in enumerate(latencies[:times]):
            with lab_site(bench.folder / f"{len(others)}-{number}", contest.nodes, drawn) as site:
                others.setdefault(name, []).append(client(site, ids))
                site.require_running(ids)
            bench.say(f"{name}, {contest.nodes} nodes: {others[name][-1].wall:.2f} s")
    paths = [drawn.critical_path(MOST_NODES_AT_ONCE, MOST_COPIES_AT_ONCE) for drawn in latencies]
    ratios = Figures.of([cost.wall / path for cost, path in zip(running, paths, strict=True)], bench.seed)
    row = f"provisioning.nodes_{contest.nodes}"
    yield Result(
        f"{row}.over_critical_path",
        "x",
        f"<= {MOST_OVER_CRITICAL_PATH}",
        ratios,
        {
            name: Figures.of([c.wall / path for c, path in zip(costs, paths, strict=False)], bench.seed)
            for name, costs in others.items()
        },
        ratios.p50 <= MOST_OVER_CRITICAL_PATH,
        f"over what Proxmox alone needs with {MOST_NODES_AT_ONCE} nodes and {MOST_COPIES_AT_ONCE} creates at once",
    )
    yield Result(
        f"{row}.wall",
        "s",
        "",
        Figures.of([cost.wall for cost in running], bench.seed),
        {
            ALONE: Figures.of(paths, bench.seed),
            "ours, with guest, engine and proof": Figures.of([cost.wall for cost in proved], bench.seed),
            **_of(others, lambda cost: cost.wall, bench.seed),
        },
    )
    for what, unit, read in (
        ("api_calls", "calls", lambda cost: float(cost.calls)),
        ("cpu", "s", lambda cost: cost.cpu),
        ("memory", "MiB", lambda cost: cost.memory),
    ):
        yield Result(
            f"{row}.{what}", unit, "", Figures.of([read(c) for c in running], bench.seed), _of(others, read, bench.seed)
        )


def _of(others: dict[str, list[Cost]], read: Callable[[Cost], float], seed: int) -> dict[str, Figures]:
    return {name: Figures.of([read(cost) for cost in costs], seed) for name, costs in others.items()}
