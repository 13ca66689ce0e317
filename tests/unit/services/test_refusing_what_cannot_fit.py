"""`plan` and `up` stop before anything is made for a model that cannot fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.names import NodeName
from provisioner.errors import ProvisionerError
from provisioner.services.provisioning import Provisioning
from tests.fakes.world import FakeWorld
from tests.fleets import FLEET, fleet_from

BIG = "Meta-Llama-3.1-70B-Instruct-Q4_K_M.gguf"


def test_nothing_is_made_for_a_model_that_cannot_fit(tmp_path: Path, world: FakeWorld) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("gemma-2-2b-it.gguf", BIG))
    node = fleet.nodes[NodeName("llm-gpu-01")]
    provisioning = Provisioning(fleet, world)
    plan = provisioning.plan(node)
    assert plan.refusal is not None
    assert plan.steps == ()
    assert f"{BIG} does not fit its GPUs: it needs 4" in plan.refusal.reason
    assert "provisioner fit" in plan.refusal.next_step
    with pytest.raises(ProvisionerError, match="does not fit its GPUs"):
        provisioning.apply(plan, lambda event: None)
    assert world.cluster.vms == {}


def test_a_model_that_fits_is_planned(tmp_path: Path, world: FakeWorld) -> None:
    fleet = fleet_from(tmp_path, FLEET.replace("gemma-2-2b-it.gguf", "gemma-2-2b-it-Q4_K_M.gguf"))
    plan = Provisioning(fleet, world).plan(fleet.nodes[NodeName("llm-gpu-01")])
    assert plan.refusal is None
    assert plan.has_changes
