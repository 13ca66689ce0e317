"""Several nodes brought into a mode that they serve together: all of them, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import MappingId, NodeName
from provisioner.errors import EngineError, ProvisionerError, RefusedError
from provisioner.services.events import Event, OnEvent, Phase, ignore
from provisioner.services.mode_switching import ModeSwitching
from provisioner.services.noted_modes import noted
from provisioner.services.provisioning import Provisioning
from provisioner.services.sleeping import Sleeping
from tests.fakes.hypervisors import refusal
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, SUM, fleet_from

TEXT = (
    FLEET.replace("engines:\n", f"engines:\n  exo: {{version: 1.0.71, source: exo.tar.gz, sha256: {SUM}}}\n")
    .replace("modes:\n", "modes:\n  far: {engine: exo, model: some/far, nodes: [llm-gpu-01, llm-gpu-02]}\n")
    .replace("modes: [small]", "modes: [small, far]")
    .replace("rtx3090: {mapping: rtx3090, vram: 24GiB}", "g1: {mapping: g1}\n      g2: {mapping: g2}")
    .replace("llm-gpu-01: {hypervisor: pve1, gpus: [rtx3090]", "llm-gpu-01: {hypervisor: pve1, gpus: [g1]")
    .replace("llm-gpu-02: {hypervisor: pve1, gpus: [rtx3090]", "llm-gpu-02: {hypervisor: pve1, gpus: [g2]")
)


class Pair:
    """Two nodes that run alone in mode "small", and may serve mode "far" together."""

    def __init__(self, folder: Path) -> None:
        self.fleet: FleetSpec = fleet_from(folder, TEXT)
        self.world = FakeWorld()
        self.head, self.other = (self.fleet.nodes[NodeName(name)] for name in ("llm-gpu-01", "llm-gpu-02"))
        for name in ("g1", "g2"):
            self.world.cluster.mapping_errors[MappingId(name)] = ()
            self.world.cluster.entries[MappingId(name)] = self.world.cluster.entries[MappingId("rtx3090")]
        for node in (self.head, self.other):
            Provisioning(self.fleet, self.world).up(node, ignore)

    def sleep(self, *nodes: NodeSpec) -> None:
        for node in nodes:
            Sleeping(self.fleet, self.world).sleep(node, ignore, force=True)

    def switch(self, on_event: OnEvent = ignore) -> object:
        return ModeSwitching(self.fleet, self.world).switch(self.head, "far", on_event)

    def modes(self) -> list[str]:
        return [noted(self.fleet, self.world.cluster, node)[0].mode for node in (self.head, self.other)]

    def refuse_note(self, number: int) -> None:
        """Have Proxmox refuse to write notes, the one of that number from now on."""
        cluster, left = self.world.cluster, [number]
        write = cluster.set_notes

        def refusing(*args: object, **more: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise refusal("cannot write the notes: no")
            write(*args, **more)  # type: ignore[arg-type]

        cluster.set_notes = refusing  # type: ignore[method-assign]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_nodes_that_are_off_are_noted_together(pair: Pair) -> None:
    pair.sleep(pair.head, pair.other)
    pair.switch()
    assert pair.modes() == ["far", "far"]


def test_one_that_somebody_works_on_keeps_all_as_they_are(pair: Pair) -> None:
    pair.sleep(pair.head, pair.other)
    with pair.world.locks.held(pair.other.name), pytest.raises(RefusedError, match="another provisioner works on it"):
        pair.switch()
    assert pair.modes() == ["small", "small"]
    assert pair.world.locks.taken == set()


def test_a_note_that_cannot_be_written_takes_the_others_back(pair: Pair) -> None:
    pair.sleep(pair.head, pair.other)
    pair.refuse_note(2)
    with pytest.raises(EngineError, match='cannot switch to mode "far": write the notes: no'):
        pair.switch()
    assert pair.modes() == ["small", "small"]


def test_nobody_else_works_on_them_until_the_last_has_answered(pair: Pair) -> None:
    pair.sleep(pair.other)
    seen: list[set[NodeName]] = []

    def watch(event: Event) -> None:
        if event.node == pair.other.name and event.step == "start":
            seen.append(set(pair.world.locks.taken))

    with pytest.raises(ProvisionerError):
        # The guests here know nothing of that engine.
        pair.switch(on_event=watch)
    assert seen
    assert all(taken == {pair.head.name, pair.other.name} for taken in seen)
    assert pair.world.locks.taken == set()
    assert pair.modes() == ["small", "small"]


def test_one_that_cannot_be_taken_back_does_not_keep_the_others(pair: Pair) -> None:
    pair.sleep(pair.other)

    def fail_next(event: Event) -> None:
        if event.step == "answer" and event.phase is Phase.FAILED and not pair.world.cluster.fails:
            pair.refuse_note(1)

    with pytest.raises(EngineError, match='llm-gpu-01 was in mode "small", and that could not be noted again'):
        pair.switch(on_event=fail_next)
    assert pair.modes() == ["far", "small"]
