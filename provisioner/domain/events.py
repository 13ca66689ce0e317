"""What happened in the fleet, as it is kept: one entry per thing that a person or program may want to read later."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum

from provisioner.domain.names import NodeName

Facts = dict[str, str | int | float | bool | None]
"""What an entry tells beside its words."""
FAILED_BY_GPU = "by_gpu"
"""The fact of a wake that failed because its card was not there, or not fit to compute."""


class Kind(Enum):
    """What an entry speaks of."""

    STEP = "step"
    """A step of work on a node."""
    WAKE = "wake"
    """A wake was asked for, joined or ended."""
    SLEEP = "sleep"
    MODE = "mode"
    HOLD = "hold"
    """A person's claim began or ended."""
    IDLE = "idle"
    """A verdict of an idle pass that differs from the one before."""
    STATE = "state"
    """A node is seen in another state than before."""
    REQUEST = "request"
    """Something about requests for models: a queue overflowed, an endpoint failed."""
    SERVICE = "service"
    """The control service itself: it began, drains, ended."""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """One thing that happened; the journal gives it a number and a time.

    `phase` says where something that lasts is: started, progress, done, failed. `by` is who asked for it: the name of a
    token, or of a part of the service; never a secret.
    """

    kind: Kind
    node: NodeName | None = None
    phase: str = ""
    detail: str = ""
    by: str = ""
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. `number` only grows, also over restarts; `at` is UNIX seconds."""

    number: int
    at: float
    kind: Kind
    node: NodeName | None
    phase: str
    detail: str
    by: str
    facts: Facts

    def as_dict(self) -> dict[str, object]:
        """Return plain values for ``--json`` and streams."""
        return asdict(self) | {"kind": self.kind.value, "at": round(self.at, 3)}


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which entries are looked for; what is empty matches all.

    `words` must all stand somewhere in an entry: in its kind, node, phase, detail or who asked; capitals do not count.
    `before` is a number: only older entries match.
    """

    words: tuple[str, ...] = ()
    kind: Kind | None = None
    node: str = ""
    before: int | None = None

    def matches(self, entry: Entry) -> bool:
        """Say whether an entry is looked for."""
        if self.kind is not None and entry.kind is not self.kind:
            return False
        if self.node and entry.node != self.node:
            return False
        if self.before is not None and entry.number >= self.before:
            return False
        text = "\n".join((entry.kind.value, entry.node or "", entry.phase, entry.detail, entry.by)).lower()
        return all(word.lower() in text for word in self.words)
