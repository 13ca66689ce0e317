"""What was measured of a node, and when: the memory that later looks are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.domain.names import ModeName, NodeName

PROBE = "probe"
"""One token: seconds until it came."""
WAKE = "wake"
"""A node that was off: seconds until its model answered."""


@dataclass(frozen=True, slots=True)
class MeasuredThing:
    """What a measurement is of: only those of the same thing are compared.

    `setup` is a digest of all that makes figures incomparable: engine, model,
    context, GPUs, cores. `kind` is ``probe``, ``wake`` or ``bench:STREAMS``.
    """

    node: NodeName
    mode: ModeName
    setup: str
    kind: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures by name, taken at `at` (UNIX seconds)."""

    thing: MeasuredThing
    at: float
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reply:
    """One streamed reply, by its tokens' times: clock readings in seconds.

    `tokens` is how many came, as the engine counts them where it says so. A
    reply that was cut off has not `ended`.
    """

    asked_at: float
    times: tuple[float, ...]
    tokens: float
    ended: bool = True


@dataclass(frozen=True, slots=True)
class LevelFigures:
    """What an engine does for so many streams at once.

    Times are seconds. `rate` is one stream's tokens per second after its first
    token, `total_rate` that of all streams together.
    """

    streams: int
    replies: int
    tokens: float
    seconds: float
    first_token_p50: float
    first_token_p95: float
    rate_p50: float
    rate_p5: float
    total_rate: float

    def as_dict(self) -> dict[str, float]:
        """Return plain values, for ``--json`` and for keeping."""
        return {
            "streams": self.streams,
            "replies": self.replies,
            "tokens": round(self.tokens),
            "seconds": round(self.seconds, 3),
            "first_token_p50_seconds": round(self.first_token_p50, 4),
            "first_token_p95_seconds": round(self.first_token_p95, 4),
            "tokens_per_second_p50": round(self.rate_p50, 2),
            "tokens_per_second_p5": round(self.rate_p5, 2),
            "tokens_per_second_total": round(self.total_rate, 2),
        }
