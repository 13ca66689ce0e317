"""Models within a budget, on the embedded Proxmox with simulated guests: hot ones at `up`, the others on demand."""

from __future__ import annotations

import json
import urllib.request

import pytest

from provisioner.errors import EngineError, RefusedError
from provisioner.services.events import Event
from tests.fleets import SUM
from tests.lab.support import NODE, Site

# Every model of the simulated Ollama takes 4.58 GiB; four fit this.
BUDGET = "19GiB"
ENGINE = f"  ollama: {{source: https://example.org/ollama-linux-amd64.tar.zst, sha256: {SUM}}}\n"
MODES = """\
  chat: {engine: ollama, models: ["llama3.1:8b", "mistral:7b"], pinned: ["llama3.1:8b"]}
  one: {engine: ollama, model: "phi3:mini", pull: demand}
  two: {engine: ollama, model: "gemma2:2b", pull: demand}
  three: {engine: ollama, models: ["qwen2.5:7b", "qwen2.5:14b"], pull: demand, pinned: ["qwen2.5:14b"]}
"""


def with_budget(text: str, budget: str = BUDGET) -> str:
    text = text.replace("engines:\n", f"engines:\n{ENGINE}").replace("modes:\n", f"modes:\n{MODES}", 1)
    text = text.replace("  disk: 3GiB", f"  disk: 3GiB\n  model_disk: 30GiB\n  model_budget: {budget}")
    return text.replace("modes: [small]", "modes: [chat, one, two, three]")


def stored(url: str) -> set[str]:
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/api/tags", timeout=5) as answer:
        return {model["name"] for model in json.load(answer)["models"]}


def test_hot_models_are_there_from_the_start_and_rare_ones_come_and_go_on_demand(site: Site) -> None:
    fleet = site.fleet(with_budget)
    assert "models take at most 19GiB" in str(fleet.plan(NODE))
    url = fleet.up(NODE).endpoint.url
    # What a mode pins is hot, whenever the rest of it is fetched.
    hot = {"llama3.1:8b", "mistral:7b", "qwen2.5:14b"}
    assert stored(url) == hot
    fleet.mode(NODE, "one", force=True)
    assert stored(url) == {*hot, "phi3:mini"}
    seen: list[Event] = []
    fleet.mode(NODE, "two", on_event=seen.append, force=True)
    assert stored(url) == {*hot, "gemma2:2b"}
    told = [event.detail for event in seen if "evicting" in event.detail]
    assert told[0].startswith("evicting model phi3:mini (4.58 GiB, last used ")
    fleet.mode(NODE, "chat", force=True)
    # Asked for again, it is fetched again.
    fleet.mode(NODE, "one", force=True)
    assert stored(url) == {*hot, "phi3:mini"}


def test_hot_models_that_are_more_than_the_budget_are_refused_and_none_is_lost(site: Site) -> None:
    fleet = site.fleet(with_budget)
    url = fleet.up(NODE).endpoint.url
    before = stored(url)
    with pytest.raises(RefusedError) as caught:
        site.fleet(lambda text: text.replace(f"model_budget: {BUDGET}", "model_budget: 9GiB")).up(NODE)
    assert "4.75 GiB too much for model_budget 9GiB" in caught.value.summary
    assert 'llama3.1:8b (4.58 GiB): pinned by mode "chat"' in caught.value.summary
    assert "pull: demand" in caught.value.next_step
    assert stored(url) == before


def failed(site: Site, model: str) -> EngineError:
    with pytest.raises(EngineError) as caught:
        site.fleet(lambda text: with_budget(text).replace("mistral:7b", model)).up(NODE)
    return caught.value


def test_why_up_cannot_fetch_a_model_is_named(site: Site) -> None:
    error = failed(site, "nobody/model:1b")
    assert (error.diagnosis, error.retryable) == ("model_missing", False)
    assert "as its library has it" in error.next_step


def test_of_a_pull_without_a_known_cause_the_engines_journal_is_asked(site: Site) -> None:
    error = failed(site, "torn/model:1b")
    assert "unexpected EOF" in error.summary
    assert "its log ends" in error.summary
    assert error.retryable
