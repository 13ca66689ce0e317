"""The page of metrics for a fleet of a thousand nodes, every one awake, with a card and with requests behind it.

Processor time: the thread that writes it does nothing else, and waits for nobody.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from provisioner.domain.gauge import EngineNumbers, GuestGauge
from provisioner.domain.gpu_reading import GpuReading
from provisioner.domain.ledger import LedgerEntry, Outcome
from provisioner.domain.names import NodeName
from provisioner.domain.node_sample import DiskRoom, GuestNumbers
from provisioner.domain.savings import CountedTime
from provisioner.domain.serving import Phase
from provisioner.domain.timings import Timings
from provisioner.metrics.page import MetricsPage, Sources
from provisioner.metrics.process import process_figures
from provisioner.metrics.requests import RequestCounts
from provisioner.metrics.tally import Tally
from provisioner.services.gauging import Gauging
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.time_counting import TimeCounting
from provisioner.services.use_looks import UseLooks
from tests.bench.harness import Bench, Figures, Result
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

NODES, MOST_SECONDS, ROUNDS = 1_000, 0.2, 20
GIB = 1 << 30
_CARD = GpuReading(
    index=0,
    uuid="GPU-5f1e0000",
    name="NVIDIA GeForce RTX 3090",
    driver_version="580.173.02",
    memory_bytes=24 * GIB,
    memory_used_bytes=18 * GIB,
    utilization_percent=37.5,
    temperature_celsius=61.0,
    power_watts=288.41,
    power_limit_watts=350.0,
)


def measure(bench: Bench) -> Iterator[Result]:
    """Measure."""
    page = _page(bench)
    size = len(page.text())
    ours = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        text = page.text()
        ours.append(time.thread_time() - began)
    theirs = [_as_prometheus_client_writes(text.decode()) for _ in range(3)]
    figures = Figures.of(ours)
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    yield Result(
        "metrics.thousand_nodes",
        "s",
        f"<= {MOST_SECONDS:g}",
        figures,
        {"prometheus_client writing the same samples": Figures.of(theirs)},
        met=figures.p50 <= MOST_SECONDS,
        note=f"{series} series, {size / 1e6:.1f} MB; every node awake with a card and requests",
    )


def _page(bench: Bench) -> MetricsPage:
    head = FLEET[: FLEET.index("  llm-gpu-01:")]
    lines = [
        f"  n{number}: {{hypervisor: pve1, modes: [small], vmid: {10_000 + number}, gateway: 10.0.0.1, "
        f"address: 10.1.{number // 250}.{1 + number % 250}/8}}\n"
        for number in range(NODES)
    ]
    fleet = fleet_from(bench.folder, head + "".join(lines))
    world, tally, counts = FakeWorld(), Tally(), RequestCounts()
    keeper = Keeper(fleet, world, Journal(world.events, world.clock))
    gauging = Gauging(fleet, world, keeper, UseLooks(fleet, world))
    counting = TimeCounting(fleet, world, keeper, gauging)
    numbers = GuestNumbers(0.42, 12 * GIB, 48 * GIB, (DiskRoom("/", 64 * GIB, 20 * GIB),))
    for number, name in enumerate(fleet.nodes):
        keeper.found(name, Phase.READY, "its model has answered", "http://10.0.0.1:8080")
        gauging._found[name] = GuestGauge(
            world.clock.monotonic(), numbers, (_CARD,), (), False, EngineNumbers(1, 0, 5.0)
        )
        world.in_flight.enter(name, world.clock.now())
        entry = LedgerEntry(0.0, "n8n", "/v1", "gemma", Outcome.ANSWERED, 200, 0.1 * (number % 90), NodeName(name),
                            first_byte_seconds=0.2, tokens_in=100, tokens_out=200)  # fmt: skip
        counts.add(entry)
        counts.add(replace(entry, outcome=Outcome.FAILED))
    hours = CountedTime(1e5, 2e5, 2e5, 10.0, 9e4, 2.5e7, 3e4, 1e6)
    world.times.add(world.clock.now(), dict.fromkeys(fleet.nodes, hours))
    return MetricsPage(
        Sources(
            fleet,
            world,
            keeper,
            world.in_flight,
            gauging,
            counting,
            counts,
            tally,
            Timings(),
            Timings(),
            "1",
            lambda: dict.fromkeys(fleet.nodes, world.clock.now() - 60.0),
            lambda: dict.fromkeys(fleet.nodes, "stay"),
            process=process_figures,
        )
    )


def _as_prometheus_client_writes(text: str) -> float:
    """Return how long its own writer takes for the same families, which are made beforehand."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.parser import text_string_to_metric_families
    from prometheus_client.registry import Collector

    families = list(text_string_to_metric_families(text))

    class Made(Collector):
        def collect(self):  # type: ignore[no-untyped-def]
            return families

    registry = CollectorRegistry()
    registry.register(Made())
    began = time.thread_time()
    generate_latest(registry)
    return time.thread_time() - began
