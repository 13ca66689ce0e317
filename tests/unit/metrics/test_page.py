"""The page of metrics, over fakes that keep state, as prometheus_client reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.ledger import LedgerEntry, Outcome
from provisioner.domain.names import NodeName
from provisioner.domain.orchestrator import OrchestratorName, Registration
from provisioner.domain.timings import Timings
from provisioner.errors import InputError
from provisioner.metrics.page import MetricsPage, Sources
from provisioner.metrics.process import process_figures
from provisioner.metrics.requests import RequestCounts
from provisioner.metrics.table import COUNTER, TABLE
from provisioner.metrics.tally import Tally
from provisioner.services.arbitration import Arbitration
from provisioner.services.events import ignore
from provisioner.services.gauging import Gauging
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.provisioning import Provisioning
from provisioner.services.time_counting import TimeCounting
from provisioner.services.use_looks import UseLooks
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

ONE, TWO = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")
TEXT = (
    FLEET + "electricity: {price: 0.30 EUR/kWh}\norchestrators: {prometheus: {targets_file: /etc/prometheus/g.json}}\n"
)
GIB = 1 << 30
Key = tuple[str, frozenset[tuple[str, str]]]


class Site:
    """A fleet whose first node serves, with everything that the service has beside it."""

    def __init__(self, folder: Path) -> None:
        self.fleet = fleet_from(folder, TEXT)
        self.world = FakeWorld()
        Provisioning(self.fleet, self.world).up(self.fleet.nodes[ONE], ignore)
        self.tally, self.loops, self.calls, self.requests = Tally(), Timings(), Timings(), RequestCounts()
        journal = Journal(self.world.events, self.world.clock, self.tally.see)
        self.keeper = Keeper(self.fleet, self.world, journal)
        self.gauging = Gauging(self.fleet, self.world, self.keeper, UseLooks(self.fleet, self.world))
        self.counting = TimeCounting(self.fleet, self.world, self.keeper, self.gauging)
        self.quiet: dict[NodeName, float] = {}
        self.verdicts: dict[NodeName, str] = {}
        self.page = MetricsPage(
            Sources(
                self.fleet,
                self.world,
                self.keeper,
                self.world.in_flight,
                self.gauging,
                self.counting,
                self.requests,
                self.tally,
                self.loops,
                self.calls,
                "1.2.3",
                lambda: self.quiet,
                lambda: self.verdicts,
            )
        )
        self.turn(0.0)

    def turn(self, seconds: float = 5.0) -> None:
        self.world.clock.sleep(seconds)
        self.keeper.look()
        self.counting.turn()

    def gauge(self) -> None:
        self.gauging._found[ONE] = self.gauging.look(self.keeper.of(ONE).node)

    def samples(self) -> dict[Key, float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.page.text().decode())
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples().get((f"provisioner_{name}", frozenset(labels.items())))

    def labels(self, name: str) -> list[Mapping[str, str]]:
        return [dict(labels) for found, labels in self.samples() if found == f"provisioner_{name}"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_every_series_is_in_the_table_with_its_labels_and_its_kind(site: Site) -> None:
    site.gauge()
    site.turn()
    known = {metric.name: metric for metric in TABLE}
    for family in text_string_to_metric_families(site.page.text().decode()):
        metric = known[f"{family.name}_total" if family.type == COUNTER else family.name]
        assert family.type == metric.kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


def test_nodes_are_shown_with_what_they_are_for_and_the_phase_that_they_are_in(site: Site) -> None:
    assert site.value("node_phase", node=ONE, phase="ready") == 1
    assert site.value("node_phase", node=TWO, phase="absent") == 1
    assert len(site.labels("node_phase")) == 2
    assert (site.value("node_ready", node=ONE), site.value("node_ready", node=TWO)) == (1, 0)
    assert site.value("node_idle_after_seconds", node=ONE) == 1200
    info = {"vmid": "5001", "hypervisor": "pve1", "engine": "llama.cpp", "mode": "small", "role": "node"}
    assert site.value("node_info", node=ONE, **info) == 1


def test_guest_card_and_engine_are_told_in_base_units(site: Site) -> None:
    site.world.guests.gpu_percent[0] = 37
    site.gauge()
    assert site.value("gpu_power_watts", node=ONE, gpu="0") == 26.5
    assert site.value("gpu_utilization_ratio", node=ONE, gpu="0") == 0.37
    assert site.value("gpu_memory_bytes", node=ONE, gpu="0") == 24 * GIB
    assert site.value("guest_disk_free_bytes", node=ONE, mounted_at="/") == 6 * GIB
    assert site.value("engine_requests_running", node=ONE) == 0
    assert (site.value("engine_on_cpu", node=ONE), site.value("guest_blind", node=ONE)) == (0, 0)


def test_a_guest_that_hangs_delays_nothing_and_shows_nothing_old(site: Site) -> None:
    site.gauge()
    site.world.guests.hangs = True
    site.world.clock.advance(61.0)
    assert site.labels("gpu_power_watts") == []
    site.gauge()
    assert site.value("guest_blind", node=ONE) == 1
    assert site.value("node_ready", node=ONE) == 1


def test_requests_are_counted_and_spread(site: Site) -> None:
    entry = LedgerEntry(
        0.0, "n8n", "/v1/x", "tiny", Outcome.ANSWERED, 200, 0.3, ONE, woke=True, waited_seconds=12.0, tokens_out=9
    )
    site.requests.add(entry)
    site.requests.add(replace(entry, outcome=Outcome.FAILED, node=""))
    assert site.value("requests_total", model="tiny", node=ONE, outcome="answered") == 1
    assert site.value("requests_total", model="tiny", node="", outcome="failed") == 1
    assert site.value("request_seconds_bucket", node=ONE, le="0.25") == 0
    assert site.value("request_seconds_bucket", node=ONE, le="0.5") == 1
    assert site.value("request_held_seconds_sum") == 24.0
    assert site.value("tokens_total", node=ONE, model="tiny", direction="out") == 9


def test_wakes_begin_at_nought_so_that_the_first_failure_is_a_rise(site: Site) -> None:
    assert site.value("node_wakes_total", node=TWO, result="failed") == 0
    site.tally.see(NewEntry(Kind.WAKE, TWO, "failed", "no GPU"))
    assert site.value("node_wakes_total", node=TWO, result="failed") == 1


def test_who_has_a_gpu_and_who_is_held_is_shown(site: Site) -> None:
    Arbitration(site.fleet, site.world).hold(site.fleet.nodes[ONE], by="anna", seconds=60.0)
    assert site.value("node_holds", node=ONE) == 1
    assert site.value("gpu_slot_lease", hypervisor="pve1", gpu="rtx3090", holder=ONE, phase="held") == 1
    assert site.value("gpu_slot_waiters", hypervisor="pve1", gpu="rtx3090") == 0


def test_quiet_time_is_none_below_zero_whatever_the_clock_does(site: Site) -> None:
    site.quiet[ONE] = site.world.clock.now() + 3600.0
    site.verdicts[ONE] = "sleep"
    assert site.value("node_quiet_seconds", node=ONE) == 0.0
    assert site.value("node_idle_verdict", node=ONE, verdict="sleep") == 1
    site.world.clock.jump(-86400.0)
    assert site.value("node_phase_seconds", node=ONE) == 0.0


def test_hours_energy_and_money_are_told_with_their_basis(site: Site) -> None:
    site.gauge()
    for _ in range(4):
        site.turn()
    assert site.value("node_awake_seconds_total", node=ONE) == 20.0
    assert site.value("node_measured_joules_total", node=ONE) == 26.5 * 20
    assert site.value("node_energy_used_joules", node=ONE, basis="measured") == pytest.approx(26.5 * 20)
    assert site.value("money_saved", currency="EUR") == 0.0


def test_an_orchestrator_that_cannot_be_told_is_shown(site: Site) -> None:
    name = OrchestratorName("prometheus")
    assert site.value("orchestrator_failing", orchestrator=name) == 0
    site.world.registrations.put(Registration(name, failing_since=1.0, reason="not writable", tries=1))
    assert site.value("orchestrator_failing", orchestrator=name) == 1


def test_loops_and_calls_are_summed(site: Site) -> None:
    site.loops.add(("look", "done"), 0.25)
    site.calls.add(("homelab", "GET", "answered"), 0.5)
    assert site.value("loop_last_seconds", loop="look") == 0.25
    assert site.value("proxmox_call_seconds_total", cluster="homelab", method="GET", result="answered") == 0.5


def test_a_state_file_that_cannot_be_read_costs_its_own_figures_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise InputError("cannot remember activity", subject="disk", next_step="mend it")

    monkeypatch.setattr(site.world.times, "total", broken)
    monkeypatch.setattr(site.world.leases, "read", broken)
    assert site.value("node_ready", node=ONE) == 1
    assert site.labels("node_awake_seconds_total") == []


def test_figures_of_the_process_itself_are_prometheus_clients() -> None:
    names = {family.name for family in text_string_to_metric_families(process_figures())}
    assert {"process_cpu_seconds", "process_open_fds", "python_info"} <= names
