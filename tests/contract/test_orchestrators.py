"""What every orchestrator's description must hold, one row per orchestrator, on a stand-in that keeps state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.domain.names import NodeName
from provisioner.domain.orchestrator import OrchestratorName
from provisioner.errors import OrchestratorError
from provisioner.orchestrators.base import Orchestrator
from provisioner.orchestrators.registry import ORCHESTRATORS
from provisioner.services.registering import Registering
from tests.fakes import n8n, open_webui
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

Away = Callable[[], None]


def _n8n(world: FakeWorld) -> tuple[str, dict[str, str], Away, Callable[[], int]]:
    """Put a stand-in into a world; return its entry in the fleet file, our secrets, its end, and how often it wrote."""
    stand_in = n8n.FakeN8n(world.clock)
    world.web = stand_in  # type: ignore[assignment]
    entry = f"n8n: {{url: {n8n.URL}, api_key: env:KEY, webhook_key: env:HOOK}}"
    secrets = {"env:KEY": n8n.KEY, "env:HOOK": "webhook-0123456789"}
    return entry, secrets, lambda: setattr(stand_in, "is_down", True), lambda: stand_in.writes


def _open_webui(world: FakeWorld) -> tuple[str, dict[str, str], Away, Callable[[], int]]:
    stand_in = open_webui.FakeOpenWebUi()
    world.web = stand_in  # type: ignore[assignment]
    entry = f"open-webui: {{url: {open_webui.URL}, api_key: env:KEY}}"
    return entry, {"env:KEY": open_webui.KEY}, lambda: setattr(stand_in, "is_down", True), lambda: stand_in.writes


def _file(entry: str) -> Callable[[FakeWorld], tuple[str, dict[str, str], Away, Callable[[], int]]]:
    def put(world: FakeWorld) -> tuple[str, dict[str, str], Away, Callable[[], int]]:
        files = world.text_files
        return entry, {}, lambda: setattr(files, "trouble", "cannot write it: Permission denied"), lambda: files.writes

    return put


STAND_INS = {
    "n8n": _n8n,
    "prometheus": _file("prometheus: {targets_file: /etc/prometheus/targets/gpu-nodes.json}"),
    "open-webui": _open_webui,
    "litellm": _file("litellm: {config_file: /etc/litellm/provisioner.yaml}"),
}
# Which nodes exist is nothing to them: they know the gateway, and it knows the nodes.
KNOW_NO_NODES = {"open-webui", "litellm"}


def test_every_orchestrator_has_a_stand_in() -> None:
    assert set(STAND_INS) == set(ORCHESTRATORS)


@pytest.mark.parametrize("orchestrator", ORCHESTRATORS.values(), ids=ORCHESTRATORS.keys())
class TestEveryOrchestrator:
    def test_it_says_who_it_is_and_what_it_needs(self, orchestrator: Orchestrator) -> None:
        assert ORCHESTRATORS[orchestrator.name] is orchestrator
        assert orchestrator.title
        assert not set(orchestrator.traits.needs) & set(orchestrator.traits.takes)

    def test_it_learns_verifies_and_forgets_nodes(
        self, orchestrator: Orchestrator, tmp_path: Path, world: FakeWorld
    ) -> None:
        entry, world.secrets, _, writes = STAND_INS[orchestrator.name](world)
        fleet = fleet_from(tmp_path, f"{FLEET}orchestrators: {{{entry}}}\n")
        registering, nodes = Registering(fleet, world), tuple(fleet.nodes)
        (before,) = registering.verify(nodes)
        assert not before.is_complete
        assert writes() == 0
        (told,) = registering.register(nodes)
        assert (told.is_complete, told.changed) == (True, True)
        (after,) = registering.verify(nodes)
        assert after.is_complete
        (again,) = registering.register(nodes)
        assert (again.is_complete, again.changed) == (True, False)
        (fewer,) = registering.register(nodes[:1])
        assert (fewer.is_complete, fewer.changed) == (True, orchestrator.name not in KNOW_NO_NODES)
        (none,) = registering.register(())
        assert none.changed
        (nothing,) = registering.register(())
        assert not nothing.changed
        (gone,) = registering.verify(nodes)
        assert not gone.is_complete

    def test_its_absence_is_an_error_with_a_way_out_and_none_that_is_raised(
        self, orchestrator: Orchestrator, tmp_path: Path, world: FakeWorld
    ) -> None:
        entry, world.secrets, go_away, _ = STAND_INS[orchestrator.name](world)
        fleet = fleet_from(tmp_path, f"{FLEET}orchestrators: {{{entry}}}\n")
        go_away()
        (report,) = Registering(fleet, world).register([NodeName("llm-gpu-01")])
        assert isinstance(report.error, OrchestratorError)
        assert report.error.next_step
        assert world.registrations.of(OrchestratorName(orchestrator.name)).failing_since is not None
