"""Fixtures that several folders use."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

from provisioner.domain.fleet import FleetSpec, NodeSpec
from provisioner.domain.names import NodeName
from tests.fakes.world import FakeWorld
from tests.fleets import fleet_from

# Correctness, not speed, is what these tests are about: a busy machine must not fail one.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# A shell starts what it puts in the background with Ctrl-C ignored, and whatever that starts inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


def _stage(report: pytest.TestReport) -> str:
    return "real guests" if "qemu" in report.keywords else report.nodeid.split("/")[1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long each stage took: unit, contract, lab, real guests."""
    reports = [
        report
        for outcome in ("passed", "failed", "error", "skipped", "")
        for report in terminalreporter.stats.get(outcome, [])
        if isinstance(report, pytest.TestReport)
    ]
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for report in reports:
        seconds[_stage(report)] += report.duration  # type: ignore[assignment]
        tests[_stage(report)] += report.when == "call"
    terminalreporter.section("seconds per stage")
    for stage, total in seconds.items():
        terminalreporter.line(f"{stage:12} {tests[stage]:5} tests {total:8.1f} s")
