"""The arbiter's memory in memory. Several books over one store are several processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from provisioner.domain.lease import LeasePage


@dataclass
class MemoryLeases:
    """What all processes share: the page, the one turn at it, and who has died."""

    page: LeasePage = field(default_factory=LeasePage)
    dead: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class MemoryTurn:
    """One turn at the book."""

    page: LeasePage


class MemoryLeaseBook:
    """The port `LeaseBook` of one process."""

    def __init__(self, shared: MemoryLeases | None = None, owner: str = "1") -> None:
        self.shared = shared or MemoryLeases()
        self.owner = owner

    def renounce(self) -> None:
        self.shared.dead.add(self.owner)
        self.owner += "'"

    def read(self) -> LeasePage:
        return self.shared.page

    @contextmanager
    def turn(self) -> Iterator[MemoryTurn]:
        with self.shared.lock:
            turn = MemoryTurn(self.shared.page)
            yield turn
            self.shared.page = turn.page

    def is_alive(self, owner: str) -> bool:
        return bool(owner) and owner not in self.shared.dead
