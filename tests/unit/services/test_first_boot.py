"""Letting a guest's only run of cloud-init finish, alone and in company."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from provisioner.domain.fleet import NodeSpec
from provisioner.errors import GuestError
from provisioner.ports.guest_shell import CommandResult
from provisioner.services.guest_access import GuestAccess
from tests.fakes.clock import FakeClock
from tests.fakes.world import FakeWorld

SWITCHED_OFF = "/etc/cloud/cloud-init.disabled"


@dataclass
class Guest:
    """A shell into a guest whose cloud-init ends as told; `another` run may come first and switch it off."""

    ends_as: str = "done"
    another: bool = False
    files: set[str] = field(default_factory=set)

    def run(
        self, command: Sequence[str], *, seconds: float, privileged: bool = False, stdin: str | None = None
    ) -> CommandResult:
        if command[0] == "test":
            return CommandResult(0 if command[2] in self.files else 1, "", "")
        if command[0] == "touch":
            assert privileged
            self.files.add(command[1])
            return CommandResult(0, "", "")
        assert command[:2] == ["cloud-init", "status"]
        if self.another:
            self.files.add(SWITCHED_OFF)
        return CommandResult(0, json.dumps({"status": self.ends_as, "errors": []}), "")

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def first_boot(guest: Guest, node: NodeSpec, world: FakeWorld) -> bool:
    return GuestAccess(world.shells[next(iter(world.shells))], FakeClock()).await_first_boot(guest, node, seconds=60)


def test_the_first_run_that_sees_it_finished_switches_it_off(node: NodeSpec, world: FakeWorld) -> None:
    guest = Guest()
    assert first_boot(guest, node, world)
    assert guest.files == {SWITCHED_OFF}
    assert not first_boot(guest, node, world)


def test_another_run_that_saw_it_finished_first_is_no_failure(node: NodeSpec, world: FakeWorld) -> None:
    assert not first_boot(Guest("disabled", another=True), node, world)


def test_cloud_init_that_never_ran_is_a_failure(node: NodeSpec, world: FakeWorld) -> None:
    with pytest.raises(GuestError, match="cloud-init ended as disabled"):
        first_boot(Guest("disabled"), node, world)
