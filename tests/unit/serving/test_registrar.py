"""How the service keeps orchestrators told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provisioner.domain.events import Kind
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.orchestrator import OrchestratorName
from provisioner.domain.serving import Phase
from provisioner.services.events import ignore
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.mode_notes import note_mode
from provisioner.services.provisioning import Provisioning
from provisioner.services.registering import Registering
from provisioner.serving.registrar import Registrar
from tests.fakes.hypervisors import refusal
from tests.fakes.n8n import KEY, URL, FakeN8n
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

ONE, N8N = NodeName("llm-gpu-01"), OrchestratorName("n8n")
WORDS = f"orchestrators: {{n8n: {{url: {URL}, api_key: env:KEY, webhook_key: env:HOOK}}}}\n"


class Site:
    """A fleet with one node, an n8n, and a service that tells it."""

    def __init__(self, folder: Path) -> None:
        self.fleet = fleet_from(folder, FLEET + WORDS)
        self.world = FakeWorld()
        self.engines = self.world.web
        self.n8n = FakeN8n(self.world.clock)
        self.world.secrets = {"env:KEY": KEY, "env:HOOK": "webhook-0123456789"}
        Provisioning(self.fleet, self.world).up(self.fleet.nodes[ONE], ignore)
        self.journal = Journal(self.world.events, self.world.clock)
        self.keeper = Keeper(self.fleet, self.world, self.journal)
        self.registrar = Registrar(self.fleet, self.world, self.keeper, self.journal)

    def tick(self, seconds: float = 0.0) -> None:
        self.world.clock.advance(seconds)
        self.keeper.look()
        self.world.web = self.n8n  # type: ignore[assignment]
        self.registrar.tick()
        self.world.web = self.engines

    def told(self) -> list[str]:
        return [each.phase for each in self.world.events.entries if each.kind is Kind.SERVICE]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_it_tells_of_the_nodes_that_exist_and_then_is_quiet(site: Site) -> None:
    site.tick()
    assert site.world.registrations.of(N8N).nodes == (ONE,)
    calls = len(site.n8n.calls)
    for _ in range(100):
        site.tick(1)
    assert len(site.n8n.calls) == calls
    assert site.told() == ["registered"]


def test_before_anybody_has_looked_nobody_is_told_that_there_are_no_nodes(site: Site) -> None:
    site.registrar.tick()
    assert site.n8n.calls == []


def test_while_it_is_away_it_is_asked_ever_less_often_and_told_when_it_is_back(site: Site) -> None:
    site.n8n.is_down = True
    for _ in range(600):
        site.tick(1)
    known = site.world.registrations.of(N8N)
    assert (known.failing_since is not None, known.tries) == (True, 7)
    assert site.told() == ["unregistered"]
    site.n8n.is_down = False
    for _ in range(600):
        site.tick(1)
    assert site.world.registrations.of(N8N).nodes == (ONE,)
    assert site.told() == ["unregistered", "registered"]


def test_what_somebody_deletes_there_comes_back_by_itself(site: Site) -> None:
    site.tick()
    site.n8n.workflows.clear()
    site.tick(601)
    assert len(site.n8n.workflows) == 4


def test_a_node_that_is_gone_is_withdrawn(site: Site) -> None:
    site.tick()
    Provisioning(site.fleet, site.world).destroy(site.fleet.nodes[ONE], ignore)
    site.tick(1)
    assert site.n8n.workflows == {}
    assert site.world.registrations.of(N8N).nodes == ()


def test_what_a_command_has_told_is_not_undone_by_an_older_look(site: Site) -> None:
    site.tick()
    Provisioning(site.fleet, site.world).destroy(site.fleet.nodes[ONE], ignore)
    site.world.web = site.n8n  # type: ignore[assignment]
    Registering(site.fleet, site.world).register(())
    writes = site.n8n.writes
    for _ in range(5):
        site.registrar.tick()
    assert (site.n8n.writes, site.n8n.workflows) == (writes, {})
    assert site.keeper.doubts.is_set()


def test_a_cluster_that_does_not_answer_takes_no_node_from_it(site: Site) -> None:
    site.tick()
    site.world.cluster.fails["snapshot"] = refusal("cannot reach it")
    site.world.guests.engine_dead = True
    site.tick(1)
    assert site.keeper.seen()[ONE].phase is Phase.UNKNOWN
    assert Registering(site.fleet, site.world).present() == (ONE,)
    assert len(site.n8n.workflows) == 4


def test_a_change_of_mode_is_told_at_once(tmp_path: Path) -> None:
    world = FakeWorld()
    targets = Path("/etc/prometheus/gpu.json")
    text = FLEET.replace("modes: [small], gateway", "modes: [small, large], gateway").replace(
        "engines:\n", "engines:\n  vllm: {version: 0.33.0}\n"
    )
    text = text.replace("modes:\n", "modes:\n  large: {engine: vllm, model: Qwen/Qwen2.5-7B-Instruct-AWQ}\n", 1)
    fleet = fleet_from(tmp_path, f"{text}orchestrators: {{prometheus: {{targets_file: {targets}}}}}\n")
    Provisioning(fleet, world).up(fleet.nodes[ONE], ignore)
    # Which engine answers, or whether any does, is nobody's business here.
    world.guests.engine_dead = True
    journal = Journal(world.events, world.clock)
    keeper = Keeper(fleet, world, journal)
    registrar = Registrar(fleet, world, keeper, journal)
    for mode in ("small", "large"):
        note_mode(fleet, world, fleet.in_mode(fleet.nodes[ONE], ModeName(mode)), waits=False)
        keeper.switched(ONE)
        keeper.look()
        registrar.tick()
        (target,) = json.loads(world.text_files.texts[targets])
        assert target["labels"]["mode"] == mode
        world.clock.advance(1)
