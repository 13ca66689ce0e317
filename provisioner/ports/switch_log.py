"""What we remember of changes of mode: nobody else knows how long they took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from provisioner.domain.names import ModeName, NodeName


@dataclass(frozen=True, slots=True)
class SwitchRecord:
    """One change of mode that came to its end; `at` is UNIX seconds, `did` how it was done."""

    node: NodeName
    mode: ModeName
    previous: ModeName
    did: str
    at: float
    seconds: float


class SwitchLog(Protocol):
    """Changes of mode; survives kill -9."""

    def add(self, record: SwitchRecord) -> None:
        """Keep one."""
        ...

    def last(self, node: NodeName, mode: ModeName) -> SwitchRecord | None:
        """Return a node's latest change to a mode."""
        ...
