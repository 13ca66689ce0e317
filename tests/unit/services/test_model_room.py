"""Room for models on a node: who is asked to delete, what is told, and what is left alone."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import pytest

from provisioner.adapters.files.shipped import shipped_folder
from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.mode import ModeSpec, Pull
from provisioner.domain.model_keeping import ModelKeeping
from provisioner.domain.names import EngineName, ModeName
from provisioner.domain.quantities import GIB
from provisioner.engines.base import PullFailed
from provisioner.engines.registry import ENGINES
from provisioner.errors import EngineError, RefusedError
from provisioner.ports.guest_shell import CommandResult
from provisioner.ports.web import Answer, NoAnswer
from provisioner.services.model_room import SPARE_BYTES, ModelRoom
from tests.fakes.clock import FakeClock

QUESTION = ("python3", "-c", "...", "size", "...")


@dataclass
class Asking:
    """Of the port Playbooks what asks for sizes."""

    def size_question(self, playbook: str, variables: Mapping[str, object]) -> tuple[str, ...]:
        assert playbook == "deploy-vllm"
        return QUESTION if variables else ()


@dataclass
class Guest:
    """The ports GuestShell and Web over one guest: a list of models, of which Ollama deletes its own."""

    models: list[dict[str, object]]
    is_up: bool = True
    loaded: tuple[str, ...] = ()
    deletes: bool = True
    coming: int = 0
    free: int = 100 * GIB
    log: list[str] = field(default_factory=list)

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        if command == QUESTION:
            self.log.append("size")
            return CommandResult(0, f"{self.coming}\n", "") if self.coming else CommandResult(1, "", "x\nno way out\n")
        if command[0] == "df":
            return CommandResult(0, "Avail\n123\n", "")
        act = command[3]
        self.log.append(" ".join(command[3:4] + command[5:]))
        if act == "delete":
            self.models = [each for each in self.models if each["name"] != command[6]]
        used = sum(int(str(each["bytes"])) for each in self.models)
        return CommandResult(0, json.dumps({"models": self.models, "used": used, "free": self.free}), "")

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


VARIABLES = {"engine_pulls": ["org/new"]}


def test_room_is_made_before_a_playbook_fetches(fleet: FleetSpec, node: NodeSpec) -> None:
    guest = Guest([stored("org/a", 3, "huggingface"), stored("org/b", 1, "huggingface")], coming=15 * GIB)
    found = scene(fleet, node, guest)
    found.room.make_for(Asking(), "deploy-vllm", VARIABLES)  # type: ignore[arg-type]
    assert [each.model.name for each in found.room.evicted] == ["org/a"]
    assert guest.log[:2] == ["size", "look"]


def test_what_the_jobs_leave_free_is_no_room(fleet: FleetSpec, node: NodeSpec) -> None:
    spec = importlib.util.spec_from_file_location("guest_job", shipped_folder("playbooks") / "files/guest_job.py")
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    assert job.SPARE_BYTES == SPARE_BYTES
    guest = Guest([stored("org/a", 3, "huggingface")], coming=5 * GIB, free=5 * GIB + SPARE_BYTES - 1)
    found = scene(fleet, node, guest)
    found.room.make_for(Asking(), "deploy-vllm", VARIABLES)  # type: ignore[arg-type]
    assert [each.model.name for each in found.room.evicted] == ["org/a"]


def test_too_little_room_is_refused_before_anything_comes_or_goes(fleet: FleetSpec, node: NodeSpec) -> None:
    guest = Guest([stored("org/a", 3, "huggingface"), stored("org/b", 1, "huggingface")], coming=31 * GIB)
    found = scene(fleet, node, guest)
    with pytest.raises(
        RefusedError, match=r"the 31\.00 GiB that are to come: 1\.00 GiB too much for model_budget 30GiB"
    ):
        found.room.make_for(Asking(), "deploy-vllm", VARIABLES)  # type: ignore[arg-type]
    guest.coming, guest.free = 25 * GIB, GIB
    with pytest.raises(RefusedError, match=r"4\.25 GiB too much for its disk") as caught:
        found.room.make_for(Asking(), "deploy-vllm", VARIABLES)  # type: ignore[arg-type]
    assert "larger model_disk" in caught.value.next_step
    assert len(guest.models) == 2


def test_a_size_that_nobody_tells_is_said_and_holds_nothing_up(fleet: FleetSpec, node: NodeSpec) -> None:
    found = scene(fleet, node, Guest([stored("org/a", 3, "huggingface")]))
    found.room.make_for(Asking(), "deploy-vllm", VARIABLES)  # type: ignore[arg-type]
    assert found.said == ["how much is to come cannot be told (no way out): room is made afterwards"]
    found.room.make_for(Asking(), "deploy-vllm", {})  # type: ignore[arg-type]
    assert found.guest.log == ["size"]


def test_what_may_have_to_come_back_stays(fleet: FleetSpec, node: NodeSpec) -> None:
    rare = ModeSpec(ModeName("rare"), EngineName("vllm"), "org/a", pull=Pull.DEMAND)
    fleet = replace(fleet, modes={**fleet.modes, rare.name: rare})
    guest = Guest([stored("org/a", 3, "huggingface"), stored("org/b", 1, "huggingface")], coming=15 * GIB)
    found = scene(fleet, node, guest)
    found.room.before = replace(found.room.node, modes=(*node.modes, rare.name), noted_mode=rare.name)
    found.room.node = replace(found.room.before, noted_mode=None)
    found.room.make_for(Asking(), "deploy-vllm", VARIABLES)  # type: ignore[arg-type]
    assert [each.model.name for each in found.room.evicted] == ["org/b"]
    guest.coming = 25 * GIB
    with pytest.raises(RefusedError, match=r"org/a .* serves it now") as caught:
        found.room.make_for(Asking(), "deploy-vllm", VARIABLES)  # type: ignore[arg-type]
    assert "another mode in between" in caught.value.next_step
