"""exo places one more instance whenever it is asked for a model: asked once, by the head alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName
from provisioner.engines.registry import ENGINES
from provisioner.ports.web import NO_HEADERS, Answer, Headers
from provisioner.services.proving import EngineProbe
from tests.contract.engine_answers import ANSWERS, NOT_LOADED
from tests.fakes.clock import FakeClock
from tests.fleets import FLEET, SUM, fleet_from

MODEL = "mlx-community/small"
TEXT = (
    FLEET.replace("engines:\n", f"engines:\n  exo: {{version: 1.0.71, source: exo.tar.gz, sha256: {SUM}}}\n")
    .replace("modes:\n", f"modes:\n  far: {{engine: exo, model: {MODEL}, nodes: [llm-gpu-01, llm-gpu-02]}}\n")
    .replace("gpus: [rtx3090], modes: [small]", "modes: [far]")
)
EXO = next(engine for name, engine in ENGINES.items() if name == "exo")
PLACED = ANSWERS[EXO.name].loaded


@dataclass
class Web:
    """The head of two exo nodes."""

    placed: int = 0
    asked: list[str] = field(default_factory=list)
    bodies: list[object] = field(default_factory=list)

    def get(self, url: str, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        self.asked.append(url)
        if url.endswith("/state"):
            return Answer(200, PLACED if self.placed else NOT_LOADED[EXO.name])
        return Answer(200, json.dumps({"data": [{"id": MODEL}]}))

    def send(self, method: str, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        assert url.endswith("/place_instance")
        self.placed += 1
        self.bodies.append(body)
        return Answer(200, "{}")

    def post_json(self, url: str, body: object, *, seconds: float, headers: Headers = NO_HEADERS) -> Answer:
        self.asked.append(url)
        return Answer(200, json.dumps({"choices": [{"message": {"content": "hello"}}]}))


def nodes(folder: Path) -> tuple[FleetSpec, NodeSpec, NodeSpec]:
    fleet = fleet_from(folder, TEXT)
    return fleet, fleet.nodes[NodeName("llm-gpu-01")], fleet.nodes[NodeName("llm-gpu-02")]


def probe(fleet: FleetSpec, node: NodeSpec, web: Web) -> EngineProbe:
    return EngineProbe(fleet, node, EXO, web, FakeClock())  # type: ignore[arg-type]


def test_the_head_places_it_over_all_of_them_and_never_twice(tmp_path: Path) -> None:
    fleet, head, _ = nodes(tmp_path)
    web = Web()
    for _ in range(2):
        assert probe(fleet, head, web).prove(seconds=10).endpoint.node == head.name
    assert web.bodies == [{"model_id": MODEL, "min_nodes": 2}]


def test_the_others_wait_for_what_the_head_placed(tmp_path: Path) -> None:
    fleet, head, other = nodes(tmp_path)
    web = Web(placed=1)
    proof = probe(fleet, other, web).prove(seconds=10)
    assert (proof.endpoint.node, web.bodies) == (head.name, [])
    assert {url.split("/")[2] for url in web.asked} == {f"{head.address.ip}:52415"}
