"""Starts, stops and watches the systemd units of a node's engines, over one open shell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from provisioner.domain.fleet import NodeSpec
from provisioner.errors import EngineError, GuestError, RefusedError
from provisioner.ports.clock import Clock
from provisioner.ports.guest_shell import GuestShell
from provisioner.services.entering import told

# Longer than the units' own TimeoutStopSec: an engine that finishes its requests is let finish.
_STOP_SECONDS = 180.0
_ASK_SECONDS = 30.0
# The first time may be a port that the old engine had not let go of yet.
_MOST_DEATHS = 2
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class UnitState:
    """A unit as systemd sees it; `restarts` counts those that it made by itself."""

    is_there: bool
    is_active: bool
    has_failed: bool
    restarts: int


def unit_state(shell: GuestShell, node: NodeSpec, service: str) -> UnitState:
    """Ask systemd for a unit. Raises GuestError."""
    words = ["systemctl", "show", "--property=LoadState,ActiveState,NRestarts", service]
    with told(node):
        result = shell.run(words, seconds=_ASK_SECONDS, privileged=True)
    fields = dict(line.partition("=")[::2] for line in result.out.splitlines())
    if result.exit_code != 0 or "ActiveState" not in fields:
        raise _broken(node, words, result.err or result.out)
    restarts = fields.get("NRestarts", "0")
    return UnitState(
        is_there=fields.get("LoadState") == "loaded",
        is_active=fields["ActiveState"] == "active",
        has_failed=fields["ActiveState"] == "failed",
        restarts=int(restarts) if restarts.isdigit() else 0,
    )


def switch_units(shell: GuestShell, node: NodeSpec, *, off: Iterable[str], on: str) -> None:
    """Stop some units and start one, now and at every boot.

    Raises:
        RefusedError: the wanted unit was never laid down; nothing was stopped.
        GuestError: systemd refused.
    """
    if not unit_state(shell, node, on).is_there:
        raise RefusedError(
            f"cannot switch to it: {on} is not laid down in the guest",
            subject=node.subject,
            next_step=f"provisioner up {node.name} lays down all of its modes",
        )
    # One that was never laid down is no reason to stop here; systemctl would do none of the others.
    there = [service for service in off if service != on and unit_state(shell, node, service).is_there]
    if there:
        _systemctl(shell, node, ["disable", "--now", *there])
    _systemctl(shell, node, ["enable", "--now", on])


def _systemctl(shell: GuestShell, node: NodeSpec, words: Sequence[str]) -> None:
    with told(node):
        result = shell.run(["systemctl", *words], seconds=_STOP_SECONDS, privileged=True)
    if result.exit_code != 0:
        raise _broken(node, ["systemctl", *words], result.err or result.out)


def _broken(node: NodeSpec, words: Sequence[str], said: str) -> GuestError:
    return GuestError(
        f"cannot work on its engines: `{' '.join(words)}` says: {said.strip() or 'nothing'}",
        subject=node.subject,
        next_step=f"provisioner ssh {node.name} -- sudo systemctl --failed",
    )


class DeathWatch:
    """Ends the wait for an engine that dies again and again. Looks at most once a second."""

    def __init__(self, shell: GuestShell, node: NodeSpec, service: str, clock: Clock) -> None:
        self._shell = shell
        self._node = node
        self._service = service
        self._clock = clock
        self._restarts_before = unit_state(shell, node, service).restarts
        self._next_look = clock.monotonic() + _LOOK_SECONDS

    def look(self) -> None:
        """Raise EngineError when the unit has failed, or has died more than once since the watch began."""
        if self._clock.monotonic() < self._next_look:
            return
        state = unit_state(self._shell, self._node, self._service)
        self._next_look = self._clock.monotonic() + _LOOK_SECONDS
        deaths = state.restarts - self._restarts_before
        if state.has_failed or deaths >= _MOST_DEATHS:
            times = f"{deaths} times" if deaths else "and stays down"
            raise EngineError(
                f"cannot get an answer from it: {self._service} starts and dies ({times})",
                subject=self._node.subject,
                next_step=f"provisioner logs {self._node.name}",
            )
