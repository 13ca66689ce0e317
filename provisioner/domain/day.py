"""A node's time as a person looks back on it: stretches without gaps, and moments at which something failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from provisioner.domain.serving import Phase


class Stretch(Enum):
    """What a node was for a while; the value is the word for it."""

    ABSENT = "absent"
    ASLEEP = "asleep"
    WAKING = "waking"
    """From the wish to the answer: queued, starting, booting, loading."""
    AWAKE = "awake"
    """Ready, or on its way to sleep."""
    SERVING = "serving"
    """Awake, and a request was with it."""
    WITHHELD = "withheld"
    UNKNOWN = "unknown"
    """Nobody could tell, or nobody looked."""

    @property
    def is_on(self) -> bool:
        """Its VM ran."""
        return self in (Stretch.WAKING, Stretch.AWAKE, Stretch.SERVING)


_OF_PHASE = {
    Phase.ABSENT: Stretch.ABSENT,
    Phase.ASLEEP: Stretch.ASLEEP,
    Phase.QUEUED: Stretch.WAKING,
    Phase.STARTING: Stretch.WAKING,
    Phase.BOOTING: Stretch.WAKING,
    Phase.LOADING: Stretch.WAKING,
    Phase.READY: Stretch.AWAKE,
    Phase.DRAINING: Stretch.AWAKE,
    Phase.WITHHELD: Stretch.WITHHELD,
    Phase.UNKNOWN: Stretch.UNKNOWN,
}


def stretch_of(phase: Phase) -> Stretch:
    """Return what a phase counts as."""
    return _OF_PHASE[phase]


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch, from and to in UNIX seconds."""

    what: Stretch
    begins: float
    ends: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ends - self.begins


@dataclass(frozen=True, slots=True)
class Failure:
    """Something failed at a moment (UNIX seconds), in the words of who told."""

    at: float
    words: str


@dataclass(frozen=True, slots=True)
class NodeDay:
    """One node over a period: `spans` follow each other from its beginning to its end."""

    spans: tuple[Span, ...]
    failures: tuple[Failure, ...] = ()

    def seconds(self, *what: Stretch) -> float:
        """Return how long it was one of these."""
        return sum(span.seconds for span in self.spans if span.what in what)


def joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return spans with neighbours of one kind made one, and empty ones left out."""
    found: list[Span] = []
    for span in spans:
        if span.ends <= span.begins:
            continue
        if found and found[-1].what is span.what and found[-1].ends == span.begins:
            found[-1] = Span(span.what, found[-1].begins, span.ends)
        else:
            found.append(span)
    return tuple(found)
