"""Room for models on a node: who is asked to delete, what is told, and what is left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.model_keeping import ModelKeeping
from provisioner.domain.quantities import GIB
from provisioner.engines.base import PullFailed
from provisioner.engines.registry import ENGINES
from provisioner.errors import EngineError
from provisioner.ports.guest_shell import CommandResult
from provisioner.ports.web import Answer, NoAnswer
from provisioner.services.model_room import ModelRoom
from tests.fakes.clock import FakeClock


@dataclass
class Guest:
    """The ports GuestShell and Web over one guest: a list of models, of which Ollama deletes its own."""

    models: list[dict[str, object]]
    is_up: bool = True
    loaded: tuple[str, ...] = ()
    deletes: bool = True
    log: list[str] = field(default_factory=list)

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        if command[0] == "df":
            return CommandResult(0, "Avail\n123\n", "")
        act = command[3]
        self.log.append(" ".join(command[3:4] + command[5:]))
        if act == "delete":
            self.models = [each for each in self.models if each["name"] != command[6]]
        used = sum(int(str(each["bytes"])) for each in self.models)
        return CommandResult(0, json.dumps({"models": self.models, "used": used, "free": 100 * GIB}), "")

    def get(self, url: str, *, seconds: float) -> Answer:
        if not self.is_up:
            raise NoAnswer("refused")
        assert url.endswith("/api/ps")
        return Answer(200, json.dumps({"models": [{"name": name, "size": 1, "size_vram": 1} for name in self.loaded]}))

    def send(self, method: str, url: str, body: dict[str, object], *, seconds: float) -> Answer:
        assert (method, url.rpartition("/")[2]) == ("DELETE", "delete")
        self.log.append(f"api {body['model']}")
        if not self.deletes:
            return Answer(500, "permission denied")
        self.models = [each for each in self.models if each["name"] != body["model"]]
        return Answer(200, "")


def stored(name: str, hours: float, store: str = "ollama") -> dict[str, object]:
    return {
        "store": store,
        "name": name,
        "bytes": 10 * GIB,
        "used_at": FakeClock().now() - hours * 3600,
        "in_use": False,
    }


@dataclass
class Scene:
    room: ModelRoom
    guest: Guest
    said: list[str]


def scene(fleet: FleetSpec, node: NodeSpec, guest: Guest, budget: int | None = 30) -> Scene:
    said: list[str] = []
    node = replace(node, models=ModelKeeping(budget_bytes=budget and budget * GIB))
    room = ModelRoom(
        fleet, node, ENGINES["ollama"], guest, FakeClock(), lambda: nullcontext(guest), said.append  # type: ignore[arg-type, index]
    )  # fmt: skip
    return Scene(room, guest, said)


def test_without_a_budget_nothing_goes_and_the_disk_alone_counts(fleet: FleetSpec, node: NodeSpec) -> None:
    found = scene(fleet, node, Guest([stored("a:1", 1)]), budget=None)
    assert found.room("new", 1 << 60) == 123
    found.room.keep_to_budget()
    assert (found.guest.log, found.said) == ([], [])


def test_each_store_is_emptied_in_its_own_way_and_told_before(fleet: FleetSpec, node: NodeSpec) -> None:
    guest = Guest([stored("a:1", 3), stored("org/name", 2, "huggingface"), stored("b:1", 1)])
    found = scene(fleet, node, guest)
    assert found.room("new", 15 * GIB) == 20 * GIB
    words = [f"evicting model {name} (10.00 GiB, last used {hours} h ago) from /var/lib/llm, to make room"
             for name, hours in (("a:1", 3), ("org/name", 2))]  # fmt: skip
    assert found.said == words
    assert guest.log == ["look", f"note {words[0]}", "api a:1", f"delete huggingface org/name {words[1]}"]
    assert [each.model.name for each in found.room.evicted] == ["a:1", "org/name"]


def test_a_loaded_model_stays_and_what_cannot_be_is_said(fleet: FleetSpec, node: NodeSpec) -> None:
    found = scene(fleet, node, Guest([stored("a:1", 3), stored("b:1", 1)], loaded=("a:1",)))
    with pytest.raises(PullFailed, match=r"5\.00 GiB too much for model_budget 30GiB; what stays: a:1 .* in use"):
        found.room("new", 25 * GIB)
    assert found.guest.log == ["look"]


def test_a_store_whose_engine_is_off_is_left_for_later(fleet: FleetSpec, node: NodeSpec) -> None:
    found = scene(fleet, node, Guest([stored("a:1", 3), stored("b:1", 1)], is_up=False), budget=15)
    found.room.keep_to_budget()
    assert found.guest.log == ["look"]
    assert "5.00 GiB too much for model_budget 15GiB" in found.room.left
    assert "only its engine may delete it" in found.room.left


def test_an_engine_that_does_not_delete_is_an_error(fleet: FleetSpec, node: NodeSpec) -> None:
    found = scene(fleet, node, Guest([stored("a:1", 3)], deletes=False))
    with pytest.raises(EngineError, match='take model "a:1" off its disk: HTTP 500 permission denied'):
        found.room("new", 25 * GIB)
    assert found.room.evicted == []
