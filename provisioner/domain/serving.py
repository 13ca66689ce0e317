"""How far a node is from answering, as everybody who waits for it is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from provisioner.domain.names import ModeName, NodeName


class Phase(Enum):
    """The stages from off to answering and back. Unknown is one of its own, never dressed up as asleep."""

    ABSENT = "absent"
    """There is no VM, or it is not ours."""
    ASLEEP = "asleep"
    """Its VM is off, or its engine rests; a wake brings it."""
    QUEUED = "queued"
    """It is wanted and waits for its GPU."""
    STARTING = "starting"
    """Proxmox starts its VM."""
    BOOTING = "booting"
    """Its VM runs and nothing answers yet."""
    LOADING = "loading"
    """Its engine is up and loads the model."""
    READY = "ready"
    """Its model has answered."""
    DRAINING = "draining"
    """It goes to sleep as soon as its last request is done."""
    WITHHELD = "withheld"
    """Its GPU is given away, or somebody keeps it off: no wake brings it."""
    UNKNOWN = "unknown"
    """Nobody can tell right now."""

    @property
    def is_on_its_way(self) -> bool:
        """A wake is under way."""
        return self in (Phase.QUEUED, Phase.STARTING, Phase.BOOTING, Phase.LOADING)


@dataclass(frozen=True, slots=True)
class NodeNow:
    """One node as last seen.

    `mode` is what its VM's notes say, None where they say nothing. `since` is
    UNIX seconds. `seconds_left` estimates the time to ready from this node's
    own history; None where there is none.
    """

    node: NodeName
    phase: Phase
    reason: str
    mode: ModeName | None = None
    since: float = 0.0
    seconds_left: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return plain values for the API."""
        return {
            "node": self.node,
            "phase": self.phase.value,
            "reason": self.reason,
            "mode": self.mode,
            "since": self.since,
            "seconds_left": self.seconds_left,
        }
