"""Which models make room: every row is what is on the disk and what goes, or why nothing does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.domain.mode import ModeSpec, Pull
from provisioner.domain.model_keeping import ModelsSeen, ModelStore, StoredFiles
from provisioner.domain.names import EngineName, ModeName, NodeName
from provisioner.domain.quantities import GIB
from provisioner.planning.model_budget import hot_models, room_for, without
from tests.fleets import SUM, fleet_from

NOW = 1_000_000.0
HOUR = 3600.0


def model(name: str, gib: int, hours: float, **more: object) -> StoredFiles:
    found = StoredFiles(ModelStore.OLLAMA, name, gib * GIB, NOW - hours * HOUR)
    return replace(found, **more)  # type: ignore[arg-type]


OLD, OLDER, OLDEST = model("old", 10, 1), model("older", 20, 2), model("oldest:latest", 5, 3)
ALL = (OLD, OLDER, OLDEST)
ROWS = {
    "there is room": (ALL, 5, 40, {}, []),
    "the least recently used goes": (ALL, 6, 40, {}, ["oldest:latest"]),
    "as many as it takes, in order": (ALL, 20, 40, {}, ["oldest:latest", "older"]),
    "more than the budget already": (ALL, 0, 20, {}, ["oldest:latest", "older"]),
    "a kept one is passed over": (ALL, 20, 40, {"oldest": "pinned"}, ["older"]),
    "one in use is passed over": ((OLD, OLDER, replace(OLDEST, is_in_use=True)), 20, 40, {}, ["older"]),
    "a revision keeps its repository": ((model("org/name", 30, 5),), 0, 30, {"org/name@v1": "hot"}, []),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_least_recently_used_that_nothing_keeps_make_room(name: str) -> None:
    models, needed, budget, keep, gone = ROWS[name]
    used = sum(each.bytes for each in models)
    seen = ModelsSeen(models, used, 100 * GIB)
    room = room_for(needed * GIB, seen, budget_bytes=budget * GIB, keep=keep, unreachable=(), now=NOW)  # type: ignore[arg-type]
    assert [each.model.name for each in room.evictions] == gone
    assert room.short_bytes == 0
    left = used - sum(each.model.bytes for each in room.evictions)
    assert left + needed * GIB <= budget * GIB


def test_a_full_disk_counts_as_much_as_the_budget() -> None:
    seen = ModelsSeen(ALL, 35 * GIB, 2 * GIB)
    room = room_for(6 * GIB, seen, budget_bytes=100 * GIB, keep={}, unreachable=(), now=NOW)
    assert [str(each) for each in room.evictions] == ["oldest:latest (5.00 GiB, last used 3 h ago)"]
    assert room.free_bytes == 7 * GIB


def test_nothing_goes_in_vain() -> None:
    seen = ModelsSeen(ALL, 35 * GIB, 100 * GIB)
    keep = {"older": 'pinned by mode "chat"'}
    room = room_for(30 * GIB, seen, budget_bytes=40 * GIB, keep=keep, unreachable=(), now=NOW)
    assert room.evictions == ()
    assert room.short_bytes == 10 * GIB
    assert room.kept == ('older (20.00 GiB): pinned by mode "chat"',)


def test_what_only_an_engine_may_delete_stays_while_that_is_off() -> None:
    other = model("left.gguf", 10, 0, store=ModelStore.FILES)
    seen = ModelsSeen((*ALL, other), 45 * GIB, 100 * GIB)
    room = room_for(0, seen, budget_bytes=40 * GIB, keep={}, unreachable=[ModelStore.OLLAMA], now=NOW)
    assert [each.model.name for each in room.evictions] == ["left.gguf"]
    short = room_for(0, seen, budget_bytes=10 * GIB, keep={}, unreachable=[ModelStore.OLLAMA], now=NOW)
    assert short.waits_for_engine
    hot = {"old": "hot", "older": "hot"}
    assert not room_for(
        0, seen, budget_bytes=10 * GIB, keep=hot, unreachable=[ModelStore.OLLAMA], now=NOW
    ).waits_for_engine
    assert "older (20.00 GiB): only its engine may delete it, which does not run" in short.kept


def test_a_model_that_has_come_before_anybody_looked_is_not_counted_twice() -> None:
    seen = without(ModelsSeen(ALL, 35 * GIB, 10 * GIB), "oldest")
    assert (seen.models, seen.used_bytes, seen.free_bytes) == ((OLD, OLDER), 30 * GIB, 15 * GIB)


def test_hot_are_those_of_up_the_pinned_and_the_one_that_is_served(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path)
    node = fleet.nodes[NodeName("llm-gpu-01")]
    ollama, vllm = EngineName("ollama"), EngineName("vllm")
    modes = (
        ModeSpec(ModeName("a"), ollama, "a1", more_models=("a2",), pull=Pull.DEMAND),
        ModeSpec(ModeName("b"), ollama, "b1", more_models=("b2",), pinned=("b2",), pull=Pull.DEMAND),
        ModeSpec(ModeName("c"), vllm, "org/c1", tokenizer="org/words"),
        fleet.modes[ModeName("small")],
    )
    names = tuple(mode.name for mode in modes)
    fleet = replace(fleet, modes={mode.name: mode for mode in modes})
    hot = hot_models(fleet, replace(node, modes=names))
    assert set(hot) == {"a1", "b2", "org/c1", "org/words", f"{SUM[:12]}.gguf"}
    assert hot["a1"] == 'the node serves it now (mode "a")'
    assert hot["b2"] == 'pinned by mode "b"'
    assert set(hot_models(fleet, replace(node, modes=names, noted_mode=ModeName("b")))) >= {"b1", "b2"}
