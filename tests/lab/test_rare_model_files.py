"""Models of engines without a store of their own that come when a mode is first wanted, on simulated guests."""

from __future__ import annotations

import pytest

from provisioner.domain.actions import RunPlaybook
from provisioner.errors import RefusedError
from provisioner.fleet import Fleet
from provisioner.services.events import Event, Phase
from tests.fleets import SUM
from tests.lab.support import NODE, Site

MODES = """\
  ml: {engine: vllm, model: some/model}
  rare: {engine: vllm, model: rarely/used, pull: demand}
  file: {engine: llama.cpp, model: other.gguf, pull: demand}
"""


def with_rare(text: str) -> str:
    text = text.replace("engines:\n", "engines:\n  vllm: {version: 0.33.0}\n").replace(
        "modes:\n", f"modes:\n{MODES}", 1
    )
    text = text.replace(
        "models:\n", f"models:\n  other.gguf: {{source: https://example.org/o.gguf, sha256: {SUM}}}\n", 1
    )
    return text.replace("modes: [small]", "modes: [ml, rare, file]")


@pytest.fixture
def fleet(site: Site) -> Fleet:
    fleet = site.fleet(with_rare)
    fleet.up(NODE)
    return fleet


def switched(fleet: Fleet, mode: str) -> list[str]:
    """Return the steps of a switch."""
    seen: list[Event] = []
    fleet.mode(NODE, mode, on_event=seen.append)
    return [event.step for event in seen if event.phase is Phase.DONE]


def test_up_fetches_only_what_is_wanted_at_all_times(site: Site) -> None:
    plan = site.fleet(with_rare).plan(NODE)
    told = {
        step.name: (step.action.variables["engine_pulls"], step.action.variables["engine_files"])
        for step in plan.steps
        if isinstance(step.action, RunPlaybook)
    }
    assert told == {"configure llama.cpp": ([], []), "configure vllm": (["some/model"], [])}


@pytest.mark.parametrize("mode", ["rare", "file"])
def test_a_model_comes_when_its_mode_is_first_wanted_and_stays(fleet: Fleet, mode: str) -> None:
    assert switched(fleet, mode) == ["fetch", "switch"]
    assert switched(fleet, "ml") == ["switch"]
    assert switched(fleet, mode) == ["switch"]


def test_the_mode_that_a_node_is_in_has_its_model_from_up(fleet: Fleet) -> None:
    fleet.mode(NODE, "rare")
    assert fleet.up(NODE).endpoint.model == "rarely/used"


def test_what_serves_goes_on_while_it_comes(fleet: Fleet, site: Site) -> None:
    engine = site.lab.lab.backend._running[5001].engine  # type: ignore[attr-defined]
    seen: list[bool] = []

    def tell(event: Event) -> None:
        if (event.step, event.phase) == ("fetch", Phase.DONE):
            seen.append(site.lab.lab.backend._running[5001].engine is engine)  # type: ignore[attr-defined]

    fleet.mode(NODE, "rare", on_event=tell)
    assert seen == [True]


def test_for_a_busy_node_nothing_comes(fleet: Fleet, site: Site) -> None:
    site.lab.lab.backend._running[5001].engine._processing = 1  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match="1 requests running"):
        switched(fleet, "rare")


def test_a_mode_that_was_chosen_while_the_node_was_off_gets_its_model_as_it_wakes(fleet: Fleet) -> None:
    fleet.sleep(NODE)
    fleet.mode(NODE, "rare")
    seen: list[Event] = []
    assert fleet.wake(NODE, on_event=seen.append).model == "rarely/used"
    assert any("rarely/used comes now" in event.detail for event in seen)


def within(site: Site, budget: str) -> Fleet:
    """A fleet with a budget; every model takes 4.58 GiB, that of `ml` stays."""
    fleet = site.fleet(lambda text: with_rare(text).replace("  disk: 3GiB", f"  disk: 20GiB\n  model_budget: {budget}"))
    fleet.up(NODE)
    return fleet


def told(fleet: Fleet, mode: str) -> list[str]:
    seen: list[Event] = []
    fleet.mode(NODE, mode, on_event=seen.append)
    return [event.detail for event in seen]


def at(words: str, lines: list[str]) -> int:
    return next(place for place, line in enumerate(lines) if words in line)


def test_room_is_made_before_a_model_is_fetched(site: Site) -> None:
    fleet = within(site, "10GiB")
    told(fleet, "rare")
    told(fleet, "ml")
    lines = told(fleet, "file")
    assert at("evicting model rarely/used (4.58 GiB", lines) < at("Pretend to run deploy-llama-cpp", lines)


def test_a_model_that_the_budget_does_not_allow_never_comes_however_often_it_is_wanted(site: Site) -> None:
    fleet = within(site, "5GiB")
    for _ in range(2):
        with pytest.raises(
            RefusedError, match=r"the 4\.58 GiB that are to come: 4\.17 GiB too much for model_budget 5GiB"
        ):
            told(fleet, "rare")
    assert fleet.mode(NODE, "ml").did == "in place"


def test_one_that_came_without_a_look_at_the_budget_is_looked_at_before_it_serves(site: Site) -> None:
    # As after a run that was killed between the two, or where nobody told the size.
    told(within(site, "10GiB"), "rare")
    fleet = site.fleet(lambda text: text.replace("model_budget: 10GiB", "model_budget: 9GiB"))
    fleet.mode(NODE, "ml")
    with pytest.raises(RefusedError, match=r"0\.17 GiB too much for model_budget 9GiB"):
        told(fleet, "rare")


def test_what_serves_keeps_its_model_until_the_other_has_answered(site: Site) -> None:
    fleet = within(site, "10GiB")
    told(fleet, "rare")
    with pytest.raises(
        RefusedError, match=r'rarely/used \(4\.58 GiB\): the node serves it now \(mode "rare"\)'
    ) as caught:
        told(fleet, "file")
    assert "another mode in between" in caught.value.next_step
    # As it says: what no longer serves may go.
    told(fleet, "ml")
    told(fleet, "file")


def test_up_makes_room_for_a_model_that_is_hot_now_before_it_is_fetched(site: Site) -> None:
    told(within(site, "10GiB"), "rare")
    new = "  hot: {engine: vllm, model: newly/hot}\n"
    fleet = site.fleet(
        lambda text: text.replace("modes:\n", f"modes:\n{new}", 1).replace("[ml, rare", "[ml, hot, rare")
    )
    fleet.mode(NODE, "ml")
    seen: list[Event] = []
    fleet.up(NODE, on_event=seen.append)
    lines = [event.detail for event in seen]
    assert at("evicting model rarely/used", lines) < at("Pretend to run deploy-vllm", lines)
