"""What has to be fetched on demand takes its own time: loading it has all of the patience that the fleet file gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName
from provisioner.engines.registry import ENGINES
from provisioner.ports.web import Answer
from provisioner.services.events import ignore
from provisioner.services.proving import EngineProbe
from provisioner.services.provisioning import Provisioning
from provisioner.services.slot_taking import always
from provisioner.services.waking import _BootOverdue, _Start
from tests.fakes.clock import FakeClock
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, SUM, fleet_from

MODEL = "llama3.1:8b"
TEXT = (
    FLEET.replace("engines:\n", f"engines:\n  ollama: {{source: ollama.tar.zst, sha256: {SUM}}}\n")
    .replace("modes:\n", f"modes:\n  chat: {{engine: ollama, model: '{MODEL}', pull: demand}}\n")
    .replace("gpus: [rtx3090], modes: [small]", "modes: [chat]")
)
OLLAMA = next(engine for name, engine in ENGINES.items() if name == "ollama")


@dataclass
class Web:
    """An Ollama on a slow line that has no model yet."""

    clock: FakeClock
    there: list[dict[str, object]] = field(default_factory=list)
    patience: list[float] = field(default_factory=list)

    def get(self, url: str, *, seconds: float) -> Answer:
        return Answer(200, json.dumps({"version": "0.32.15", "models": self.there}))

    def lines(self, method: str, url: str, body: object, *, silence_seconds: float) -> Iterator[str]:
        self.clock.advance(4000)
        self.there.append({"name": MODEL, "size": 1, "size_vram": 1})
        yield json.dumps({"status": "success"})

    def send(self, method: str, url: str, body: object, *, seconds: float) -> Answer:
        self.patience.append(seconds)
        return Answer(200, "{}")

    def post_json(self, url: str, body: object, *, seconds: float) -> Answer:
        return Answer(200, json.dumps({"choices": [{"message": {"content": "hello"}}]}))


def test_a_long_fetch_leaves_all_the_time_for_loading(tmp_path: Path) -> None:
    fleet = fleet_from(tmp_path, TEXT)
    web = Web(FakeClock())
    EngineProbe(fleet, fleet.nodes[NodeName("llm-gpu-01")], OLLAMA, web, web.clock).prove(seconds=600)  # type: ignore[arg-type]
    assert web.patience == [600]


class _Ticket:
    """A start of a VM that has ended."""

    warnings = ()

    def is_done(self) -> bool:
        return True


class _Slots:
    def start_node(self, *_: object) -> _Ticket:
        return _Ticket()


def test_a_wake_that_had_to_fetch_gives_the_engine_all_its_time_afterwards(
    world: FakeWorld, fleet: FleetSpec, node: NodeSpec
) -> None:
    Provisioning(fleet, world).up(node, ignore)
    start = _Start(world.cluster, _Slots(), node, world.clock, 100, ignore, always)  # type: ignore[arg-type]
    start.begin(print)
    world.clock.advance(1)
    start.look()
    world.clock.advance(4000)
    start.count_anew()
    start.look()
    world.clock.advance(101)
    with pytest.raises(_BootOverdue):
        start.look()
