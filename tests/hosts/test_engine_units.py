"""Switching between units on real systemd, as the playbook lays them down: one runs, one dies, one was never there."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import pytest

from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.fleet import NodeSpec
from provisioner.errors import EngineError, RefusedError
from provisioner.ports.guest_shell import CommandResult
from provisioner.services.engine_units import DeathWatch, switch_units, unit_state
from provisioner.waiting import NotYet, Pace, wait_until
from tests.booted_guest import BootedGuest, stand_ins, why_not
from tests.booted_guest.guest import wait_for

pytestmark = [pytest.mark.timeout(900), pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

UNITS = ("one", "two", "dies")
BESIDE = "two-ray"


@dataclass
class RootShell:
    """The port GuestShell: commands run beside the guest's process 1."""

    guest: BootedGuest

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        assert privileged
        done: subprocess.CompletedProcess[str] = self.guest.run(shlex.join(command), check=False, seconds=seconds)
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def __enter__(self) -> RootShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedGuest]:
    shelf = tmp_path_factory.mktemp("shelf")
    archive = stand_ins.archive(shelf / "llama.tar.gz", {"llama-b1/llama-server": stand_ins.SERVER})
    launches: list[dict[str, object]] = [
        {
            "unit": unit,
            "description": unit,
            "argv": ["/bin/false"] if unit == "dies" else ["{folder}/llama-server", "--port", "8080", unit],
            "port": 8080,
            "conflicts": [each for each in (*UNITS, BESIDE) if not each.startswith(unit)],
            "needs": [BESIDE] if BESIDE.startswith(unit) else [],
        }
        for unit in UNITS
    ]
    launches += [
        {
            "unit": BESIDE,
            "description": "what two computes through",
            "argv": ["/bin/sh", "-c", "echo here > /tmp/meeting-place && exec sleep infinity"],
            "port": 8080,
            "conflicts": ["one", "dies"],
            "part_of": "two",
        }
    ]
    with BootedGuest(tmp_path_factory.mktemp("guest")) as guest:
        variables = {"engine_version": "b1", "engine_archives": [archive], "engine_launches": launches}
        guest.play("deploy-llama-cpp", {**variables, "engine_active": "one", "engine_files": []})
        yield guest


@pytest.fixture
def shell(guest: BootedGuest, node: NodeSpec) -> RootShell:
    shell = RootShell(guest)
    switch_units(shell, node, off=[service(unit) for unit in UNITS], on=service("one"))
    return shell


def service(unit: str) -> str:
    return f"llm-{unit}.service"


def enabled(guest: BootedGuest) -> str:
    return guest.run("cd /etc/systemd/system/multi-user.target.wants && ls | grep ^llm- || true").stdout.split("\n")[0]


def said(guest: BootedGuest) -> str:
    """Return what the stand-in tells of its start; nothing while nobody listens."""
    return guest.run("curl -sf --max-time 10 http://127.0.0.1:8080/", check=False).stdout


def test_the_wanted_one_runs_and_will_after_a_boot_and_no_other(shell: RootShell, node: NodeSpec) -> None:
    begun = time.monotonic()
    switch_units(shell, node, off=[service(unit) for unit in UNITS], on=service("two"))
    assert time.monotonic() - begun < 20
    states = {unit: unit_state(shell, node, service(unit)).is_active for unit in UNITS}
    assert states == {"one": False, "two": True, "dies": False}
    assert enabled(shell.guest) == service("two")
    wait_for(lambda: '"two"' in said(shell.guest), "the other one's answer")


def test_the_same_once_more_changes_nothing(shell: RootShell, node: NodeSpec) -> None:
    before = shell.guest.run(f"systemctl show -P MainPID {service('one')}").stdout
    switch_units(shell, node, off=[service(unit) for unit in UNITS], on=service("one"))
    assert shell.guest.run(f"systemctl show -P MainPID {service('one')}").stdout == before


def test_what_an_engine_computes_through_comes_and_goes_with_it(shell: RootShell, node: NodeSpec) -> None:
    assert not unit_state(shell, node, service(BESIDE)).is_active
    switch_units(shell, node, off=[service("one")], on=service("two"))
    assert unit_state(shell, node, service(BESIDE)).is_active
    pid = shell.guest.run(f"systemctl show -P MainPID {service('two')}").stdout.strip()
    wait_for(
        lambda: shell.guest.run(f"cat /proc/{pid}/root/tmp/meeting-place", check=False).stdout == "here\n", "its /tmp"
    )
    switch_units(shell, node, off=[service("two")], on=service("one"))
    assert not unit_state(shell, node, service(BESIDE)).is_active


def test_one_that_was_never_laid_down_stops_nothing(shell: RootShell, node: NodeSpec) -> None:
    with pytest.raises(RefusedError, match=r"llm-new\.service is not laid down"):
        switch_units(shell, node, off=[service("one")], on=service("new"))
    assert unit_state(shell, node, service("one")).is_active


def test_units_that_are_not_there_are_no_reason_to_stop_half_way(shell: RootShell, node: NodeSpec) -> None:
    switch_units(shell, node, off=[service("gone"), service("one")], on=service("two"))
    assert unit_state(shell, node, service("two")).is_active


def test_an_engine_that_starts_and_dies_is_noticed_in_seconds(shell: RootShell, node: NodeSpec) -> None:
    switch_units(shell, node, off=[service("one")], on=service("dies"))
    clock = SystemClock()
    watch = DeathWatch(shell, node, service("dies"), clock)

    def look() -> NotYet | None:
        watch.look()
        return NotYet("it has not died often enough")

    begun = time.monotonic()
    with pytest.raises(EngineError, match="starts and dies"):
        wait_until(look, clock=clock, seconds=60, pace=Pace(longest=0.2))
    assert time.monotonic() - begun < 30


def test_one_that_runs_is_never_taken_for_dead(shell: RootShell, node: NodeSpec) -> None:
    clock = SystemClock()
    watch = DeathWatch(shell, node, service("one"), clock)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        watch.look()
        clock.sleep(0.5)


def test_back_from_one_that_dies_to_the_one_before(shell: RootShell, node: NodeSpec) -> None:
    switch_units(shell, node, off=[service("one")], on=service("dies"))
    switch_units(shell, node, off=[service("dies")], on=service("one"))
    assert unit_state(shell, node, service("one")).is_active
    assert not unit_state(shell, node, service("dies")).is_active
    wait_for(lambda: '"one"' in said(shell.guest), "the first one's answer")
