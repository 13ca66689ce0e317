"""The arbiter's memory: who has a GPU, who waits, whom a person keeps awake. One writer at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from provisioner.domain.lease import LeasePage


class LeaseTurn(Protocol):
    """One turn at the book: what stands in it, and what shall stand there instead."""

    page: LeasePage


class LeaseBook(Protocol):
    """Survives kill -9: a turn is written whole or not at all.

    Raises InputError when the book cannot be used.
    """

    @property
    def owner(self) -> str:
        """The name of this process; no other has or gets it."""
        ...

    def renounce(self) -> None:
        """Be another process from now on: what this one was at work on may be taken over, as that of a dead one."""
        ...

    def read(self) -> LeasePage:
        """Return what stands in the book, without waiting for a writer."""
        ...

    def turn(self) -> AbstractContextManager[LeaseTurn]:
        """Read and write as the only one; the page is kept at the end, and nothing at all if an error leaves.

        Short: no call to anybody outside may be made meanwhile.
        """
        ...

    def is_alive(self, owner: str) -> bool:
        """Say whether that process still runs; told by the kernel, not by a clock."""
        ...
