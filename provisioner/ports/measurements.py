"""Where measurements are kept from one run to the next."""

from __future__ import annotations

from typing import Protocol

from provisioner.domain.measurement import MeasuredThing, Measurement


class MeasurementLog(Protocol):
    """Figures of the past; survives kill -9."""

    def add(self, measurement: Measurement) -> None:
        """Keep one."""
        ...

    def last(self, thing: MeasuredThing, count: int) -> tuple[Measurement, ...]:
        """Return the newest of the same thing, newest first."""
        ...
