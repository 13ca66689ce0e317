"""Which key the service shows to which engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.names import EngineName, NodeName
from provisioner.errors import InputError
from provisioner.serving.power import KeysOfFleet
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, SUM, fleet_from

ONE = NodeName("llm-gpu-01")
CHAT, SECRET = "/v1/chat/completions", "sk-very-secret"
TWO_ENGINES = (
    FLEET.replace("engines:\n", f"engines:\n  ollama: {{source: ollama.tar.zst, sha256: {SUM}}}\n")
    .replace("modes:\n", "modes:\n  chat: {engine: ollama, models: [llama3.1:8b]}\n")
    .replace("modes: [small], gateway", "modes: [small, chat], api_key: env:LLM_KEY, gateway")
)


@pytest.fixture
def world() -> FakeWorld:
    world = FakeWorld()
    world.secrets["env:LLM_KEY"] = SECRET
    return world


def test_of_two_engines_of_a_node_only_the_one_that_asks_is_shown_the_key(tmp_path: Path, world: FakeWorld) -> None:
    keys = KeysOfFleet(fleet_from(tmp_path, TWO_ENGINES), world)
    assert keys.headers(ONE, EngineName("llama.cpp"), CHAT) == {"Authorization": f"Bearer {SECRET}"}
    assert keys.headers(ONE, EngineName("ollama"), CHAT) == {}
    assert keys.headers(ONE, EngineName("ollama"), "/api/chat") == {}
    assert keys.headers(NodeName("llm-gpu-02"), EngineName("llama.cpp"), CHAT) == {}


def test_what_an_engine_leaves_open_is_asked_without_it(tmp_path: Path, world: FakeWorld) -> None:
    keys = KeysOfFleet(fleet_from(tmp_path, TWO_ENGINES), world)
    assert keys.headers(ONE, EngineName("llama.cpp"), "/health") == {}


def test_a_secret_that_nobody_asks_for_is_not_even_read(tmp_path: Path) -> None:
    text = TWO_ENGINES.replace("modes: [small, chat], api_key: env:LLM_KEY", "modes: [chat]")
    text = text.replace("defaults:\n", "defaults:\n  api_key: env:NOT_SET\n").replace(
        "modes: [small]}", "modes: [chat]}"
    )
    KeysOfFleet(fleet_from(tmp_path, text), FakeWorld())


def test_one_that_engines_would_take_for_two_is_refused_at_the_start(tmp_path: Path, world: FakeWorld) -> None:
    world.secrets["env:LLM_KEY"] = "one,two"
    with pytest.raises(InputError, match="comma or a semicolon") as caught:
        KeysOfFleet(fleet_from(tmp_path, TWO_ENGINES), world)
    assert "one,two" not in str(caught.value)
