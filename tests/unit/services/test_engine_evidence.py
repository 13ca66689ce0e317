"""Which processes in a guest are an engine's: its unit's, its helpers', and its container's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from provisioner.domain.names import EngineName, ModeName
from provisioner.engines.base import Launch
from provisioner.engines.registry import ENGINES
from provisioner.planning.launches import EngineUnit
from provisioner.ports.guest_shell import CommandResult
from provisioner.services.engine_evidence import unit_evidence

RAY = Launch((), role="ray")


class Guest:
    """A guest whose units and containers hold processes; only root may ask Docker."""

    def __init__(self, units: dict[str, int], containers: dict[str, str]) -> None:
        self._units, self._containers = units, containers

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        if command[0] == "systemctl":
            is_there = command[-1] in self._units
            group = f"/system.slice/{command[-1]}" if is_there else ""
            state = "active" if is_there else "inactive"
            return CommandResult(0, f"ActiveState={state}\nNRestarts=0\nControlGroup={group}\n", "")
        if command[0] == "cat":
            names = [file.split("/")[-2] for file in command[1:]]
            return CommandResult(0, "".join(f"{self._units[name]}\n" for name in names), "")
        assert list(command[:2]) == ["docker", "top"]
        assert list(command[3:]) == ["-eo", "pid"]
        if not privileged:
            return CommandResult(1, "", "permission denied while trying to connect to the Docker daemon socket")
        if command[2] not in self._containers:
            return CommandResult(1, "", f"Error response from daemon: No such container: {command[2]}")
        return CommandResult(0, self._containers[command[2]], "")

    def lines(self, command: Sequence[str], *, privileged: bool = False) -> Iterator[str]:
        raise NotImplementedError

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep nothing open."""


def unit(engine: str, *beside: Launch) -> EngineUnit:
    return EngineUnit(ModeName("ml"), ENGINES[EngineName(engine)], Launch((), beside=beside), ())


@pytest.mark.parametrize(
    ("unit", "guest", "pids"),
    [
        (unit("vllm"), Guest({"llm-ml.service": 11}, {}), {11}),
        (unit("vllm", RAY), Guest({"llm-ml.service": 11, "llm-ml-ray.service": 12}, {}), {11, 12}),
        (unit("tgi"), Guest({"llm-ml.service": 11}, {"llm-ml": "PID\n21\n22\n"}), {21, 22}),
        (unit("tgi"), Guest({"llm-ml.service": 11}, {}), set()),
        (unit("vllm"), Guest({}, {}), set()),
    ],
    ids=["its own", "what Ray started", "in its container", "in a container that nobody knows", "not running"],
)
def test_whatever_computes_for_it_is_its_own(unit: EngineUnit, guest: Guest, pids: set[int]) -> None:
    seen = unit_evidence(guest, unit)
    assert seen is not None
    assert seen.pids == pids
