"""How often a change looks at its task, and how late it notices the end: alone, and among many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from provisioner.adapters.proxmox.changes import Change, Crowd
from provisioner.adapters.proxmox.session import ProxmoxSession
from tests.fakes.clock import FakeClock

UPID = "UPID:pve1:00001000:000F4240:65000000:qmstart:5001:provisioner@pve!fleet:"


@dataclass
class TaskOf:
    """A session that knows one task, which takes so many seconds from now."""

    seconds: float
    clock: FakeClock
    looks: int = 0

    def __post_init__(self) -> None:
        self.ends = self.clock.monotonic() + self.seconds

    def read(self, path: str, *, purpose: str | None = None) -> dict[str, str]:
        assert path.endswith("/status")
        self.looks += 1
        over = self.clock.monotonic() >= self.ends
        return {"status": "stopped", "exitstatus": "OK"} if over else {"status": "running"}


def waited(seconds: float, *, others: int = 0) -> tuple[float, int]:
    """Wait for a task among so many others; return how late its end was noticed, and after how many looks."""
    clock, crowd = FakeClock(), Crowd()
    for _ in range(others):
        crowd.__enter__()
    session = TaskOf(seconds, clock)
    change = Change(
        cast("ProxmoxSession", session), clock, "start VM 5001", lambda: UPID, lambda: True, crowd=crowd
    ).begin()
    change.wait()
    return clock.monotonic() - session.ends, session.looks


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0, 5.0, 20.0])
def test_the_end_of_a_task_is_noticed_within_a_sixth_of_its_length(seconds: float) -> None:
    late, looks = waited(seconds)
    assert late <= max(0.1, seconds / 6)
    assert looks <= 32


def test_a_task_of_hours_is_looked_at_every_other_second() -> None:
    late, looks = waited(3600.0)
    assert late <= 2.0
    assert looks < 1900


def test_a_task_that_is_over_at_once_costs_one_look() -> None:
    assert waited(0.0) == (0.05, 1)


def test_many_that_wait_look_less_often_each() -> None:
    _, alone = waited(2.0)
    late, among_many = waited(2.0, others=63)
    assert among_many < alone / 2
    assert late <= 1.0
