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
