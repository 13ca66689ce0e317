"""One node at tasks of no length: how often Proxmox is asked, and how long we wait on our own account.

Our own waiting is the wall time from the start of the process until the VM runs, less the time in which the lab was
answering: start-up, planning, pauses between looks at a task, TLS, all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.bench.clients import Cost, collection, ours, sequential
from tests.bench.harness import Bench, Figures, Result
from tests.bench.lab_site import LabSite, lab_site, vmids
from tests.peers import collection_version

MOST_CALLS = 12
MOST_WAITING_SECONDS = 2.0
ROUNDS = 3


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    clients: dict[str, Callable[[LabSite], Cost]] = {
        "ours": lambda site: ours.up(site)[0],
        "proxmoxer, one by one": lambda site: sequential.run(site, vmids(1)),
    }
    if collection_version() is not None:
        clients["community.proxmox"] = lambda site: collection.play(site, vmids(1), 5)
    costs: dict[str, list[Cost]] = {name: [] for name in clients}
    for name, run in clients.items():
        for number in range(ROUNDS):
            with lab_site(bench.folder / f"{len(costs)}-{name[:4]}-{number}", 1) as site:
                costs[name].append(run(site))
                site.require_running(vmids(1))
    mine = costs.pop("ours")
    calls = Figures.of([float(cost.calls) for cost in mine])
    yield Result(
        "provisioning.api_calls_create_start",
        "calls",
        f"<= {MOST_CALLS}",
        calls,
        {name: Figures.of([float(cost.calls) for cost in each]) for name, each in costs.items()},
        max(calls.samples) <= MOST_CALLS,
        "ours with a seed ISO and a grown disk, the others without",
    )
    waiting = Figures.of([cost.wall - cost.answering for cost in mine])
    yield Result(
        "provisioning.own_waiting_create_start",
        "s",
        f"<= {MOST_WAITING_SECONDS:g}",
        waiting,
        {name: Figures.of([cost.wall - cost.answering for cost in each]) for name, each in costs.items()},
        max(waiting.samples) <= MOST_WAITING_SECONDS,
    )
