"""What the control loop remembers of nodes, and what it tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.fleet import FleetSpec
from provisioner.domain.names import ModeName, NodeName
from provisioner.domain.serving import Phase
from provisioner.domain.snapshot import Power
from provisioner.engines.base import JsonRequest
from provisioner.engines.llama_cpp import LlamaCpp
from provisioner.ports.web import NO_HEADERS, Answer, Headers
from provisioner.services.events import Event, ignore
from provisioner.services.events import Phase as StepPhase
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from tests.fakes.hypervisors import refusal
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

ONE, TWO = NodeName("llm-gpu-01"), NodeName("llm-gpu-02")


class Site:
    """A fleet whose first node exists and runs."""

    def __init__(self, folder: Path) -> None:
        self.fleet: FleetSpec = fleet_from(folder)
        self.world = FakeWorld()
        Provisioning(self.fleet, self.world).up(self.fleet.nodes[ONE], ignore)
        self.journal = Journal(self.world.events, self.world.clock)
        self.keeper = Keeper(self.fleet, self.world, self.journal)

    def phase(self, node: NodeName = ONE) -> Phase:
        return self.keeper.seen()[node].phase

    def told(self) -> list[tuple[NodeName | None, str]]:
        return [(each.node, each.phase) for each in self.world.events.entries if each.kind is Kind.STATE]

    def sleep(self) -> None:
        Sleeping(self.fleet, self.world).sleep(self.fleet.nodes[ONE], ignore, force=True)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_before_the_first_look_nothing_is_known(site: Site) -> None:
    assert {each.phase for each in site.keeper.seen().values()} == {Phase.UNKNOWN}


def test_a_look_costs_one_call_per_cluster_and_tells_what_changed(site: Site) -> None:
    calls = site.world.cluster.calls
    site.keeper.look()
    assert site.world.cluster.calls - calls == 1
    assert (site.phase(), site.phase(TWO)) == (Phase.READY, Phase.ABSENT)
    assert site.told() == [(ONE, "ready"), (TWO, "absent")]
    site.keeper.look()
    assert len(site.told()) == 2
    site.sleep()
    site.keeper.look()
    assert site.phase() is Phase.ASLEEP
    assert site.told()[2:] == [(ONE, "asleep")]


def test_what_is_seen_never_changes_under_its_reader(site: Site) -> None:
    site.keeper.look()
    before = site.keeper.seen()
    site.sleep()
    site.keeper.look()
    assert before[ONE].phase is Phase.READY


def test_an_engine_that_is_silent_once_passes_for_ready_and_twice_does_not(site: Site) -> None:
    site.keeper.look()
    site.world.guests.engine_dead = True
    site.keeper.look()
    assert site.phase() is Phase.READY
    assert site.keeper.doubts.is_set()
    site.keeper.look_at_doubted()
    assert site.phase() is not Phase.READY


def test_a_wake_under_way_speaks_for_its_node(site: Site) -> None:
    site.sleep()
    site.keeper.look()
    with site.keeper.at_work(ONE, Phase.QUEUED, "it is being woken"):
        assert site.phase() is Phase.QUEUED
        site.keeper.progress(Event(ONE, "start", StepPhase.STARTED))
        assert site.phase() is Phase.STARTING
        site.keeper.progress(Event(ONE, "answer", StepPhase.STARTED))
        site.keeper.look()
        assert site.phase() is Phase.BOOTING
        site.keeper.progress(Event(ONE, "answer", StepPhase.PROGRESS, "12 of 48 GiB"))
        assert (site.phase(), site.keeper.seen()[ONE].reason) == (Phase.LOADING, "12 of 48 GiB")
        site.keeper.found(ONE, Phase.READY, "its model has answered", "http://there")
    assert site.phase() is Phase.READY
    assert site.keeper.of(ONE).url == "http://there"


def test_a_node_whose_mode_is_being_changed_is_not_ready_until_what_it_is_for_is_known(site: Site) -> None:
    site.keeper.look()
    site.keeper.progress(Event(ONE, "switch", StepPhase.STARTED))
    site.keeper.look()
    site.keeper.progress(Event(ONE, "switch", StepPhase.DONE))
    assert (site.phase(), site.keeper.seen()[ONE].reason) == (Phase.LOADING, "its mode is being changed")
    site.keeper.switched(ONE)
    assert site.phase() is Phase.READY


def test_who_wakes_a_node_says_in_which_mode_it_answers(tmp_path: Path) -> None:
    text = FLEET.replace("modes: [small], gateway", "modes: [small, other], gateway")
    fleet = fleet_from(
        tmp_path, text.replace("modes:\n", "modes:\n  other: {engine: llama.cpp, model: gemma-2-2b-it.gguf}\n", 1)
    )
    world = FakeWorld()
    keeper = Keeper(fleet, world, Journal(world.events, world.clock))
    assert keeper.seen()[ONE].mode is None
    keeper.found(ONE, Phase.READY, "its model has answered", "http://there", ModeName("other"))
    assert keeper.seen()[ONE].mode == "other"


def test_how_long_a_wake_takes_is_told_from_this_nodes_own_history(site: Site) -> None:
    for seconds, started in ((40.0, True), (60.0, True), (0.2, False), (50.0, True)):
        facts: dict[str, str | int | float | bool | None] = {"seconds": seconds, "started": started}
        site.journal.add(NewEntry(Kind.WAKE, ONE, "done", facts=facts))
    with site.keeper.at_work(ONE, Phase.QUEUED, ""):
        assert site.keeper.seen()[ONE].seconds_left == 50.0
        site.world.clock.sleep(20.0)
        site.keeper.progress(Event(ONE, "start", StepPhase.STARTED))
        assert site.keeper.seen()[ONE].seconds_left == 30.0
    with site.keeper.at_work(TWO, Phase.QUEUED, ""):
        assert site.keeper.seen()[TWO].seconds_left is None


def test_a_wake_that_failed_is_followed_by_what_is_seen_then(site: Site) -> None:
    site.sleep()
    site.keeper.look()
    with pytest.raises(KeyError), site.keeper.at_work(ONE, Phase.QUEUED, "it is being woken"):
        raise KeyError
    site.world.clock.sleep(1)
    site.keeper.look()
    site.keeper.look()
    assert [phase for node, phase in site.told() if node == ONE] == ["asleep", "queued", "asleep"]


def test_a_shut_down_shows_as_draining_and_then_as_asleep(site: Site) -> None:
    site.keeper.look()
    phases: list[Phase] = []

    def tell(event: Event) -> None:
        site.keeper.progress(event)
        phases.append(site.phase())

    Sleeping(site.fleet, site.world).sleep(site.fleet.nodes[ONE], tell, force=True)
    assert phases == [Phase.DRAINING, Phase.ASLEEP]


def test_a_cluster_that_is_away_makes_nodes_unknown_whose_engines_are_silent(site: Site) -> None:
    site.keeper.look()
    site.world.cluster.fails["snapshot"] = refusal("cannot reach it")
    site.world.guests.engine_dead = True
    site.keeper.look()
    assert (site.phase(), site.keeper.seen()[ONE].reason) == (Phase.UNKNOWN, "cannot reach it")


def test_an_engine_that_answers_serves_on_while_its_cluster_is_away(site: Site) -> None:
    site.keeper.look()
    site.world.cluster.fails["snapshot"] = refusal("cannot reach it")
    site.keeper.look()
    assert (site.phase(), site.keeper.seen()[ONE].reason) == (Phase.READY, "llama.cpp is healthy; cannot reach it")
    assert site.keeper.of(ONE).url == f"http://{site.fleet.nodes[ONE].reach.address}:8080/v1"


def test_who_was_off_when_its_cluster_went_away_is_not_knocked_at(site: Site) -> None:
    site.sleep()
    site.keeper.look()
    site.world.cluster.fails["snapshot"] = refusal("cannot reach it")
    knocks = len(site.world.guests.asked)
    site.keeper.look()
    assert (site.phase(), len(site.world.guests.asked)) == (Phase.UNKNOWN, knocks)


def test_a_server_that_has_not_reported_makes_silent_nodes_unknown_and_not_asleep(site: Site) -> None:
    vm = site.world.cluster.vms[site.fleet.nodes[ONE].vmid]
    vm.seen = replace(vm.seen, power=Power.UNKNOWN)
    site.world.guests.engine_dead = True
    site.keeper.look()
    assert site.phase() is Phase.UNKNOWN


class Sleeper(LlamaCpp):
    """An engine that is put to sleep by our word, and woken by it alone; it says that it is healthy all the while."""

    resting_path = "/is_sleeping"

    def wake(self, models: tuple[str, ...]) -> tuple[JsonRequest, ...]:
        return (JsonRequest("/wake_up"),)


class Asked:
    """What the fake guests answer, but for one page of one engine."""

    def __init__(self, site: Site, page: str, answer: Answer) -> None:
        self._web, self._page, self._answer = site.world.web, page, answer

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        return self._answer if url.endswith(self._page) else self._web.get(url, seconds=seconds, headers=headers)

    def __getattr__(self, name: str) -> object:
        return getattr(self._web, name)


def test_an_engine_that_rests_is_asleep_however_healthy_it_says_it_is(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.world, "engines", dict(site.world.engines) | {LlamaCpp.name: Sleeper()})
    monkeypatch.setattr(site.world, "web", Asked(site, "/is_sleeping", Answer(200, '{"is_sleeping": true}')))
    site.keeper.look()
    assert site.phase() is Phase.ASLEEP
    monkeypatch.setattr(site.world, "web", Asked(site, "/is_sleeping", Answer(404, "")))
    site.keeper.look()
    assert site.phase() is Phase.READY


def test_one_engine_that_lets_nobody_in_does_not_hide_the_others(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.world, "web", Asked(site, "/health", Answer(401, "who are you")))
    site.keeper.look()
    assert (site.phase(), site.phase(TWO)) == (Phase.UNKNOWN, Phase.ABSENT)
    assert "HTTP 401" in site.keeper.seen()[ONE].reason
