"""Fixtures that several folders use."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName
from tests.fakes.world import FakeWorld
from tests.fleets import fleet_from


@pytest.fixture
def fleet(tmp_path: Path) -> FleetSpec:
    """The fleet of `tests.fleets`."""
    return fleet_from(tmp_path)


@pytest.fixture
def node(fleet: FleetSpec) -> NodeSpec:
    """Its first node."""
    return fleet.nodes[NodeName("llm-gpu-01")]


@pytest.fixture
def world() -> FakeWorld:
    """Everything outside, faked."""
    return FakeWorld()
