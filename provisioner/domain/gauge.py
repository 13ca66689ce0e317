"""What a guest that is awake showed at one look: figures for metrics, and the energy that is counted by them."""

from __future__ import annotations

from dataclasses import dataclass, field

from provisioner.domain.gpu_reading import GpuReading
from provisioner.domain.node_sample import GuestNumbers


@dataclass(frozen=True, slots=True)
class GaugedCheck:
    """A check of a card or its driver that is not well: its name, and whether it is a failure or a warning."""

    name: str
    is_failure: bool


@dataclass(frozen=True, slots=True)
class EngineNumbers:
    """An engine's own numbers; `tokens_made` is None where it does not count them."""

    running: int
    waiting: int
    tokens_made: float | None = None


@dataclass(frozen=True, slots=True)
class GuestGauge:
    """One look at one guest, at a moment of the monotonic clock. None is for what nobody told.

    `why_blind` says why nobody could look inside; empty when somebody did.
    """

    at: float
    numbers: GuestNumbers = field(default_factory=GuestNumbers)
    gpus: tuple[GpuReading, ...] = ()
    checks: tuple[GaugedCheck, ...] = ()
    is_on_cpu: bool | None = None
    """Its engine computes on the CPU though the node has a GPU."""
    engine: EngineNumbers | None = None
    why_blind: str = ""

    @property
    def watts(self) -> float | None:
        """What its cards draw together; None where one of them does not tell."""
        found = [each.power_watts for each in self.gpus]
        known = [each for each in found if each is not None]
        return sum(known) if known and len(known) == len(found) else None
