"""A way to run commands inside a guest whose host key is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from provisioner.domain.fleet import NodeSpec


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command left behind."""

    exit_code: int
    out: str
    err: str


class GuestAway(Exception):
    """Nothing answers yet: the guest is booting, or the way to it is closed. Trying again is right."""


class GuestRefuses(Exception):
    """The guest answered and turned our key down. Right at the start of a first boot this passes."""


class GuestShell(Protocol):
    """An open way into one guest."""

    def run(self, command: Sequence[str], *, seconds: float, privileged: bool = False) -> CommandResult:
        """Run a program with arguments (no shell). Raises GuestAway when the connection breaks."""
        ...

    def lines(self, command: Sequence[str], *, privileged: bool = False) -> Iterator[str]:
        """Run a program that goes on, and yield its lines as they come; it ends with the iterator.

        Raises GuestAway when the connection breaks.
        """
        ...

    def __enter__(self) -> GuestShell: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class GuestShells(Protocol):
    """Opens shells."""

    def open(self, node: NodeSpec, host_key: str) -> GuestShell:
        """Log in once, without waiting for the guest.

        Raises:
            GuestAway: nobody answers.
            GuestRefuses: our key was turned down.
            HostKeyError: the guest showed another host key than `host_key`.
        """
        ...
